//! The start of a VM, with a death at every step of it, made from the table of steps: the start says so, everything is
//! gone, and the next one works.

use outlast_e2e::{Lab, Setup};
use outlast_prove::{BootStep, Edge, FaultPoint, Place};
use outlast_wire::vm_view::VmView;
use rustix::process::Signal;
use std::fs;

/// The last step of a VM's start.
const LAST: Place = Place::Boot(BootStep::Publish);

/// Kills the runner at a point of `vm start` and looks at what is left.
fn die_at(lab: &Lab, point: FaultPoint, next: BootStep) {
    let running = lab.call(&["vm", "start", "web"]).env("OUTLAST_HOLD", point.name()).start();
    lab.until_held(point);
    let runner = lab.runner();
    runner.kill();
    let output = running.wait();
    let published = (point.place(), point.edge()) == (LAST, Edge::After);
    // Whoever waited for a start that was published was right to go.
    output.expect_code(i32::from(!published));
    let view = lab.show_vm("web");
    let failed = view.summary.failed_start.as_ref().map(|failed| failed.step.as_str());
    let expected = if published { ("stopped", None) } else { ("failed", Some(next.name())) };
    assert_eq!((view.summary.state.as_str(), failed), expected, "{}: {view:#?}", point.name());
    let expected = if next == BootStep::Claim { "never_claimed" } else { "runner_killed" };
    assert_eq!(cause(&view), Some(expected), "{}: {view:#?}", point.name());
    assert!(runner.is_dead() && lab.doctor().leaks.is_empty(), "{}: {:#?}", point.name(), lab.doctor());
    the_next_start_works(lab);
}

fn cause(view: &VmView) -> Option<&str> {
    view.summary.death.as_ref().map(|death| death.cause.as_str())
}

fn the_next_start_works(lab: &Lab) {
    lab.start_vm("web");
    lab.sh("web", "cat /root/kept").expect_code(0).expect_stdout("kept\n");
    lab.outlast(&["vm", "stop", "--force", "web"]).expect_code(0);
}

fn prepared(lab: &Lab) {
    lab.running_vm("web");
    lab.sh("web", "echo kept > /root/kept; sync").expect_code(0);
    lab.outlast(&["vm", "stop", "web"]).expect_code(0);
}

#[test]
fn a_runner_killed_before_any_step_of_a_vms_start_leaves_nothing_and_the_next_start_works() {
    Setup::new().marked_for_proofs().run(|lab| {
        prepared(lab);
        let points = FaultPoint::of_a_vms_start();
        assert!(points.iter().any(|(_, next)| *next == BootStep::Settle));
        for (point, next) in points.into_iter().filter(|(point, _)| point.edge() == Edge::Before) {
            die_at(lab, point, next);
        }
    });
}

#[test]
fn long_a_runner_killed_after_any_step_of_a_vms_start_leaves_nothing_and_the_next_start_works() {
    Setup::new().marked_for_proofs().run(|lab| {
        prepared(lab);
        for (point, next) in
            FaultPoint::of_a_vms_start().into_iter().filter(|(point, _)| point.edge() == Edge::After)
        {
            die_at(lab, point, next);
        }
    });
}

/// A VMM that dies while its clone is restored is answered by a cold boot; later it is the end of the start.
#[test]
fn long_a_vmm_killed_before_any_step_of_a_vms_start_ends_it_or_makes_it_boot() {
    Setup::new().marked_for_proofs().run(|lab| {
        prepared(lab);
        let with_vmm = [BootStep::StartGuest, BootStep::AgentHello, BootStep::Certify, BootStep::Settle];
        for (point, next) in FaultPoint::of_a_vms_start() {
            if point.edge() != Edge::Before || !with_vmm.contains(&next) {
                continue;
            }
            let running = lab.call(&["vm", "start", "web"]).env("OUTLAST_HOLD", point.name()).start();
            let evidence = lab.until_held(point);
            lab.vmm(&lab.runner()).signal(Signal::KILL);
            fs::remove_file(evidence.hold()).expect("it is held");
            let boots = matches!(next, BootStep::StartGuest | BootStep::AgentHello);
            running.wait().expect_code(i32::from(!boots));
            let view = lab.show_vm("web");
            if boots {
                assert!(view.incarnations[0].fell_back.is_some(), "{view:#?}");
                lab.outlast(&["vm", "stop", "--force", "web"]).expect_code(0);
            } else {
                assert_eq!(
                    view.summary.failed_start.as_ref().map(|failed| failed.step.as_str()),
                    Some(next.name())
                );
                assert_eq!(cause(&view), Some("vmm_signalled"), "{view:#?}");
            }
            the_next_start_works(lab);
        }
    });
}
