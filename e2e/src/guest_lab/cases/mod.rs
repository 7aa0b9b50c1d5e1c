//! What is tried in the lab's guests. Everything here is a case of a suite, and some are tests of this host, too.

pub mod cgroup;
pub mod clock;
pub mod control;
pub mod kvm;
pub mod scope;

use crate::call::Output;
use crate::{Lab, until};
use outlast_wire::view::WorkloadView;
use std::time::Duration;

/// A guest of a guest, emulated twice, is slow to come up; no speed is asserted.
const PATIENCE: Duration = Duration::from_secs(240);
/// From a death to its record.
const SOON: Duration = Duration::from_secs(20);

/// `outlast run` of a shell command with the base image.
#[track_caller]
fn shell(lab: &Lab, options: &[&str], script: &str) -> Output {
    let mut line = vec!["run", "--image", "base"];
    line.extend(options);
    line.extend(["--", "sh", "-c", script]);
    lab.call(&line).within(PATIENCE).run()
}

/// Starts a shell command detached and waits until it has printed a line; its id.
#[track_caller]
fn detached(lab: &Lab, script: &str) -> String {
    let output = shell(lab, &["--detach", "--timeout", "600s"], script);
    let id = output.expect_code(0).stdout_text().trim().to_owned();
    until("the program prints", PATIENCE, || {
        let view = lab.show(&id);
        assert!(view.outcome.is_none(), "it ended: {view:#?}");
        (!lab.outlast(&["logs", &id]).stdout.is_empty()).then_some(())
    });
    id
}

#[track_caller]
fn expect_end(view: &WorkloadView, kind: &str, death: &str) {
    let outcome = view.outcome.as_ref().expect("it is over");
    assert_eq!(outcome.kind, kind, "{view:#?}");
    let certificate = view.death.as_ref().expect("there is a death certificate");
    assert_eq!(certificate.cause, death, "{view:#?}");
}
