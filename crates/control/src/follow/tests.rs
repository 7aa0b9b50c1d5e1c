//! A followed workload whose runner is played: a process that sleeps, a log that is written, a lease.

use super::*;
use crate::launch::testing::lease;
use crate::testing::{Stage, accept, identity_of_child, sleeper};
use outlast_model::DeathCause;
use outlast_store::{Owner, Store};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::output_log::{MAGIC, Record};
use outlast_wire::record::{DeathRecord, EndRecord, OutcomeRecord, Timings};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Child;

fn log(stage: &Stage) -> File {
    let path = stage.site.places().evidence(stage.incarnation).output_log();
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn record(bytes: &[u8]) -> Vec<u8> {
    Record::Data { stream: Stream::Stdout, unix_ns: 0, offset: 0, bytes: bytes.to_vec() }.encode()
}

/// A workload that runs and has written one line.
fn running() -> (Stage, Child, ProcessIdentity) {
    let stage = accept(Duration::ZERO);
    let child = sleeper();
    let identity = identity_of_child(&child);
    stage.claim(&identity);
    stage.publish(&identity);
    log(&stage).write_all(&[MAGIC.as_slice(), &record(b"one\n")].concat()).unwrap();
    (stage, child, identity)
}

/// What a runner writes when its workload is over.
fn end(database: &std::path::Path, incarnation: IncarnationId, runner: &ProcessIdentity, outcome: &Outcome) {
    let record = EndRecord {
        failed_start: None,
        outcome: Some(OutcomeRecord::from(outcome)),
        death: DeathRecord::new(&DeathCause::Stopped, vec![], 1, "runner"),
        output_log_bytes: 4,
        truncated_bytes: 0,
        timings: Timings::default(),
    };
    Store::open(database).unwrap().end(incarnation, &Owner::Runner(runner), &record).unwrap();
}

/// Collects, and does something when the first bytes come.
struct OnFirst<F: FnMut()> {
    seen: Vec<u8>,
    act: F,
}

impl<F: FnMut()> Sink for OnFirst<F> {
    fn write(&mut self, _stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if self.seen.is_empty() {
            (self.act)();
        }
        self.seen.extend_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn output_written_while_and_just_before_the_runner_dies_is_shown_and_the_outcome_is_lost() {
    let (stage, mut child, _) = running();
    let (ours, theirs) = lease();
    let mut theirs = Some(theirs);
    let mut late = log(&stage);
    let mut sink = OnFirst {
        seen: Vec::new(),
        act: || {
            late.write_all(&record(b"two\n")).unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            drop(theirs.take());
        },
    };
    let finished = follow(&stage.site, stage.workload, End::Lease(ours), &mut sink, None).unwrap();
    assert_eq!(sink.seen, b"one\ntwo\n");
    assert!(matches!(finished.outcome, Outcome::Lost { .. }));
}

/// A reader that is gone from the start.
struct Closed;

impl Sink for Closed {
    fn write(&mut self, _stream: Stream, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

/// Plays the runner's part of a lease that is given up: sees the end, writes the outcome, dies.
fn obey(
    theirs: OwnedFd,
    stage: &Stage,
    mut child: Child,
    identity: ProcessIdentity,
) -> std::thread::JoinHandle<()> {
    let (database, incarnation) = (stage.site.places().database(), stage.incarnation);
    std::thread::spawn(move || {
        let mut theirs = std::os::unix::net::UnixStream::from(theirs);
        assert_eq!(theirs.read(&mut [0; 8]).unwrap(), 0, "the client gives up");
        end(&database, incarnation, &identity, &Outcome::Killed { by: Killer::ClientGone });
        child.kill().unwrap();
        child.wait().unwrap();
    })
}

#[test]
fn when_nobody_reads_the_lease_is_given_up_and_the_outcome_waited_for() {
    let (stage, child, identity) = running();
    let (ours, theirs) = lease();
    let runner = obey(theirs, &stage, child, identity);
    let finished = follow(&stage.site, stage.workload, End::Lease(ours), &mut Closed, None).unwrap();
    assert_eq!(finished.outcome, Outcome::Killed { by: Killer::ClientGone });
    runner.join().unwrap();
}

#[test]
fn somebody_elses_run_is_followed_by_its_process_and_left_alone_when_nobody_reads() {
    let (stage, mut child, identity) = running();
    let broken = follow(&stage.site, stage.workload, End::Runner(None), &mut Closed, None).unwrap_err();
    assert!(matches!(broken, Error::Follow(FollowError::Sink { .. })));
    assert!(child.try_wait().unwrap().is_none());
    let (database, incarnation) = (stage.site.places().database(), stage.incarnation);
    let mut sink = OnFirst {
        seen: Vec::new(),
        act: || {
            end(&database, incarnation, &identity, &Outcome::Completed);
            child.kill().unwrap();
            child.wait().unwrap();
        },
    };
    let finished = follow(&stage.site, stage.workload, End::Runner(None), &mut sink, None).unwrap();
    assert_eq!((finished.outcome, sink.seen.as_slice()), (Outcome::Completed, b"one\n".as_slice()));
}

#[test]
fn a_workload_that_is_over_is_told_at_once() {
    let (stage, mut child, identity) = running();
    end(&stage.site.places().database(), stage.incarnation, &identity, &Outcome::Exited { code: 3 });
    child.kill().unwrap();
    child.wait().unwrap();
    let mut sink = OnFirst { seen: Vec::new(), act: || {} };
    let finished = follow(&stage.site, stage.workload, End::Runner(None), &mut sink, None).unwrap();
    assert_eq!((finished.outcome, sink.seen.len()), (Outcome::Exited { code: 3 }, 4));
}

#[test]
fn output_that_was_pruned_is_said_to_be_so_and_not_to_have_been_dropped() {
    let (stage, mut child, identity) = running();
    end(&stage.site.places().database(), stage.incarnation, &identity, &Outcome::Exited { code: 3 });
    child.kill().unwrap();
    child.wait().unwrap();
    let followed = || {
        let mut sink = OnFirst { seen: Vec::new(), act: || {} };
        let finished = follow(&stage.site, stage.workload, End::Runner(None), &mut sink, None).unwrap();
        let view = crate::run_view(&stage.site, stage.workload, &finished.outcome).unwrap();
        assert_eq!((&finished.outcome, finished.truncated_bytes), (&Outcome::Exited { code: 3 }, 0));
        assert_eq!(view.output_pruned, finished.output_pruned);
        (sink.seen.len(), finished.output_pruned)
    };
    assert_eq!(followed(), (4, false));
    std::fs::remove_dir_all(stage.site.places().evidence(stage.incarnation).path()).unwrap();
    assert_eq!(followed(), (0, true));
}

/// A pipe that nobody reads from yet.
struct Stuck {
    writer: File,
}

impl Sink for Stuck {
    fn write(&mut self, _stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    fn descriptor(&self, _stream: Stream) -> Option<BorrowedFd<'_>> {
        Some(self.writer.as_fd())
    }
}

#[test]
fn the_end_is_seen_although_the_reader_is_stuck_and_nothing_is_lost() {
    let (stage, mut child, _) = running();
    let much = vec![b'x'; 150_000];
    for portion in much.chunks(50_000) {
        log(&stage).write_all(&record(portion)).unwrap();
    }
    let (ours, theirs) = lease();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (database, workload) = (stage.site.places().database(), stage.workload);
    let late_reader = std::thread::spawn(move || {
        child.kill().unwrap();
        child.wait().unwrap();
        drop(theirs);
        // Only when the end is written is anything read: a follower that waited for us would never write it.
        let store = Store::open(&database).unwrap();
        let over = || matches!(store.workload(workload).unwrap().unwrap().state, WorkloadState::Over(_));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !over() {
            assert!(Instant::now() < deadline, "the end is not seen");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut seen = Vec::new();
        File::from(reader).read_to_end(&mut seen).unwrap();
        seen
    });
    let mut sink = Stuck { writer: File::from(writer) };
    let finished = follow(&stage.site, stage.workload, End::Lease(ours), &mut sink, None).unwrap();
    drop(sink);
    assert!(matches!(finished.outcome, Outcome::Lost { .. }));
    assert_eq!(late_reader.join().unwrap(), [b"one\n".as_slice(), &much].concat());
}
