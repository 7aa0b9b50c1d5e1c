//! Controls of the lab itself: what must turn a test red.

use crate::guest_lab::suite::Case;
use rustix::system::{RebootCommand, reboot};

/// A case that passes, and one that is planted to fail.
pub const RED: &[Case] = &[
    Case {
        name: "a_case_that_passes",
        run: |lab| drop(lab.outlast(&["--version"]).expect_code(0).to_string()),
    },
    Case { name: "a_planted_case_that_fails", run: |_| panic!("planted") },
];

/// The machine goes away in the second of three.
pub const SILENT: &[Case] = &[
    Case { name: "a_case_that_passes", run: |_| {} },
    Case {
        name: "a_case_in_which_the_machine_goes_away",
        run: |_| {
            let gone = reboot(RebootCommand::PowerOff);
            panic!("the machine is still there: {gone:?}");
        },
    },
    Case { name: "a_case_that_is_never_reached", run: |_| {} },
];
