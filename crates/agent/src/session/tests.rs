//! Sessions over a pair of sockets, with real programs and files of this host behind them. A test's programs
//! are kept together by process group instead of cgroup, and run as whoever runs the test.

use super::*;
use crate::program::{Groups, Reaper, Scope};
use outlast_wire::guest::{
    Clock, Credit, Done, Exec, Exited, FileData, GetTree, GuestFrame, INITIAL_CREDIT, Ping, Pong, PowerOff,
    PutFile, Quiesce, Settle, Signal, StdinData, encode,
};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::Path;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// How long an answer may take. Generous: it is reached only by failures.
const LIMIT: Duration = Duration::from_secs(30);

impl ByteStream for UnixStream {
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.writable().await?;
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// The host's side of a session.
pub(super) struct Host {
    pub(super) socket: UnixStream,
    decoder: FrameDecoder,
    session: JoinHandle<io::Result<Ended>>,
}

impl Host {
    pub(super) async fn send(&mut self, stream: u32, message: HostMessage) {
        let frame = encode(&HostFrame { stream, message: Some(message) }).unwrap();
        self.socket.write_all(&frame).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> (u32, GuestMessage) {
        let frame = tokio::time::timeout(LIMIT, async {
            loop {
                if let Some(frame) = self.decoder.next_message::<GuestFrame>().unwrap() {
                    return frame;
                }
                let mut bytes = [0; 4096];
                let length = self.socket.read(&mut bytes).await.unwrap();
                assert!(length > 0, "the agent closed the connection");
                self.decoder.push(&bytes[..length]);
            }
        });
        let frame = frame.await.expect("an answer in time");
        (frame.stream, frame.message.unwrap())
    }

    pub(super) async fn hello(&mut self, nonce: u8) {
        self.send(0, hello(nonce)).await;
        let (stream, answer) = self.next().await;
        let GuestMessage::HelloAck(ack) = answer else { panic!("{answer:?}") };
        assert_eq!((stream, ack.nonce, ack.protocol), (0, vec![nonce; 16], PROTOCOL));
    }

    /// Everything a program says until it ends: standard output, standard error, its end.
    pub(super) async fn follow(&mut self, stream: u32) -> (Vec<u8>, Vec<u8>, Exited) {
        let mut output = [Vec::new(), Vec::new()];
        loop {
            let (of, message) = self.next().await;
            assert_eq!(of, stream);
            match message {
                GuestMessage::Started(_) | GuestMessage::Credit(_) | GuestMessage::Done(_) => {}
                GuestMessage::Output(chunk) => {
                    let index = usize::try_from(chunk.descriptor).unwrap() - 1;
                    output[index].extend_from_slice(&chunk.data);
                }
                GuestMessage::Exited(end) => {
                    let [stdout, stderr] = output;
                    return (stdout, stderr, end);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn run(&mut self, stream: u32, script: &str) -> (Vec<u8>, Vec<u8>, Exited) {
        self.send(stream, HostMessage::Exec(shell(script))).await;
        self.follow(stream).await
    }

    async fn hang_up(self) -> Ended {
        drop(self.socket);
        tokio::time::timeout(LIMIT, self.session).await.unwrap().unwrap().unwrap()
    }
}

/// Runs a test with a session and a reaper beside it.
pub(super) fn with_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let reaper = Rc::new(Reaper::new(Scope::Expected));
        let etc = tempfile::tempdir().unwrap();
        let services = Rc::new(Services {
            site: Site::new(Rc::clone(&reaper), Rc::new(Groups::for_tests())).unwrap(),
            facts: Facts::gather(),
            generator: Generator::open().unwrap(),
            nameplate: RefCell::new(Nameplate::put_up(etc.path()).unwrap()),
            home: RefCell::new(Home::new(None)),
            seated: Cell::default(),
        });
        tokio::task::spawn_local(async move { reaper.run().await });
        let (socket, agent) = UnixStream::pair().unwrap();
        let session = tokio::task::spawn_local(async move { serve(&agent, &services).await });
        test(Host { socket, decoder: FrameDecoder::new(), session }).await;
    });
}

pub(super) fn hello(nonce: u8) -> HostMessage {
    HostMessage::Hello(Hello { nonce: vec![nonce; 16], protocol: PROTOCOL })
}

pub(super) fn shell(script: &str) -> Exec {
    Exec {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/usr/bin:/bin".to_owned(), "ONLY=this".to_owned()],
        cwd: "/".to_owned(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        memory_max: 1 << 30,
        pids_max: 100,
        deadline_ms: 0,
        stdin: false,
        pty: false,
        rows: 0,
        columns: 0,
        user: String::new(),
    }
}

pub(super) fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/stat")).exists()
}

/// Waits until a process has gone, with a deadline.
pub(super) async fn gone(pid: u32) {
    let wait = async {
        while alive(pid) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the process ends");
}

#[test]
fn what_comes_before_hello_is_dropped() {
    with_host(|mut host| async move {
        host.send(7, HostMessage::Ping(Ping {})).await;
        host.send(8, HostMessage::Exec(shell("echo never"))).await;
        host.hello(1).await;
        host.send(9, HostMessage::Ping(Ping {})).await;
        assert_eq!(host.next().await, (9, GuestMessage::Pong(Pong {})));
        assert_eq!(host.hang_up().await, Ended::HangUp);
    });
}

#[test]
fn a_program_runs_with_its_own_streams_environment_and_exit_code() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let (out, err, end) = host.run(5, "echo $ONLY $HOME; echo problem >&2; exit 3").await;
        assert_eq!((out.as_slice(), err.as_slice()), (&b"this\n"[..], &b"problem\n"[..]));
        assert_eq!((end.code, end.signal), (Some(3), None));
        assert!(!end.out_of_memory && !end.deadline_passed && end.wall_us > 0);
        let (_, _, end) = host.run(6, "kill -SEGV $$").await;
        assert_eq!((end.code, end.signal), (None, Some(11)));
    });
}

#[test]
fn a_program_has_default_signals_and_is_the_leader_of_its_session() {
    with_host(|mut host| async move {
        host.hello(1).await;
        // Rust ignores SIGPIPE, and a program must not inherit that; what this host ignores beyond is its own.
        let script = "grep SigIgn /proc/self/status | cut -f2; grep NoNewPrivs /proc/self/status | cut -f2";
        let (out, ..) = host.run(1, script).await;
        let out = String::from_utf8(out).unwrap();
        let (ignored, no_new_privileges) = out.trim_end().split_once('\n').unwrap();
        let ignored = u64::from_str_radix(ignored, 16).unwrap();
        assert_eq!((ignored & (1 << (libc::SIGPIPE - 1)), no_new_privileges), (0, "1"));
        let (out, ..) =
            host.run(2, "echo $$ $(cut -d' ' -f6 /proc/$$/stat); ls /proc/$$/fd | tr '\\n' ' '").await;
        let out = String::from_utf8(out).unwrap();
        let (ids, files) = out.trim_end().split_once('\n').unwrap();
        let (pid, session) = ids.split_once(' ').unwrap();
        assert_eq!(pid, session);
        assert_eq!(files.trim_end(), "0 1 2", "nothing of the agent's leaks into the program");
    });
}

#[test]
fn a_program_that_cannot_start_is_refused_with_its_errno() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let missing = Exec { argv: vec!["no-such-program".to_owned()], ..shell("") };
        let forbidden = Exec { argv: vec!["/etc/passwd".to_owned()], ..shell("") };
        let nowhere = Exec { cwd: "/no/such/directory".to_owned(), ..shell("") };
        let unlimited = Exec { memory_max: 0, ..shell("") };
        for (stream, (request, errno)) in
            (1..).zip([(missing, 2), (forbidden, 13), (nowhere, 2), (unlimited, 22)])
        {
            host.send(stream, HostMessage::Exec(request)).await;
            let (of, answer) = host.next().await;
            let GuestMessage::Refused(refused) = answer else { panic!("{answer:?}") };
            assert_eq!((of, refused.errno), (stream, errno), "{refused:?}");
        }
        let (out, ..) = host.run(9, "echo still here").await;
        assert_eq!(out, b"still here\n");
    });
}

