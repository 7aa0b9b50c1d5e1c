//! The ways out, one by one.

use super::sys::call;
use super::{Answer, EXECUTED, Targets, Way};
use libc::c_long;
use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

type Tried = io::Result<usize>;
type Act = fn(&Targets) -> Tried;

/// Refused in the jail, done outside of it.
const fn refused(name: &'static str, what: &'static str, act: Act) -> Way {
    Way { name, what, answer: Answer::Refused, works_outside: true, act }
}

/// Deadly in the jail, done outside of it.
const fn deadly(name: &'static str, what: &'static str, act: Act) -> Way {
    Way { name, what, answer: Answer::Killed, works_outside: true, act }
}

impl Way {
    /// Outside it may fail as well, or do harm: what the host has, or what it is asked for, decides.
    const fn not_outside(self) -> Self {
        Self { works_outside: false, ..self }
    }
}

const NOWHERE: usize = usize::MAX;
/// AT_FDCWD, -100, as an argument.
const HERE: usize = usize::MAX - 99;

/// RLIMIT_NOFILE.
const OPEN_FILES: usize = 7;
/// S_IFBLK.
const BLOCK_DEVICE: usize = 0o060_000;

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path has no zero byte")
}

fn at(text: &CString) -> usize {
    text.as_ptr().expose_provenance()
}

fn bits(flags: c_int) -> usize {
    usize::try_from(flags).expect("flags are not negative")
}

fn open(file: &Path, flags: c_int) -> Tried {
    let file = path(file);
    call(libc::SYS_openat, &[HERE, at(&file), bits(flags), 0o600])
}

/// One call with numbers only.
fn plain(number: c_long, arguments: &[usize]) -> Tried {
    call(number, arguments)
}

/// One call with a path in front.
fn on(number: c_long, file: &Path, rest: &[usize]) -> Tried {
    let file = path(file);
    let mut arguments = vec![at(&file)];
    arguments.extend(rest);
    call(number, &arguments)
}

fn socket(family: c_int, kind: c_int) -> Tried {
    call(libc::SYS_socket, &[bits(family), bits(kind), 0])
}

/// An address of a Unix socket: a path, or with a zero byte in front a name.
fn unix(number: c_long, name: &[u8]) -> Tried {
    let descriptor = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
    let mut address = vec![1_u8, 0];
    address.extend(name);
    call(number, &[descriptor, address.as_ptr().expose_provenance(), address.len()])
}

/// A process made in this way; there it ends at once.
fn child(number: c_long, arguments: &[usize]) -> Tried {
    let pid = call(number, arguments)?;
    if pid == 0 {
        let _ = call(libc::SYS_exit_group, &[0]);
    }
    Ok(pid)
}

fn execute(number: c_long, program: &Path) -> Tried {
    let (program, argument) = (path(program), CString::new(EXECUTED).expect("a word"));
    let arguments: [*const c_char; 3] = [program.as_ptr(), argument.as_ptr(), std::ptr::null()];
    let list = arguments.as_ptr().expose_provenance();
    if number == libc::SYS_execve {
        call(number, &[at(&program), list, 0])
    } else {
        call(number, &[HERE, at(&program), list, 0, 0])
    }
}

/// Any descriptor above the standard streams that leads to a directory is a way to all the others.
fn climb() -> Tried {
    let up = c"..".as_ptr().expose_provenance();
    let found = (0..1024).find_map(|number| {
        call(libc::SYS_openat, &[number, up, bits(libc::O_RDONLY | libc::O_DIRECTORY)]).ok()
    });
    found.ok_or_else(|| io::Error::from(io::ErrorKind::NotADirectory))
}

/// The descriptor that the device state came in, or any other, written to or given another mode.
fn change_descriptors() -> Tried {
    let found = (3..1024).find_map(|number| call(libc::SYS_fchmod, &[number, 0o666]).ok());
    found.ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))
}

fn map_writable(file: &Path) -> Tried {
    let descriptor = open(file, libc::O_RDONLY)?;
    let access = bits(libc::PROT_READ | libc::PROT_WRITE);
    call(libc::SYS_mmap, &[0, 4096, access, bits(libc::MAP_SHARED), descriptor, 0])
}

