//! Which kernel guests boot: the lean one where the library has it, the distribution's where not; what the lean one
//! offers programs and what it refuses them; and how small a machine it makes.

use outlast_e2e::file::flip_a_bit;
use outlast_e2e::{Lab, Setup, library, on_lab};
use outlast_wire::view::RunView;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// The parts of the shared library that images need to boot; the lean kernel is not among them.
const STOCK: [&str; 4] = ["images", "kernels", "vmm", "canary"];

fn base<'a>(more: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--image", "base"], more, &["--"], command].concat()
}

/// Gives the lab's own library a lean kernel of its own, to be damaged or removed there.
fn own_kernel(lab: &Lab) -> PathBuf {
    let shared = library::shared().join("lean/kernel");
    let from = fs::canonicalize(shared).expect("the lean kernel is built (outlast image build kernel)");
    let shelf = lab.places().library().lean();
    let stored = Path::new(".store").join(from.file_name().expect("a digest"));
    let to = shelf.join(&stored);
    fs::create_dir_all(&to).expect("the lab's library can be written");
    for entry in fs::read_dir(&from).expect("a kernel is a directory").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a kernel can be copied");
    }
    symlink(stored, shelf.join("kernel")).expect("the lab's library can be written");
    to
}

fn release(lab: &Lab) -> String {
    lab.outlast(&base(&[], &["uname", "-r"])).expect_code(0).stdout_text().trim().to_owned()
}

#[test]
fn guests_boot_the_lean_kernel_while_there_is_one_and_the_distributions_after() {
    Setup::new().library_with_only(&STOCK).run(|lab| {
        own_kernel(lab);
        let lean = release(lab);
        assert!(lean.ends_with("-outlast"), "{lean}");
        let shown = lab.outlast(&["show", &lab.only_workload().id]).expect_code(0).stdout_text();
        assert!(shown.contains(&format!("kernel {lean}")), "{shown}");
        let kernel = |check: &str| {
            let doctor = lab.doctor();
            doctor.checks.into_iter().find(|c| c.name == check).expect("doctor knows it").found
        };
        assert!(kernel("kernel").contains(&lean) && kernel("image base").contains(&lean));
        lab.outlast(&["image", "rm", "kernel"]).expect_code(0);
        // The template of the lean kernel is still there, and is none for this one.
        let stock = release(lab);
        assert!(stock.ends_with("cloud-amd64"), "{stock}");
        assert!(kernel("kernel").contains("not built") && kernel("image base").contains(&stock));
        lab.outlast(&["image", "rm", "kernel"]).expect_code(3).expect_stderr(&["image build kernel"]);
        lab.outlast(&["image", "verify", "kernel"]).expect_code(3).expect_stderr(&["image build kernel"]);
    });
}

#[test]
fn a_lean_kernel_in_use_is_not_removed() {
    Setup::new().library_with_only(&STOCK).run(|lab| {
        let stored = own_kernel(lab);
        let started = lab.outlast(&base(&["--detach"], &["sleep", "600"]));
        let id = started.expect_code(0).stdout_text();
        lab.until_state(id.trim(), "running", Duration::from_secs(120));
        lab.outlast(&["image", "rm", "kernel"]).expect_code(4).expect_stderr(&["kernel", "use"]);
        assert!(stored.join("vmlinux").exists());
        lab.outlast(&["kill", id.trim()]).expect_code(0);
        lab.until_over(id.trim(), Duration::from_secs(10));
        lab.expect_nothing_left();
        lab.outlast(&["image", "rm", "kernel"]).expect_code(0);
    });
}

#[test]
fn a_flipped_bit_in_the_lean_kernel_is_found_and_no_other_is_booted_in_its_place() {
    Setup::new().library_with_only(&STOCK).run(|lab| {
        let stored = own_kernel(lab);
        lab.outlast(&["image", "verify", "kernel"]).expect_code(0);
        flip_a_bit(&stored.join("vmlinux"));
        lab.outlast(&["image", "verify", "kernel"])
            .expect_code(1)
            .expect_stderr(&["vmlinux", "image build kernel"]);
        lab.outlast(&base(&[], &["true"])).expect_code(125).expect_stderr(&["vmlinux"]);
    });
}

