//! What a test could not try on this machine: said by name, with the reason, and counted.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;

/// The environment variable that names the file into which `./check` has skips written.
pub const FILE: &str = "OUTLAST_E2E_SKIPS";

/// Says that `what` was not tried here, and why: on standard error, and as a line of the skip file.
pub fn say(what: &str, reason: &str) {
    let line = format!("{}\t{what}\t{}\n", crate::entry::test_name(), reason.replace(['\n', '\t'], " "));
    eprint!("SKIPPED {line}");
    if let Some(path) = env::var_os(FILE) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the file for skips can be written");
    }
}