fn reopen_writable(file: &Path) -> Tried {
    let descriptor = open(file, libc::O_RDONLY)?;
    open(Path::new(&format!("/proc/self/fd/{descriptor}")), libc::O_RDWR)
}

fn many_threads() -> Tried {
    const MANY: usize = 200;
    let (keep, kept) = std::sync::mpsc::channel::<()>();
    let kept = std::sync::Arc::new(std::sync::Mutex::new(kept));
    let mut threads = Vec::new();
    let made = (0..MANY).try_for_each(|_| {
        let kept = std::sync::Arc::clone(&kept);
        // They wait until the sender is gone.
        let wait = move || drop(kept.lock().map(|kept| kept.recv()));
        threads.push(std::thread::Builder::new().stack_size(64 * 1024).spawn(wait)?);
        Ok(())
    });
    drop(keep);
    for thread in threads {
        // They do nothing that could panic.
        let _ = thread.join();
    }
    made.map(|()| MANY)
}

/// Slowly, for the group's limit counts from the moment in which the VMM is in it, and that may take a while; no
/// guest runs before.
fn eat_memory() -> usize {
    const PIECES: usize = 40;
    let mut eaten = Vec::new();
    for _ in 0..PIECES {
        eaten.push(vec![1_u8; 64 << 20]);
        std::thread::sleep(Duration::from_millis(100));
    }
    eaten.len()
}

fn same_limit() -> Tried {
    let mut limit = [0_u64; 2];
    let address = limit.as_mut_ptr().expose_provenance();
    call(libc::SYS_prlimit64, &[0, OPEN_FILES, 0, address])?;
    call(libc::SYS_prlimit64, &[0, OPEN_FILES, address, 0])
}

fn read_memory_of(pid: usize, number: c_long) -> Tried {
    let mut here = [0_u8; 16];
    let mine = [here.as_mut_ptr().expose_provenance(), here.len()];
    // Outside, where pid 0 stands for ourselves, what is read is the same buffer.
    let pid = if pid == 0 { usize::try_from(std::process::id()).expect("a pid") } else { pid };
    let list = mine.as_ptr().expose_provenance();
    call(number, &[pid, list, 1, list, 1, 0])
}

fn capabilities() -> Tried {
    // Version 3 (capset(2)), oneself; outside the same sets as one has.
    let header = [0x2008_0522_u32, 0];
    let mut data = [0_u32; 6];
    let addresses = [header.as_ptr().expose_provenance(), data.as_mut_ptr().expose_provenance()];
    let _ = call(libc::SYS_capget, &addresses);
    call(libc::SYS_capset, &addresses)
}

fn shared_memory() -> Tried {
    // Private, made, and marked to be removed at once: it would outlive this process.
    let segment = call(libc::SYS_shmget, &[0, 4096, 0o1600])?;
    call(libc::SYS_shmctl, &[segment, bits(libc::IPC_RMID), 0])
}

fn mount_and_unmount(kind: &str, target: &Path) -> Tried {
    let (kind, target) = (CString::new(kind).expect("a word"), path(target));
    call(libc::SYS_mount, &[at(&kind), at(&target), at(&kind), 0, 0])?;
    call(libc::SYS_umount2, &[at(&target), 0])
}

fn clone3() -> Tried {
    // struct clone_args: flags first, the signal of its end fifth (clone(2)).
    let mut arguments = [0_u64; 8];
    arguments[4] = u64::from(libc::SIGCHLD.unsigned_abs());
    child(libc::SYS_clone3, &[arguments.as_ptr().expose_provenance(), size_of_val(&arguments)])
}

