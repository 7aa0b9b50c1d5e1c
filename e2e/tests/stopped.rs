//! What is stopped, frozen or taken away while it runs: nothing is declared dead that is not, and what is over is
//! over as soon as it can be.

use outlast_e2e::freezer::{self, Frozen};
use outlast_e2e::{Lab, Process, Setup, skip, until};
use outlast_prove::FaultPoint;
use outlast_wire::view::WorkloadView;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::Signal;
use std::fs;
use std::time::Duration;

const LONG: &str = "import time\nprint('up')\ntime.sleep(600)\n";
const SOON: Duration = Duration::from_secs(60);
const AT_LAST: Duration = Duration::from_secs(180);

/// Starts a long program detached, with a key, and waits until it has printed its first line.
fn detached(lab: &Lab, key: &str) -> (String, Process) {
    let call = lab.python(LONG, &["--timeout", "20m", "--detach", "--idempotency-key", key]);
    let id = call.run().expect_code(0).stdout_text().trim().to_owned();
    until("the program prints", AT_LAST, || (lab.outlast(&["logs", &id]).stdout == b"up\n").then_some(()));
    (id, lab.runner())
}

fn dying(lab: &Lab, id: &str) -> WorkloadView {
    let view = until("it is dying", SOON, || Some(lab.show_as_is(id)).filter(|view| view.dying.is_some()));
    assert!(view.outcome.is_none(), "nobody may say that it is over: {view:#?}");
    let seen = view.dying.clone().unwrap_or_default().join("\n");
    assert!(!seen.is_empty(), "what was seen is told");
    view
}

fn freezer_is_there() -> bool {
    if !freezer::is_there() {
        skip::say(
            "a process that does not die",
            "there is no freezer of cgroup v1, and SIGKILL gets through in v2",
        );
    }
    freezer::is_there()
}

#[test]
fn a_vmm_that_does_not_die_makes_its_run_dying_until_it_does() {
    if !freezer_is_there() {
        return;
    }
    Setup::new().run(|lab| {
        let (id, runner) = detached(lab, "k");
        let frozen = Frozen::freeze(&lab.vmm(&runner));
        let killed = lab.call(&["kill", &id]).within(AT_LAST).run();
        assert_ne!(killed.code(), Some(0), "it is not dead: {killed}");
        killed.expect_stderr(&["does not die"]);
        let view = dying(lab, &id);
        assert!(view.dying.unwrap().join("\n").contains("refrigerator"), "the wait channel is told");
        // The same thing again is refused, with that reason, and is not started beside the old one.
        let again = lab.python(LONG, &["--idempotency-key", "k"]).within(AT_LAST).run();
        again.expect_code(125).expect_stderr(&["does not die"]);
        assert_eq!(lab.workloads().len(), 1);
        frozen.thaw();
        let outcome = lab.until_over(&id, SOON).outcome.unwrap();
        assert_eq!((outcome.kind.as_str(), outcome.by.as_deref()), ("killed", Some("request")));
        lab.python("print('after')", &[]).run().expect_code(0);
    });
}

#[test]
fn a_killed_runner_whose_vmm_does_not_die_is_dying_and_then_lost() {
    if !freezer_is_there() {
        return;
    }
    Setup::new().run(|lab| {
        let (id, runner) = detached(lab, "k");
        let frozen = Frozen::freeze(&lab.vmm(&runner));
        // As PID 1 of its namespace it waits for whoever is in there.
        runner.signal(Signal::KILL);
        dying(lab, &id);
        let again = lab.python(LONG, &["--idempotency-key", "k"]).within(AT_LAST).run();
        again.expect_code(125).expect_stderr(&["does not die"]);
        frozen.thaw();
        assert_eq!(lab.until_over(&id, SOON).outcome.unwrap().kind, "lost");
        lab.python("print('after')", &[]).run().expect_code(0);
    });
}

#[test]
fn a_vmm_that_does_not_die_of_a_failed_launch_makes_its_run_dying_too() {
    if !freezer_is_there() {
        return;
    }
    Setup::new().library_with_only(&["images", "kernels", "vmm", "canary"]).marked_for_proofs().run(|lab| {
        lab.python("pass", &["--cold"]).run().expect_code(0);
        let running = lab.python("pass", &["--cold"]).env("OUTLAST_HOLD", "launch-vmm:before").start();
        let evidence = lab.until_held(FaultPoint::named("launch-vmm:before").unwrap());
        let boot = fs::read_dir(lab.places().library().boot()).unwrap().flatten().map(|entry| entry.path());
        let initramfs =
            boot.into_iter().find(|path| path.extension().is_some_and(|end| end == "cpio")).unwrap();
        let aside = initramfs.with_extension("aside");
        fs::rename(&initramfs, &aside).unwrap();
        let mode = rustix::fs::Mode::from_bits_truncate(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, &initramfs, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let runner = lab.runner();
        fs::remove_file(evidence.hold()).unwrap();
        // It waits for somebody to write into that pipe, until its launch has taken too long.
        let frozen = Frozen::freeze(&lab.vmm(&runner));
        let id = lab.workloads()[0].id.clone();
        dying(lab, &id);
        frozen.thaw();
        fs::rename(&aside, &initramfs).unwrap();
        running.wait().expect_code(125);
        let outcome = lab.until_over(&id, SOON).outcome.unwrap();
        assert_eq!((outcome.kind.as_str(), outcome.step.as_deref()), ("not_started", Some("launch-vmm")));
    });
}

#[test]
fn a_runner_that_is_stopped_while_it_boots_is_killed_and_its_run_never_started() {
    Setup::new().marked_for_proofs().run(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let running = lab.python("pass", &[]).env("OUTLAST_HOLD", "certify:before").start();
        lab.until_held(FaultPoint::named("certify:before").unwrap());
        lab.runner().signal(Signal::STOP);
        running.wait().expect_code(125);
        let view = lab.workloads().remove(0);
        let outcome = view.outcome.unwrap();
        assert_eq!((outcome.kind.as_str(), outcome.step.as_deref()), ("not_started", Some("certify")));
        assert!(view.death.unwrap().evidence.join(" ").contains("had not beaten"));
    });
}

#[test]
fn what_the_host_unmounts_is_unmounted_while_a_runner_lives() {
    Setup::new().run(|lab| {
        let point = lab.path("disk");
        fs::create_dir(&point).unwrap();
        // As on most hosts, and not as in a test's own world: only then is there anything to follow.
        mount_change("/", MountPropagationFlags::SHARED).unwrap();
        mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None).unwrap();
        let (id, runner) = detached(lab, "k");
        let its = || fs::read_to_string(format!("/proc/{}/mounts", runner.pid())).unwrap();
        let name = point.display().to_string();
        assert!(its().contains(&name), "the runner has a copy of the host's mounts");
        unmount(&point, UnmountFlags::empty()).expect("a runner keeps no disk of the host's busy");
        assert!(!its().contains(&name), "and what the host unmounts goes there, too");
        lab.outlast(&["kill", &id]).expect_code(0);
        mount_change("/", MountPropagationFlags::PRIVATE).unwrap();
    });
}
