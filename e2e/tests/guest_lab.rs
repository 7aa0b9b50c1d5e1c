//! Hosts that this one is not, as machines of their own: KVM that works, cgroup v2 alone, both versions at once,
//! systemd, a clock that may be set. And the lab itself: what must turn it red does.

use outlast_e2e::guest_lab::cases::cgroup::a_vmm_killed_for_want_of_memory;
use outlast_e2e::guest_lab::{Suite, run};
use outlast_e2e::on_lab;

#[track_caller]
fn green(suite: Suite) {
    run(suite, |judged| {
        if let Err(error) = judged {
            panic!("suite {} is not green: {error:#}", suite.name());
        }
    });
}

#[test]
fn long_guests_run_on_kvm_where_it_works() {
    green(Suite::Kvm);
}

#[test]
fn long_cgroup_v2_holds_limits_and_kills_what_it_must() {
    green(Suite::Cgroup2);
}

#[test]
fn long_a_hybrid_of_both_cgroup_versions_is_used_as_one() {
    green(Suite::Hybrid);
}

#[test]
fn long_systemd_gives_every_run_a_scope_of_its_own() {
    green(Suite::Systemd);
}

#[test]
fn long_a_hosts_clock_that_is_stepped_moves_no_deadline_and_every_guest_knows_the_time() {
    green(Suite::Clock);
}

#[test]
fn a_planted_failure_in_a_guest_turns_the_lab_red() {
    run(Suite::Red, |judged| {
        let error = judged.expect_err("a case was planted to fail").to_string();
        assert_eq!(error, "a_planted_case_that_fails: planted");
    });
}

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