#[test]
fn standard_input_arrives_whole_against_credit() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(Exec { stdin: true, ..shell("sleep 0.1; wc -c") })).await;
        let mut left = 1_000_000_usize;
        let mut credit = 0;
        let mut out = Vec::new();
        loop {
            match host.next().await.1 {
                GuestMessage::Credit(Credit { bytes }) => credit += usize::try_from(bytes).unwrap(),
                GuestMessage::Output(chunk) => out.extend_from_slice(&chunk.data),
                GuestMessage::Exited(end) => break assert_eq!(end.code, Some(0)),
                _ => {}
            }
            assert!(credit <= usize::try_from(INITIAL_CREDIT).unwrap());
            while left > 0 && credit > 0 {
                let length = left.min(credit).min(65536);
                (left, credit) = (left - length, credit - length);
                let piece = StdinData { data: vec![b'x'; length], last: left == 0 };
                host.send(1, HostMessage::StdinData(piece)).await;
            }
        }
        assert_eq!(String::from_utf8(out).unwrap().trim(), "1000000");
    });
}

#[test]
fn a_program_that_does_not_read_its_input_does_not_hold_it_up() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(Exec { stdin: true, ..shell("exec <&-; echo closed") })).await;
        let piece = StdinData { data: vec![0; 65536], last: false };
        loop {
            // Only with credit in hand; the program may well have ended by then.
            match host.next().await.1 {
                GuestMessage::Credit(_) => host.send(1, HostMessage::StdinData(piece.clone())).await,
                GuestMessage::Exited(end) => break assert_eq!(end.code, Some(0)),
                _ => {}
            }
        }
    });
}

