//! How a test gets inside: the test process starts itself again through `outlast-e2e-init`.
//!
//! No runner needs to be configured for that, so listing tests, nextest and plain `cargo test` all work, and
//! a test can not be run in the wrong place by mistake. What ran inside leaves a receipt: a run of the test
//! binary that selected no test would exit with 0, too, and must not look like a pass.

use crate::init::INSIDE;
use crate::program;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Names the file that the inner run writes when the test's body has returned.
const RECEIPT: &str = "OUTLAST_E2E_RECEIPT";
/// Set by nextest to the test's name.
const NEXTEST_NAME: &str = "NEXTEST_TEST_NAME";

/// Runs `body` in namespaces of its own, in a process whose parent is a PID 1 that reaps.
#[track_caller]
pub fn alone(body: impl FnOnce()) {
    if env::var_os(INSIDE).is_none() {
        return run_again_inside();
    }
    let init = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    // The kernel keeps fifteen characters of a name; the init calls itself /proc/self/exe.
    assert!(
        init.trim() == "exe" || init.trim() == "outlast-e2e-ini",
        "{INSIDE} is set, but PID 1 is '{}': run the tests with cargo nextest run --profile e2e",
        init.trim()
    );
    body();
    let receipt = env::var_os(RECEIPT).expect("the outer run names a receipt");
    fs::write(receipt, test_name()).expect("the receipt can be written");
}

/// A test may use several labs; its one inner run went through all of them.
static RUN_ALREADY: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

#[track_caller]
fn run_again_inside() {
    let name = test_name();
    if !RUN_ALREADY.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
        return;
    }
    let directory = tempfile::Builder::new().prefix("oer").tempdir().expect("a directory for the receipt");
    let receipt = directory.path().join("receipt");
    let this = env::current_exe().expect("a test knows its own program");
    let status = Command::new(program::beside("outlast-e2e-init"))
        .arg(&this)
        .args(["--exact", &name, "--nocapture"])
        .env(RECEIPT, &receipt)
        .stdin(Stdio::null())
        .status()
        .expect("outlast-e2e-init can be started");
    assert!(status.success(), "the test failed inside its namespaces ({status}); its words are above");
    let ran = fs::read_to_string(&receipt).unwrap_or_default();
    assert_eq!(ran, name, "the inner run ended well without having run the test");
}

/// The name of the test that is running, with its modules.
pub fn test_name() -> String {
    let named = env::var(NEXTEST_NAME).ok();
    let thread = || std::thread::current().name().map(str::to_owned);
    let name = named.or_else(thread).filter(|name| name != "main");
    name.expect("a test has a name: run the tests with cargo nextest run --profile e2e")
}
