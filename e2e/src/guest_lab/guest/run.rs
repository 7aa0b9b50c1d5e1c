//! Runs the cases of a suite, one after the other, each in a lab of its own, and tells the records.

use super::suite;
use crate::guest_lab::payload::{BINARIES, LIBRARY};
use crate::guest_lab::record::{Record, Verdict};
use crate::guest_lab::suite::Case;
use crate::{Setup, init, library, program};
use anyhow::Context as _;
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};
use std::any::Any;
use std::env;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::Command;
use std::time::Instant;

/// The second serial port.
const RECORDS: &str = "/dev/ttyS1";
/// As much of a failed case's words as a record holds; all of them are on the console.
const DETAIL: usize = 2000;

/// Runs everything; returns when the last record has left the machine.
pub(super) fn cases() -> anyhow::Result<()> {
    if env::var_os(program::BIN_DIR).is_none() {
        return again_with_environment();
    }
    let suite = suite()?;
    let mut teller = Teller::open()?;
    let names = suite.cases().iter().map(|case| case.name.to_owned()).collect();
    teller.tell(&Record::Plan { suite: suite.name().to_owned(), cases: names })?;
    let (mut passed, mut failed) = (0, 0);
    for case in suite.cases() {
        teller.tell(&Record::Begin { case: case.name.to_owned() })?;
        let record = tried(case);
        match &record {
            Record::Case { verdict: Verdict::Pass, .. } => passed += 1,
            _ => failed += 1,
        }
        teller.tell(&record)?;
    }
    teller.tell(&Record::End { passed, failed })
}

/// The harness reads where things are from the environment, which is set before there are threads.
fn again_with_environment() -> anyhow::Result<()> {
    let status = Command::new(super::program())
        .arg("cases")
        .env(program::BIN_DIR, BINARIES)
        .env(library::SHARED, LIBRARY)
        .env(init::INSIDE, "1")
        .env("PATH", format!("{BINARIES}:/usr/sbin:/usr/bin:/sbin:/bin"))
        .env("HOME", "/root")
        .status()
        .context("start the cases")?;
    anyhow::ensure!(status.success(), "the cases ended with {status}");
    Ok(())
}

fn tried(case: &Case) -> Record {
    let began = Instant::now();
    let ended = Setup::new().verdict(case.run);
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (verdict, detail) = match ended {
        Ok(()) => (Verdict::Pass, String::new()),
        Err(panic) => (Verdict::Fail, words(panic.as_ref())),
    };
    Record::Case { case: case.name.to_owned(), verdict, millis, detail }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "it panicked without words".to_owned()).chars().take(DETAIL).collect()
}

/// The serial port on which records leave.
struct Teller {
    port: File,
}

impl Teller {
    fn open() -> anyhow::Result<Self> {
        let port =
            OpenOptions::new().read(true).write(true).open(RECORDS).context("open the records' port")?;
        let mut settings = tcgetattr(&port).context("ask the records' port")?;
        settings.make_raw();
        tcsetattr(&port, OptionalActions::Now, &settings).context("set the records' port")?;
        Ok(Self { port })
    }

    fn tell(&mut self, record: &Record) -> anyhow::Result<()> {
        self.port.write_all(record.line().as_bytes()).context("tell a record")?;
        // The machine is powered off right after the last one.
        tcdrain(&self.port).context("tell a record")
    }
}