#[test]
fn a_damaged_record_of_the_lean_kernel_is_named_blames_no_image_and_does_not_keep_it_from_being_removed() {
    Setup::new().library_with_only(&STOCK).run(|lab| {
        fs::write(own_kernel(lab).join("manifest.json"), "{").expect("the lab's library can be written");
        lab.outlast(&["image", "verify", "kernel"])
            .expect_code(1)
            .expect_stderr(&["kernel: damaged", "lean"]);
        lab.outlast(&["image", "verify", "base"]).expect_code(0);
        lab.outlast(&base(&[], &["true"])).expect_code(125).expect_stderr(&["manifest.json"]);
        lab.outlast(&["image", "rm", "kernel"]).expect_code(0);
        assert!(release(lab).ends_with("cloud-amd64"));
    });
}

#[test]
fn a_machine_of_64_mib_boots_and_runs_a_shell() {
    on_lab(|lab| {
        let script = "read -r _ total _ < /proc/meminfo; echo $total $(uname -r)";
        for how in [&[][..], &["--cold"]] {
            let arguments = [&["--memory", "16M"][..], how].concat();
            let output = lab.outlast(&base(&arguments, &["sh", "-c", script]));
            let text = output.expect_code(0).stdout_text();
            let (total, release) = text.trim().split_once(' ').expect("two words");
            assert!(release.ends_with("-outlast"), "build it with: outlast image build kernel ({release})");
            assert!(total.parse::<u64>().is_ok_and(|kib| kib <= 64 << 10), "{total} kB");
        }
        for workload in lab.workloads() {
            assert_eq!(lab.show(&workload.id).machine_memory, 64 * MIB);
        }
    });
}

#[test]
fn on_a_machine_of_64_mib_a_program_that_eats_its_memory_is_killed_and_the_guest_lives_to_say_so() {
    on_lab(|lab| {
        let output =
            lab.outlast(&base(&["--json", "--memory", "16M", "--timeout", "60s"], &["tail", "/dev/zero"]));
        let view: RunView = output.expect_code(137).json();
        assert_eq!(view.outcome.kind, "out_of_memory", "{view:?}");
    });
}

#[test]
fn less_memory_than_the_kernel_in_use_needs_is_refused_with_its_number() {
    on_lab(|lab| {
        lab.outlast(&base(&["--memory", "15M"], &["true"])).expect_code(125).expect_stderr(&["16M"]);
    });
    Setup::new().library_with_only(&STOCK).run(|lab| {
        lab.outlast(&base(&["--memory", "63M"], &["true"])).expect_code(125).expect_stderr(&["64M"]);
    });
}

/// System calls by number, so that no library stands between: what a kernel lacks answers ENOSYS (38).
const OFFERS: &str = r"
import ctypes, errno, os, pty, select, socket, threading, multiprocessing, tempfile
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    return errno.errorcode.get(ctypes.get_errno(), '?') if result < 0 else 'ok'
def there(name, what):
    try: what(); print(name, 'yes')
    except Exception as error: print(name, 'NO', error)
params = ctypes.create_string_buffer(120)
there('unix', lambda: socket.socketpair())
there('tcp', lambda: socket.create_server(('127.0.0.1', 0)))
there('tcp6', lambda: socket.create_server(('::1', 0), family=socket.AF_INET6))
there('pty', pty.openpty)
there('epoll', select.epoll)
there('memfd', lambda: os.memfd_create('x'))
there('eventfd', lambda: os.eventfd(0))
there('threads', lambda: threading.Thread(target=print, args=('',), kwargs={'end': ''}).start())
there('semaphores', multiprocessing.Semaphore)
there('shm', lambda: open('/dev/shm/x', 'w').write('x'))
there('xattr', lambda: os.listxattr('/'))
there('smaps', lambda: open('/proc/self/smaps').read())
there('io', lambda: open('/proc/self/io').read())
for name, number, arguments in [('io_uring', 425, (4, params)), ('aio', 206, (4, ctypes.byref(ctypes.c_ulong(0)))),
        ('inotify', 294, (0,)), ('signalfd', 289, (-1, params, 8, 0)), ('timerfd', 283, (1, 0)),
        ('membarrier', 324, (0, 0)), ('pidfd', 434, (os.getpid(), 0)), ('process_vm_readv', 310, (os.getpid(), 0, 0, 0, 0, 0)),
        ('landlock', 444, (0, 0, 1)), ('userns', 272, (0x10000000,)), ('mq', 240, (b'q', 0o102, 0o600, 0)),
        ('shmget', 29, (0, 4096, 0o1600)), ('rseq', 334, (0, 0, 0, 0))]:
    answer = call(number, *arguments)
    print(name, 'yes' if answer != 'ENOSYS' else 'NO')