#[test]
fn input_without_credit_ends_the_conversation() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(shell("sleep 100"))).await;
        let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
        host.send(1, HostMessage::StdinData(StdinData { data: vec![0], last: false })).await;
        let (stream, answer) = host.next().await;
        assert!(matches!((stream, &answer), (0, GuestMessage::Refused(_))), "{answer:?}");
        gone(started.pid).await;
        host.hello(2).await;
    });
}

#[test]
fn several_programs_at_once_never_mix() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let streams = 1..=8_u32;
        for stream in streams.clone() {
            let script = format!("for i in 1 2 3 4 5; do echo {stream}; sleep 0.01; done; exit {stream}");
            host.send(stream, HostMessage::Exec(shell(&script))).await;
        }
        let mut ended = 0;
        let mut lines = 0;
        while ended < streams.clone().count() {
            let (stream, message) = host.next().await;
            match message {
                GuestMessage::Output(chunk) => {
                    let text = String::from_utf8(chunk.data).unwrap();
                    assert!(text.lines().all(|line| line == stream.to_string()), "{stream}: {text}");
                    lines += text.lines().count();
                }
                GuestMessage::Exited(end) => {
                    assert_eq!(end.code, i32::try_from(stream).ok());
                    ended += 1;
                }
                _ => {}
            }
        }
        assert_eq!(lines, 8 * 5);
    });
}

#[test]
fn what_a_program_leaves_behind_ends_with_it_and_its_last_words_are_kept() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let begun = std::time::Instant::now();
        let (out, _, end) = host.run(1, "sleep 1000 & echo $!; exit 4").await;
        assert_eq!(end.code, Some(4));
        assert!(begun.elapsed() < LIMIT, "the pipes that sleep holds open do not hold up the end");
        gone(String::from_utf8(out).unwrap().trim().parse().unwrap()).await;
    });
}

#[test]
fn a_flood_of_output_arrives_whole_and_lets_a_ping_through() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(shell("head -c 5000000 /dev/zero"))).await;
        host.send(2, HostMessage::Ping(Ping {})).await;
        let (mut bytes, mut pongs) = (0, 0);
        loop {
            match host.next().await {
                (2, GuestMessage::Pong(_)) => pongs += 1,
                (1, GuestMessage::Output(chunk)) => bytes += chunk.data.len(),
                (1, GuestMessage::Exited(_)) => break,
                _ => {}
            }
        }
        assert_eq!((bytes, pongs), (5_000_000, 1));
    });
}

#[test]
fn an_overdue_program_is_killed_even_if_nobody_reads_what_it_writes() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(Exec { deadline_ms: 50, ..shell("echo $$; exec yes") })).await;
        let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
        // Its output has filled every buffer by now, and nothing is taken out of them.
        gone_or_zombie(started.pid).await;
        let (_, _, end) = host.follow(1).await;
        assert_eq!((end.signal, end.deadline_passed), (Some(9), true));
    });
}

/// As [`gone`], for a process whose status nobody has asked for yet.
async fn gone_or_zombie(pid: u32) {
    let dead = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    };
    let wait = async {
        while !dead() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the process ends");
}

