//! Every crash point of a workload and of a VM's beginning: a test for each case that makes sense, with a name of its own,
//! made from the tables of steps and phases. One representative for each place, and those in which the runner dies beside the program, are
//! part of every check; all of them, `long_…`, of the long one.
//!
//! This is a test program of its own making (`harness = false`), because the names of tests are otherwise fixed
//! when they are compiled. It speaks as much of the usual language as cargo-nextest does.

use outlast_e2e::crash::{self, vm};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    let tests = tests();
    if has("--list") {
        // Nothing here is ever ignored.
        if !has("--ignored") {
            for (name, _) in &tests {
                say(&format!("{name}: test"));
            }
        }
        return ExitCode::SUCCESS;
    }
    let wanted = words.iter().find(|word| !word.starts_with("--"));
    let chosen: Vec<_> =
        tests.iter().filter(|(name, _)| wanted.is_some_and(|wanted| wanted == name)).collect();
    if chosen.is_empty() {
        say("name one test of those that --list tells, or run all with cargo nextest run --profile e2e");
        return ExitCode::FAILURE;
    }
    for (_, case) in chosen {
        match *case {
            Case::OfAWorkload(case) => crash::run(case),
            Case::OfAVm(case) => vm::run(case),
        }
    }
    ExitCode::SUCCESS
}

#[derive(Clone, Copy)]
enum Case {
    OfAWorkload(crash::Case),
    OfAVm(vm::Case),
}

fn tests() -> Vec<(String, Case)> {
    let workload = |case: crash::Case| (format!("crash_{}", case.name()), Case::OfAWorkload(case));
    let vm = |case: vm::Case| (format!("vm_crash_{}", case.name()), Case::OfAVm(case));
    let short = crash::Case::representatives().into_iter().map(workload);
    let short = short.chain(vm::Case::representatives().into_iter().map(vm));
    let long = crash::Case::sensible().into_iter().map(workload);
    let long = long.chain(vm::Case::sensible().into_iter().map(vm));
    short.chain(long.map(|(name, case)| (format!("long_{name}"), case))).collect()
}

#[expect(clippy::print_stdout, reason = "the list of tests is the fact that was asked for")]
fn say(line: &str) {
    println!("{line}");
}
