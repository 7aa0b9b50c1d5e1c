//! Every crash point: a test for each case that makes sense, with a name of its own, made from the tables of
//! steps and phases. One representative for each place, and those in which the runner dies beside the program, are
//! part of every check; all of them, `long_…`, of the long one.
//!
//! This is a test program of its own making (`harness = false`), because the names of tests are otherwise fixed
//! when they are compiled. It speaks as much of the usual language as cargo-nextest does.

use outlast_e2e::crash::{Case, run};
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
        run(*case);
    }
    ExitCode::SUCCESS
}

fn tests() -> Vec<(String, Case)> {
    let short = Case::representatives().into_iter().map(|case| (format!("crash_{}", case.name()), case));
    let long = Case::sensible().into_iter().map(|case| (format!("long_crash_{}", case.name()), case));
    short.chain(long).collect()
}

#[expect(clippy::print_stdout, reason = "the list of tests is the fact that was asked for")]
fn say(line: &str) {
    println!("{line}");
}
