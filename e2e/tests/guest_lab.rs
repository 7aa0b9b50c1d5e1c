//! The lab itself (what must turn it red does), and those of its cases that this host can be asked, too.

use outlast_e2e::guest_lab::cases::cgroup::a_vmm_killed_for_want_of_memory;
use outlast_e2e::guest_lab::{Suite, run};
use outlast_e2e::on_lab;

#[test]
fn a_guest_that_goes_away_in_the_middle_is_never_green() {
    run(Suite::Silent, |judged| {
        let error = judged.expect_err("the machine went away").to_string();
        assert!(error.starts_with("case a_case_in_which_the_machine_goes_away is not told"), "{error}");
    });
}

/// On this host, whatever its control groups are.
#[test]
fn a_vmm_that_the_host_kills_for_want_of_memory_is_named_so_with_the_count() {
    on_lab(a_vmm_killed_for_want_of_memory);
}