for name, number in [('bpf', 321), ('userfaultfd', 323), ('kexec', 246), ('kexec_file', 320), ('init_module', 175),
        ('add_key', 248), ('modify_ldt', 154), ('iopl', 172), ('swapon', 167)]:
    answer = call(number, 0, 0, 0, 0, 0)
    print(name, 'shut' if answer in ('ENOSYS', 'EPERM') else 'OPEN ' + answer)
for path in ['/dev/mem', '/dev/kmem', '/dev/port', '/proc/kcore', '/proc/kallsyms', '/sys/kernel/debug/x', '/sys/kernel/tracing/x', '/dev/cpu/0/msr']:
    print(path, 'OPEN' if os.path.exists(path) else 'shut')
";

#[test]
fn the_lean_kernel_offers_what_programs_expect_and_keeps_dangerous_doors_shut() {
    on_lab(|lab| {
        let output = lab.python(OFFERS, &[]).run();
        let text = output.expect_code(0).stdout_text();
        assert!(text.lines().count() > 40, "{text}");
        let bad: Vec<_> = text.lines().filter(|line| line.contains(" NO") || line.contains("OPEN")).collect();
        assert!(bad.is_empty(), "{bad:?}");
    });
}

#[test]
fn the_guests_kernel_knows_the_mitigations_of_its_cpu() {
    on_lab(|lab| {
        let output = lab.outlast(&base(&[], &["sh", "-c", "cat /sys/devices/system/cpu/vulnerabilities/*"]));
        let text = output.expect_code(0).stdout_text();
        // What the CPU has no means against (speculative stores, in emulation) the kernel cannot mend.
        for known in ["usercopy/swapgs barriers", "Retpolines"] {
            assert!(text.contains(known), "{known}: {text}");
        }
    });
}

/// The archive is asked, so this needs the network that building images needs.
#[test]
fn long_building_the_lean_kernel_again_says_that_it_is_already_built() {
    on_lab(|lab| {
        let again = lab.call(&["image", "build", "kernel"]).within(Duration::from_secs(600)).run();
        again.expect_code(0).expect_stderr(&["kernel: already built"]);
    });
}

/// The machine type and the kernel were chosen by this number (decision 0009).
#[test]
fn long_two_hundred_boots_of_two_hundred() {
    const BOOTS: usize = 200;
    on_lab(|lab| {
        let mut ready = Vec::new();
        for boot in 0..BOOTS {
            let arguments = base(&["--json", "--cold"], &["uname", "-r"]);
            let output = lab.call(&arguments).within(Duration::from_secs(60)).run();
            let view: RunView = output.expect_code(0).json();
            assert_eq!(view.started_from.as_deref(), Some("boot"), "boot {boot}: {view:?}");
            assert!(view.stdout.ends_with("-outlast\n"), "boot {boot}: {view:?}");
            ready.push(view.timings_ms.ready.expect("it was ready"));
        }
        ready.sort_by(f64::total_cmp);
        let at = |share: usize| ready[(ready.len() * share / 100).min(ready.len() - 1)];
        eprintln!("{BOOTS} boots of {BOOTS}; ready after {:.0} ms (p50), {:.0} ms (p95)", at(50), at(95));
    });
}
