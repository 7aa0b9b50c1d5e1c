//! What can be seen of an incarnation: its runner, its heartbeat, its journal, its output. Changes nothing,
//! but for syncing an output log that its runner can no longer sync.

use super::judgement::Runner;
use crate::clock;
use crate::site::Site;
use crate::wait::{self, Changes};
use outlast_machine::process::{self, DeathProof, Doubt, Process, Sighting};
use outlast_model::{IncarnationId, IncarnationState, timeout};
use outlast_store::IncarnationRow;
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::Purpose;
use outlast_wire::journal::{Journal, JournalEntry};
use outlast_wire::output_log::{OutputLogReader, Record};
use rustix::fs::inotify::WatchFlags;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

/// Clock ticks of /proc a second: USER_HZ, which is 100 on every architecture that outlast runs on.
const TICKS: u64 = 100;
/// A heartbeat that seems lost gets this long to be heard after all: three beats.
const LAST_CHANCE: Duration = Duration::from_secs(3 * timeout::HEARTBEAT.as_secs());
/// Added to the sum of a runner's deadlines before it counts as overdue.
const GRACE: Duration = Duration::from_secs(60);

/// A runner that was looked for.
#[derive(Debug)]
pub(super) enum Sight {
    /// It lives, and is held.
    Alive(Process),
    /// It is proved dead.
    Dead(DeathProof),
    /// It cannot be told.
    Undecided(Doubt),
}

/// Looks for a runner.
pub(super) fn sight(identity: &ProcessIdentity) -> Sight {
    match Process::open(identity) {
        Sighting::Alive(process) => Sight::Alive(process),
        Sighting::Dead(proof) => Sight::Dead(proof),
        Sighting::Undecided(doubt) => Sight::Undecided(doubt),
    }
}

/// What was seen, as facts to judge by.
pub(super) fn runner(site: &Site, row: &IncarnationRow, sight: Option<&Sight>) -> Runner {
    match sight {
        None => Runner::None { age: age_of_intent(row) },
        Some(Sight::Dead(proof)) => Runner::Dead { rebooted: *proof == DeathProof::Rebooted },
        Some(Sight::Undecided(_)) => Runner::Undecided,
        Some(Sight::Alive(process)) => {
            let age = age_of(process.identity());
            // Without a heartbeat it has either not come so far yet, or is tidying up behind itself.
            let silent = silence(site, row.id).unwrap_or(age);
            let is_dying = row.state == IncarnationState::Dying;
            Runner::Alive { silent, age, ending: is_dying.then(|| since_end_began(site, row.id)).flatten() }
        }
    }
}

/// Since an intent was written. One of an earlier boot of the host is older than anything. The wall clock, which
/// can be set, is asked only about intents that say nothing else.
fn age_of_intent(row: &IncarnationRow) -> Duration {
    let intent = &row.intent;
    let now = process::boot_id().ok();
    match (&intent.requested_boot_id, now, intent.requested_monotonic_ns) {
        (Some(then), Some(now), _) if *then != now => Duration::MAX,
        (Some(_), Some(_), Some(since)) => clock::since_boot().saturating_sub(Duration::from_nanos(since)),
        _ => Duration::from_nanos(clock::unix_ns().saturating_sub(row.created_unix_ns)),
    }
}

/// Since a runner began to end its incarnation, by its journal; `None` when it does not say so.
fn since_end_began(site: &Site, id: IncarnationId) -> Option<Duration> {
    let journal = journal_of(site, id);
    let began = journal.lines.iter().find(|line| matches!(line.entry, JournalEntry::End { .. }))?;
    Some(clock::since_boot().saturating_sub(Duration::from_nanos(began.monotonic_ns)))
}

/// What proves that it is over, for the death certificate.
pub(super) fn proof(row: &IncarnationRow, sight: Option<&Sight>) -> Vec<String> {
    match sight {
        Some(Sight::Dead(proof)) => vec![format!("its runner is gone: {proof}")],
        Some(Sight::Alive(_) | Sight::Undecided(_)) => Vec::new(),
        None if age_of_intent(row) == Duration::MAX => {
            vec!["the host was booted again before one came".to_owned()]
        }
        None => vec![format!("none came within {} s", timeout::CLAIM.as_secs())],
    }
}

fn age_of(identity: &ProcessIdentity) -> Duration {
    let started = Duration::from_millis(identity.start_time.saturating_mul(1000 / TICKS));
    clock::since_boot().saturating_sub(started)
}

/// Since the last heartbeat; `None` when there is none.
fn silence(site: &Site, id: IncarnationId) -> Option<Duration> {
    let text = std::fs::read_to_string(site.places().run_directory(id).heartbeat()).ok()?;
    let beat = Duration::from_nanos(text.trim().parse().ok()?);
    Some(clock::since_boot().saturating_sub(beat))
}