#[test]
fn signals_reach_the_program_and_nine_reaches_all_of_it() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let script = "trap 'echo heard; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        for (stream, number) in [(1, 15), (2, 9)] {
            host.send(stream, HostMessage::Exec(shell(script))).await;
            while !matches!(host.next().await.1, GuestMessage::Output(_)) {}
            host.send(stream, HostMessage::Signal(Signal { number })).await;
            let (_, _, end) = host.follow(stream).await;
            let expected = if number == 9 { (None, Some(9)) } else { (Some(7), None) };
            assert_eq!((end.code, end.signal), expected);
        }
        host.send(3, HostMessage::Signal(Signal { number: 15 })).await;
        let (stream, answer) = host.next().await;
        let GuestMessage::Refused(refused) = answer else { panic!("{answer:?}") };
        assert_eq!((stream, refused.errno), (3, libc::ESRCH));
    });
}

#[test]
fn a_new_hello_kills_the_programs_of_the_old_conversation_and_silences_them() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(shell("exec yes"))).await;
        let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
        host.send(0, hello(2)).await;
        while !matches!(host.next().await.1, GuestMessage::HelloAck(ack) if ack.nonce == [2; 16]) {}
        gone(started.pid).await;
        // The same stream is free again, and nothing of the old program is on it.
        let (out, _, end) = host.run(1, "echo fresh").await;
        assert_eq!((out.as_slice(), end.code), (&b"fresh\n"[..], Some(0)));
    });
}

#[test]
fn a_hang_up_kills_the_programs() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(shell("exec sleep 1000"))).await;
        let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
        assert_eq!(host.hang_up().await, Ended::HangUp);
        gone(started.pid).await;
    });
}

#[test]
fn quiesce_ends_everything_and_then_only_a_hello_is_heard() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(shell("exec sleep 1000"))).await;
        let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
        host.send(2, HostMessage::Quiesce(Quiesce {})).await;
        assert_eq!(host.next().await, (2, GuestMessage::Quiesced(Quiesced {})));
        assert!(!alive(started.pid), "nothing runs any more when that is said");
        host.send(3, HostMessage::Ping(Ping {})).await;
        host.hello(2).await;
    });
}

#[test]
fn power_off_is_accepted_before_it_happens() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::PowerOff(PowerOff { grace_ms: 0 })).await;
        assert_eq!(host.next().await, (1, GuestMessage::Done(Done {})));
        assert_eq!(host.session.await.unwrap().unwrap(), Ended::PowerOff);
    });
}

#[test]
fn before_the_power_goes_programs_are_asked_to_end_and_what_they_say_is_heard() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let script = "trap 'echo saved; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
        host.send(1, HostMessage::Exec(shell(script))).await;
        while !matches!(host.next().await.1, GuestMessage::Output(_)) {}
        host.send(2, HostMessage::PowerOff(PowerOff { grace_ms: 30_000 })).await;
        assert_eq!(host.next().await, (2, GuestMessage::Done(Done {})), "accepted before anything else");
        let (out, _, end) = host.follow(1).await;
        assert_eq!((out.as_slice(), end.code), (&b"saved\n"[..], Some(3)));
        assert_eq!(host.session.await.unwrap().unwrap(), Ended::PowerOff);
    });
}

#[test]
fn a_program_that_does_not_end_when_asked_is_killed_when_its_grace_is_over() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(shell("trap '' TERM; echo ready; while :; do sleep 0.01; done")))
            .await;
        while !matches!(host.next().await.1, GuestMessage::Output(_)) {}
        host.send(2, HostMessage::PowerOff(PowerOff { grace_ms: 50 })).await;
        assert_eq!(host.next().await, (2, GuestMessage::Done(Done {})));
        let (_, _, end) = host.follow(1).await;
        assert_eq!(end.signal, Some(9));
        assert_eq!(host.session.await.unwrap().unwrap(), Ended::PowerOff);
    });
}

#[test]
fn a_host_that_reads_nothing_does_not_keep_the_power_on() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(shell("exec yes"))).await;
        let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
        host.send(2, HostMessage::PowerOff(PowerOff { grace_ms: 10 })).await;
        let session = tokio::time::timeout(LIMIT, host.session).await.expect("it ends");
        assert_eq!(session.unwrap().unwrap(), Ended::PowerOff);
        gone_or_zombie(started.pid).await;
    });
}

#[test]
fn a_guest_settles_only_when_no_program_runs_and_there_is_an_image_to_keep() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let settle =
            HostMessage::Settle(Settle { device: "/dev/vdb".to_owned(), bytes: 1, ..Settle::default() });
        // One that has just ended is no obstacle.
        host.run(7, "exit 0").await;
        host.send(1, settle.clone()).await;
        let (stream, answer) = host.next().await;
        let GuestMessage::Refused(refused) = answer else { panic!("{answer:?}") };
        assert_eq!((stream, refused.errno), (1, libc::ENODEV), "{refused:?}");
        host.send(2, HostMessage::Exec(shell("exec sleep 1000"))).await;
        let (_, GuestMessage::Started(_)) = host.next().await else { panic!("not started") };
        host.send(3, settle).await;
        let (stream, answer) = host.next().await;
        let GuestMessage::Refused(refused) = answer else { panic!("{answer:?}") };
        assert_eq!((stream, refused.errno), (3, libc::EBUSY), "{refused:?}");
    });
}

