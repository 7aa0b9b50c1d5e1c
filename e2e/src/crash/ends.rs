//! What every case has in common: how its point is named, how who stands still is let go, how often its end was told.

use crate::lab::Lab;
use outlast_prove::{Edge, FaultPoint};
use outlast_wire::paths::Evidence;
use outlast_wire::view::EventView;
use std::fs;

/// The side of a point, as a word in a test's name.
pub(super) fn edge(point: FaultPoint) -> &'static str {
    match point.edge() {
        Edge::Before => "before",
        Edge::After => "after",
    }
}

/// The incarnation an evidence directory belongs to.
pub(super) fn incarnation(evidence: &Evidence) -> String {
    let name = evidence.path().file_name().and_then(|name| name.to_str());
    name.expect("an evidence directory is named by its incarnation").to_owned()
}

/// Lets go whoever stands still. That nobody does is a fault that did not happen where it was to.
#[track_caller]
pub(super) fn release(evidence: &Evidence) {
    fs::remove_file(evidence.hold()).expect("somebody stands still");
}

/// The audit log tells the end of an incarnation so often.
#[track_caller]
pub(super) fn expect_ends(lab: &Lab, incarnation: &str, expected: usize) {
    let told = lab.outlast(&["events", "--json"]).expect_code(0).stdout_text();
    let subject = format!("incarnation:{incarnation}");
    let events = told.lines().map(|line| serde_json::from_str::<EventView>(line).expect("an event"));
    let ends = events.filter(|event| event.subject == subject && event.kind == "incarnation.ended").count();
    assert_eq!(ends, expected, "ends of {subject} in the audit log:\n{told}");
}