/// Listens once more before a silent runner is killed: a host that was suspended, or stopped altogether for a
/// while, finds all its runners silent when it wakes.
pub(super) fn beats_after_all(site: &Site, row: &IncarnationRow, process: &Process) -> bool {
    let path = site.places().run_directory(row.id).heartbeat();
    let before = std::fs::read(&path).ok();
    let listen = || -> std::io::Result<Option<usize>> {
        let beats = Changes::of(&path, WatchFlags::MODIFY)?;
        if std::fs::read(&path).ok() != before {
            return Ok(Some(0));
        }
        wait::readable(&[beats.as_fd(), process.as_fd()], LAST_CHANCE)
    };
    match listen() {
        // A beat, or its death: either way it is to be looked at anew.
        Ok(heard) => heard.is_some(),
        // No heartbeat file: only its age spoke, and that has been judged.
        Err(_) => false,
    }
}

/// How long a runner may live: all its deadlines together. One that is held at a fault point, as long as the
/// one who holds it likes; a VM's, once it runs, as long as nobody wants it stopped.
pub(super) fn allowed(row: &IncarnationRow) -> Duration {
    let intent = &row.intent;
    let is_a_vm_that_runs = matches!(intent.purpose, Purpose::Vm { .. }) && row.running_unix_ns.is_some();
    if intent.hold.is_some() || is_a_vm_that_runs {
        return Duration::MAX;
    }
    let work = match &intent.purpose {
        Purpose::Workload { program, .. } => Duration::from_millis(program.timeout_ms) + timeout::OUTPUTS,
        Purpose::Template { .. } => timeout::TEMPLATE,
        Purpose::Canary | Purpose::Vm { .. } => Duration::ZERO,
    };
    // A clone that fails boots again, cold.
    let boots = Duration::from_millis(intent.boot_timeout_ms.saturating_mul(2));
    timeout::CLAIM + boots + work + timeout::AGENT_DEADLINE_MARGIN + timeout::LADDER + GRACE
}

/// The journal of an incarnation; empty when there is none.
pub(crate) fn journal_of(site: &Site, id: IncarnationId) -> Journal {
    let bytes = std::fs::read(site.places().evidence(id).journal()).unwrap_or_default();
    Journal::parse(&bytes)
}

/// What an output log holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Bytes of whole records, the magic included.
    pub(super) bytes: u64,
    /// Bytes of output that were not kept.
    pub(super) dropped: u64,
    /// What is wrong with it.
    pub(super) complaint: Option<String>,
}

/// Measures the output log of a dead runner and syncs it: from now on it is evidence.
pub(super) fn measure_output(site: &Site, id: IncarnationId) -> Measured {
    let path = site.places().evidence(id).output_log();
    let Ok(file) = File::open(&path) else { return Measured::default() };
    let mut measured = measure(&file);
    if let Err(error) = file.sync_data() {
        measured.complaint = Some(format!("its output log could not be synced: {error}"));
    }
    measured
}

fn measure(mut file: impl Read) -> Measured {
    let mut measured = Measured::default();
    let mut reader = OutputLogReader::new();
    let mut chunk = vec![0; 256 * 1024];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => reader.push(&chunk[..length]),
            Err(error) => {
                measured.complaint = Some(format!("its output log cannot be read: {error}"));
                return measured;
            }
        }
        loop {
            match reader.next_record() {
                Ok(Some(Record::Data { .. })) => {}
                Ok(Some(Record::Truncated { dropped, .. })) => measured.dropped = dropped,
                Ok(None) => break,
                Err(error) => {
                    measured.complaint = Some(format!("its output log is damaged: {error}"));
                    return measured;
                }
            }
            measured.bytes = reader.consumed();
        }
    }
    if !reader.is_whole() {
        measured.complaint = Some("its output log ends in the middle of a record".to_owned());
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_wire::output_log::{MAGIC, Stream};

    fn data(bytes: &[u8]) -> Vec<u8> {
        Record::Data { stream: Stream::Stdout, unix_ns: 0, offset: 0, bytes: bytes.to_vec() }.encode()
    }

    #[test]
    fn a_torn_log_is_measured_up_to_its_last_whole_record() {
        let truncated = Record::Truncated { unix_ns: 0, dropped: 7 }.encode();
        let whole = [MAGIC.as_slice(), &data(b"hello"), &truncated].concat();
        let measured = measure(whole.as_slice());
        assert_eq!(measured, Measured { bytes: whole.len() as u64, dropped: 7, complaint: None });
        let torn = [whole.as_slice(), &data(b"world")[..10]].concat();
        let measured = measure(torn.as_slice());
        assert_eq!(measured.bytes, whole.len() as u64);
        assert!(measured.complaint.is_some());
        assert!(measure(b"rubbish that is no log".as_slice()).complaint.is_some());
    }

    #[test]
    fn this_process_has_an_age() {
        let identity = outlast_machine::process::identity_of(std::process::id()).unwrap();
        let age = age_of(&identity);
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}