#[test]
fn a_stream_in_use_and_an_unknown_signal_end_the_conversation() {
    with_host(|mut host| async move {
        for (nonce, breach) in [
            (1, HostMessage::Exec(shell("true"))),
            (2, HostMessage::Signal(Signal { number: 0 })),
            (3, HostMessage::Signal(Signal { number: 1 << 31 })),
        ] {
            host.hello(nonce).await;
            host.send(1, HostMessage::Exec(shell("exec sleep 1000"))).await;
            let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
            host.send(1, breach).await;
            let (stream, answer) = host.next().await;
            assert!(matches!((stream, &answer), (0, GuestMessage::Refused(_))), "{answer:?}");
            gone(started.pid).await;
        }
    });
}

#[test]
fn an_unknown_request_is_refused_and_changes_nothing() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let frame = encode(&HostFrame { stream: 4, message: None }).unwrap();
        host.socket.write_all(&frame).await.unwrap();
        let (stream, answer) = host.next().await;
        let GuestMessage::Refused(refused) = answer else { panic!("{answer:?}") };
        assert_eq!((stream, refused.errno), (4, libc::ENOSYS));
        host.send(5, HostMessage::Clock(Clock { set_unix_ns: 0 })).await;
        assert!(matches!(host.next().await, (5, GuestMessage::ClockRead(_))));
    });
}

#[test]
fn after_bytes_that_are_no_frames_a_new_host_is_understood() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.socket.write_all(&[0xff; 100]).await.unwrap();
        let (stream, answer) = host.next().await;
        assert!(matches!((stream, &answer), (0, GuestMessage::Refused(_))), "{answer:?}");
        host.send(1, HostMessage::Ping(Ping {})).await;
        host.hello(2).await;
    });
}

#[test]
fn a_hello_behind_half_a_frame_is_found() {
    with_host(|mut host| async move {
        host.hello(1).await;
        for nonce in 2..6 {
            let mut half = 5000_u32.to_be_bytes().to_vec();
            half.resize(4 + 1000 * usize::from(nonce), 0);
            host.socket.write_all(&half).await.unwrap();
            host.send(0, hello(nonce)).await;
            // Depending on how much of the old frame there was, a complaint about it comes first.
            while !matches!(host.next().await.1, GuestMessage::HelloAck(ack) if ack.nonce == [nonce; 16]) {}
        }
        host.send(1, HostMessage::Ping(Ping {})).await;
        assert_eq!(host.next().await, (1, GuestMessage::Pong(Pong {})));
    });
}

#[test]
fn a_file_put_comes_back_in_its_tree() {
    with_host(|mut host| async move {
        let root = tempfile::tempdir().unwrap();
        host.hello(1).await;
        let me = shell("");
        let path = root.path().join("in/data").to_str().unwrap().to_owned();
        host.send(1, HostMessage::PutFile(PutFile { path, mode: 0o600, uid: me.uid, gid: me.gid })).await;
        assert_eq!(host.next().await, (1, GuestMessage::Credit(Credit { bytes: INITIAL_CREDIT })));
        host.send(1, HostMessage::FileData(FileData { data: b"12345".to_vec(), last: true })).await;
        assert_eq!(host.next().await, (1, GuestMessage::Done(Done {})));
        let tree = GetTree { path: root.path().to_str().unwrap().to_owned(), max_bytes: 5, max_files: 1 };
        host.send(2, HostMessage::GetTree(tree)).await;
        let (_, GuestMessage::FileHeader(header)) = host.next().await else { panic!("no header") };
        assert_eq!((header.path.as_str(), header.mode, header.size), ("in/data", 0o600, 5));
        let data = FileData { data: b"12345".to_vec(), last: false };
        assert_eq!(host.next().await, (2, GuestMessage::FileData(data)));
        let end = FileData { data: Vec::new(), last: true };
        assert_eq!(host.next().await, (2, GuestMessage::FileData(end)));
        assert!(matches!(host.next().await, (2, GuestMessage::TreeDone(_))));
    });
}
