//! Looks at all VMMs of the host, again and again, by /proc: which live at the same time, and of which incarnation.
//!
//! One look takes a while, in which one VMM may end and the next begin. What two looks in a row find is alive all the time
//! between them, so that is what is told; a pid that was given to another process meanwhile is not the same by its start.

use crate::process::{self, Entry};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(10);

/// A VMM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vmm {
    /// Its incarnation, by its runner's word.
    pub incarnation: String,
    /// Its pid.
    pub pid: u32,
    /// When it was started, in the kernel's ticks.
    pub start: u64,
}

/// A watch that goes on until it is ended.
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    watching: JoinHandle<BTreeSet<Vec<Vmm>>>,
}

impl Watch {
    /// Begins.
    pub fn begin() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let watching = std::thread::spawn(move || {
            let mut together = BTreeSet::new();
            let mut before = BTreeSet::new();
            while !ends.load(Ordering::Relaxed) {
                let now = look();
                together.insert(before.intersection(&now).cloned().collect());
                before = now;
                crate::deadline::within::<()>(PERIOD, || None);
            }
            together
        });
        Self { over, watching }
    }

    /// Ends it, and tells every set of VMMs that lived together.
    pub fn end(self) -> Vec<Vec<Vmm>> {
        self.over.store(true, Ordering::Relaxed);
        self.watching.join().expect("whoever watches does not panic").into_iter().collect()
    }
}

/// All that live now.
fn look() -> BTreeSet<Vmm> {
    let all: BTreeMap<u32, Entry> = process::all().into_iter().map(|entry| (entry.pid, entry)).collect();
    let vmms = all.values().filter(|entry| entry.comm.starts_with("qemu") && !entry.is_zombie);
    let seen = vmms.filter_map(|vmm| {
        let (pid, start) = (vmm.pid, start_of(vmm.pid)?);
        Some(Vmm { incarnation: incarnation_of(&all, vmm)?, pid, start })
    });
    seen.collect()
}

/// Its runner is the next above it that is the first of its namespace.
fn incarnation_of(all: &BTreeMap<u32, Entry>, vmm: &Entry) -> Option<String> {
    let mut above = all.get(&vmm.parent)?;
    for _ in 0..all.len() {
        if above.nested_pids.len() > 1 && above.nested_pids.last() == Some(&1) {
            break;
        }
        above = all.get(&above.parent)?;
    }
    let line = fs::read(format!("/proc/{}/cmdline", above.pid)).ok()?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let at = words.iter().position(|word| *word == b"--incarnation")?;
    Some(String::from_utf8_lossy(words.get(at + 1)?).into_owned())
}

/// Field 22 of its `stat`, counted behind the name, which may hold anything.
fn start_of(pid: u32) -> Option<u64> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = line.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}