/// Everything that is tried.
pub const WAYS: &[Way] = &[
    // Files: one's own, which are for reading, and everybody else's.
    refused("write-template", "open the template for writing", |t| open(&t.template, libc::O_RDWR)),
    refused("truncate-template", "truncate the template", |t| {
        open(&t.template, libc::O_WRONLY | libc::O_TRUNC)
    }),
    refused("map-template", "map the template shared and writable", |t| {
        let descriptor = open(&t.template, libc::O_RDWR)?;
        drop(map_writable(&t.template));
        Ok(descriptor)
    }),
    refused("map-read-only", "map a file that was opened for reading as writable", |t| {
        map_writable(&t.template)
    })
    .not_outside(),
    refused("reopen-template", "open a descriptor again for writing through /proc/self/fd", |t| {
        reopen_writable(&t.template)
    }),
    refused("chmod-template", "make the template writable", |t| on(libc::SYS_chmod, &t.template, &[0o666])),
    refused("own-template", "become the template's owner", |t| on(libc::SYS_chown, &t.template, &[0, 0])),
    refused("write-image", "open the image for writing", |t| open(&t.image, libc::O_RDWR)),
    refused("write-program", "open the VMM's program for writing", |t| {
        // Outside it is the one that runs, which nobody may write: a copy of its directory's is good enough.
        open(&t.program.with_extension("copy"), libc::O_RDWR | libc::O_CREAT)
    }),
    refused("make-file", "make a file", |t| open(&t.directory.join("made"), libc::O_RDWR | libc::O_CREAT)),
    refused("make-directory", "make a directory", |t| {
        on(libc::SYS_mkdir, &t.directory.join("new"), &[0o700])
    }),
    refused("make-link", "make a symbolic link", |t| {
        let (from, to) = (path(&t.image), path(&t.directory.join("link")));
        call(libc::SYS_symlink, &[at(&from), at(&to)])
    }),
    refused("make-hard-link", "make a hard link to the image", |t| {
        let (from, to) = (path(&t.image), path(&t.directory.join("hard-link")));
        call(libc::SYS_link, &[at(&from), at(&to)])
    }),
    refused("rename-image", "rename the image", |t| {
        let (from, to) = (path(&t.image), path(&t.image));
        call(libc::SYS_rename, &[at(&from), at(&to)])
    }),
    refused("unlink", "remove a file", |t| {
        let _ = open(&t.directory.join("removed"), libc::O_RDWR | libc::O_CREAT);
        on(libc::SYS_unlink, &t.directory.join("removed"), &[])
    }),
    refused("make-device", "make a device of the host's disk", |t| {
        on(libc::SYS_mknod, &t.directory.join("disk"), &[BLOCK_DEVICE | 0o600, 0x800])
    })
    .not_outside(),
    refused("see-store", "open the store", |t| open(&t.store, libc::O_RDONLY)),
    refused("see-library", "list the library", |t| open(&t.library, libc::O_RDONLY)),
    refused("see-runs", "list the run directories", |t| open(&t.run, libc::O_RDONLY)),
    refused("see-evidence", "read another run's evidence", |t| open(&t.evidence, libc::O_RDONLY)),
    refused("see-accounts", "read the host's accounts", |_| open(Path::new("/etc/passwd"), libc::O_RDONLY)),
    refused("see-proc", "read /proc of the runner", |_| open(Path::new("/proc/1/status"), libc::O_RDONLY)),
    refused("see-sys", "read /sys", |_| open(Path::new("/sys/kernel"), libc::O_RDONLY)),
    refused("change-kernel-setting", "write a setting of the kernel", |_| {
        open(Path::new("/proc/sys/kernel/hostname"), libc::O_WRONLY)
    })
    .not_outside(),
    refused("climb-out", "climb out through a descriptor of a directory", |t| {
        let _ = open(&t.run, libc::O_RDONLY | libc::O_DIRECTORY);
        climb()
    }),
    refused("change-descriptors", "change the modes of inherited descriptors", |t| {
        let _ = open(&t.directory.join("mode"), libc::O_RDWR | libc::O_CREAT);
        change_descriptors()
    }),
    refused("splice", "put pages into a pipe (splice)", |t| {
        let file = open(&t.image, libc::O_RDONLY)?;
        let mut pipe = [0_i32; 2];
        call(libc::SYS_pipe2, &[pipe.as_mut_ptr().expose_provenance(), 0])?;
        call(libc::SYS_splice, &[file, 0, bits(pipe[1]), 0, 1, 0])
    }),
    refused("file-handle", "get the handle of a file", |t| {
        let mut handle = [128_u32; 64];
        handle[1] = 0;
        let mut mount = 0_i32;
        let addresses = [handle.as_mut_ptr().expose_provenance(), (&raw mut mount).expose_provenance()];
        let file = path(&t.image);
        call(libc::SYS_name_to_handle_at, &[HERE, at(&file), addresses[0], addresses[1], 0])
    })
    .not_outside(),
    // Devices.
    refused("kvm", "open /dev/kvm in emulation", |_| open(Path::new("/dev/kvm"), libc::O_RDWR)).not_outside(),
    refused("memory-device", "open /dev/mem", |_| open(Path::new("/dev/mem"), libc::O_RDWR)).not_outside(),
    refused("terminal", "open the terminal", |_| open(Path::new("/dev/tty"), libc::O_RDWR)).not_outside(),
    refused("null-device", "open a device of the host", |_| open(Path::new("/dev/null"), libc::O_RDWR)),
    // Networks and sockets.
    refused("inet", "a socket for IPv4", |_| socket(libc::AF_INET, libc::SOCK_STREAM)),
    refused("inet6", "a socket for IPv6", |_| socket(libc::AF_INET6, libc::SOCK_DGRAM)).not_outside(),
    refused("netlink", "a netlink socket", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    refused("packet", "a packet socket", |_| socket(libc::AF_PACKET, libc::SOCK_RAW)),
    refused("vsock", "a vsock socket", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM)).not_outside(),
    refused("alg", "a socket for the kernel's ciphers", |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET))
        .not_outside(),
    refused("abstract-connect", "connect to an abstract Unix socket", |t| {
        unix(libc::SYS_connect, &[b"\0", t.abstract_name.as_bytes()].concat())
    }),
    refused("abstract-bind", "listen on an abstract Unix socket", |_| {
        unix(libc::SYS_bind, b"\0outlast-escape")
    }),
    refused("other-socket", "connect to another runner's control socket", |t| {
        unix(libc::SYS_connect, &[t.socket.as_os_str().as_bytes(), b"\0"].concat())
    }),
    // Other processes.
    refused("signal-all", "signal every process", |_| plain(libc::SYS_kill, &[NOWHERE, bits(libc::SIGCONT)])),
    refused("signal-runner", "signal its runner", |_| plain(libc::SYS_kill, &[1, bits(libc::SIGCONT)])),
    refused("signal-thread", "signal a thread of its runner", |_| {
        plain(libc::SYS_tgkill, &[1, 1, bits(libc::SIGCONT)])
    }),
    refused("signal-tkill", "signal a thread by its number", |_| {
        plain(libc::SYS_tkill, &[1, bits(libc::SIGCONT)])
    }),
    refused("pidfd", "take hold of its runner by a pidfd", |_| plain(libc::SYS_pidfd_open, &[1, 0])),
    refused("process-group", "join another process group", |_| plain(libc::SYS_setpgid, &[0, 0])),
    refused("clone3", "make a process with clone3", |_| clone3()),
    // Limits and the scheduler.
    refused("limits", "set a limit", |_| same_limit()),
    refused("threads", "make more threads than it may", |_| many_threads()),
    refused("priority", "change a priority", |_| plain(libc::SYS_setpriority, &[0, 0, 0])),
    refused("affinity", "choose processors", |_| {
        let mask = [u64::MAX; 16];
        plain(libc::SYS_sched_setaffinity, &[0, size_of_val(&mask), mask.as_ptr().expose_provenance()])
    }),
    refused("dumpable", "let itself be dumped", |_| {
        plain(libc::SYS_prctl, &[bits(libc::PR_SET_DUMPABLE), 1])
    }),
    refused("keep-capabilities", "keep capabilities", |_| {
        plain(libc::SYS_prctl, &[bits(libc::PR_SET_KEEPCAPS), 0])
    }),
    refused("no-filter", "put its filters off", |_| plain(libc::SYS_prctl, &[bits(libc::PR_SET_SECCOMP), 0]))
        .not_outside(),
    // Parts of the kernel that a VMM has no business with.
    refused("io-uring", "io_uring", |_| {
        let mut parameters = [0_u32; 30];
        plain(libc::SYS_io_uring_setup, &[1, parameters.as_mut_ptr().expose_provenance()])
    })
    .not_outside(),
    refused("userfaultfd", "userfaultfd", |_| plain(libc::SYS_userfaultfd, &[1])).not_outside(),
    refused("perf", "perf events", |_| {
        let mut event = [0_u64; 16];
        event[0] = 64 << 32 | 1;
        plain(libc::SYS_perf_event_open, &[event.as_mut_ptr().expose_provenance(), 0, NOWHERE, NOWHERE, 0])
    })
    .not_outside(),
    refused("personality", "another personality", |_| plain(libc::SYS_personality, &[0])),
    refused("shared-memory", "System V shared memory", |_| shared_memory()),
    refused("watch-files", "watch files", |_| plain(libc::SYS_inotify_init1, &[0])),
    refused("x32", "mount through the x32 interface", |_| {
        plain(libc::SYS_mount | 0x4000_0000, &[0, 0, 0, 0, 0])
    })
    .not_outside(),
    // What only somebody breaking out asks for.
    deadly("mount-proc", "mount /proc", |t| mount_and_unmount("proc", &t.directory)),
    deadly("mount-tmpfs", "mount a file system to write to", |t| mount_and_unmount("tmpfs", &t.directory)),
    deadly("unmount", "unmount its root", |_| on(libc::SYS_umount2, Path::new("/"), &[0])).not_outside(),
    deadly("pivot-root", "pivot_root", |_| plain(libc::SYS_pivot_root, &[0, 0])).not_outside(),
    deadly("chroot", "chroot", |_| on(libc::SYS_chroot, Path::new("/"), &[])),
    deadly("open-tree", "take a mount along (open_tree)", |t| {
        let tree = path(&t.directory);
        call(libc::SYS_open_tree, &[HERE, at(&tree), 1])
    }),
    deadly("move-mount", "move a mount", |_| plain(libc::SYS_move_mount, &[0, 0, 0, 0, 0])).not_outside(),
    deadly("new-filesystem", "begin a file system (fsopen)", |_| {
        on(libc::SYS_fsopen, Path::new("tmpfs"), &[0])
    }),
    deadly("mount-attributes", "make a mount writable", |_| plain(libc::SYS_mount_setattr, &[0, 0, 0, 0, 0]))
        .not_outside(),
    deadly("open-by-handle", "open a file of the host by its handle", |_| {
        plain(libc::SYS_open_by_handle_at, &[0, 0, 0])
    })
    .not_outside(),
    deadly("quota", "quotactl", |_| plain(libc::SYS_quotactl, &[0, 0, 0, 0])).not_outside(),
    deadly("swap", "swap to a file", |t| on(libc::SYS_swapon, &t.image, &[0])).not_outside(),
    deadly("accounting", "write process accounts", |t| on(libc::SYS_acct, &t.image, &[])).not_outside(),
    deadly("trace", "trace its runner", |_| plain(libc::SYS_ptrace, &[16, 1, 0, 0])).not_outside(),
    deadly("read-memory", "read another process's memory", |_| read_memory_of(0, libc::SYS_process_vm_readv)),
    deadly("write-memory", "write another process's memory", |_| {
        read_memory_of(0, libc::SYS_process_vm_writev)
    }),
    deadly("take-descriptor", "take a descriptor of another process", |_| {
        plain(libc::SYS_pidfd_getfd, &[0, 0, 0])
    })
    .not_outside(),
    deadly("compare", "compare processes (kcmp)", |_| plain(libc::SYS_kcmp, &[1, 1, 0, 0, 0])).not_outside(),
    deadly("join-namespace", "join another namespace", |_| plain(libc::SYS_setns, &[0, 0])).not_outside(),
    deadly("user-namespace", "make a user namespace", |_| {
        plain(libc::SYS_unshare, &[bits(libc::CLONE_NEWUSER)])
    }),
    deadly("mount-namespace", "make a mount namespace", |_| {
        plain(libc::SYS_unshare, &[bits(libc::CLONE_NEWNS)])
    }),
    deadly("fork", "fork", |_| child(libc::SYS_fork, &[])),
    deadly("vfork", "vfork", |_| plain(libc::SYS_vfork, &[])).not_outside(),
    deadly("clone-process", "make a process with clone", |_| child(libc::SYS_clone, &[bits(libc::SIGCHLD)])),
    deadly("clone-namespace", "make a process in namespaces of its own", |_| {
        child(libc::SYS_clone, &[bits(libc::SIGCHLD | libc::CLONE_NEWUSER)])
    }),
    deadly("execute", "execute its own program again", |t| execute(libc::SYS_execve, &t.program)),
    deadly("execute-at", "execute by a descriptor", |t| execute(libc::SYS_execveat, &t.program)),
    deadly("become-root", "setuid(0)", |_| plain(libc::SYS_setuid, &[0])),
    deadly("become-other", "setresuid to another VMM's user", |_| {
        plain(libc::SYS_setresuid, &[NOWHERE, NOWHERE, NOWHERE])
    }),
    deadly("become-group", "setgid(0)", |_| plain(libc::SYS_setgid, &[0])),
    deadly("join-groups", "setgroups", |_| plain(libc::SYS_setgroups, &[0, 0])),
    deadly("capabilities", "gain capabilities", |_| capabilities()),
    deadly("add-key", "add a key", |_| plain(libc::SYS_add_key, &[0, 0, 0, 0, 0])).not_outside(),
    deadly("request-key", "request a key", |_| plain(libc::SYS_request_key, &[0, 0, 0, 0])).not_outside(),
    deadly("keys", "see keyrings", |_| plain(libc::SYS_keyctl, &[0, NOWHERE, 0])).not_outside(),
    deadly("bpf", "load a BPF program", |_| plain(libc::SYS_bpf, &[0, 0, 0])).not_outside(),
    deadly("load-module", "load a module", |_| plain(libc::SYS_finit_module, &[NOWHERE, 0, 0])).not_outside(),
    deadly("remove-module", "remove a module", |_| plain(libc::SYS_delete_module, &[0, 0])).not_outside(),
    deadly("kexec", "load another kernel", |_| plain(libc::SYS_kexec_load, &[0, 0, 0, 0])).not_outside(),
    // Without its magic numbers it is refused wherever it gets through.
    deadly("reboot", "reboot the host", |_| plain(libc::SYS_reboot, &[0, 0, 0, 0])).not_outside(),
    deadly("ports", "reach the host's I/O ports", |_| plain(libc::SYS_iopl, &[0])).not_outside(),
    deadly("port-permissions", "be permitted an I/O port", |_| plain(libc::SYS_ioperm, &[0, 1, 0]))
        .not_outside(),
    deadly("kernel-log", "read the kernel's log", |_| plain(libc::SYS_syslog, &[10, 0, 0])).not_outside(),
    deadly("set-clock", "set the host's clock", |_| plain(libc::SYS_clock_settime, &[NOWHERE, 0]))
        .not_outside(),
    deadly("adjust-clock", "adjust the host's clock", |_| plain(libc::SYS_adjtimex, &[0])).not_outside(),
    deadly("host-name", "change the host's name", |_| plain(libc::SYS_sethostname, &[0, NOWHERE]))
        .not_outside(),
    deadly("type-for-others", "type on a terminal (TIOCSTI)", |_| {
        plain(libc::SYS_ioctl, &[0, usize::try_from(libc::TIOCSTI).expect("it fits"), 0])
    })
    .not_outside(),
    Way {
        name: "eat-memory",
        what: "take more memory than it may",
        answer: Answer::Starved,
        works_outside: false,
        act: |_| Ok(eat_memory()),
    },
];
