//! Programs asked for over the control socket, against a guest that is played.

use super::frame::{receive, receive_patiently, send, send_patiently};
use super::{ControlServer, Desk, Doing, VmDesk, greeting};
use crate::link::Link;
use crate::vm::serve;
use outlast_wire::control::{Answer, ExecRequest, Request};
use outlast_wire::guest::{
    self, Credit, Exited, GuestFrame, GuestMessage, Hello, HelloAck, HostFrame, HostMessage, Output,
    PROTOCOL, Refused, Started,
};
use outlast_wire::intent::Purpose;
use outlast_wire::output_log::{OutputLogReader, Record};
use outlast_wire::paths::Evidence;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// The guest's end of the link.
struct Guest(UnixStream);

impl Guest {
    async fn say(&mut self, stream: u32, message: GuestMessage) {
        let frame = guest::encode(&GuestFrame { stream, message: Some(message) }).unwrap();
        self.0.write_all(&frame).await.unwrap();
    }

    async fn hear(&mut self) -> (u32, HostMessage) {
        let length = self.0.read_u32().await.unwrap();
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body).await.unwrap();
        let frame: HostFrame = guest::decode(&body).unwrap();
        (frame.stream, frame.message.unwrap())
    }

    async fn write(&mut self, stream: u32, descriptor: u32, data: &[u8]) {
        self.say(stream, GuestMessage::Output(Output { descriptor, data: data.to_vec() })).await;
    }

    async fn exit(&mut self, stream: u32, code: i32) {
        self.say(stream, GuestMessage::Exited(Exited { code: Some(code), ..Exited::default() })).await;
    }

    /// Waits for a program and starts it.
    async fn started(&mut self) -> u32 {
        let (stream, message) = self.hear().await;
        assert!(matches!(message, HostMessage::Exec(_)), "{message:?}");
        self.say(stream, GuestMessage::Started(Started { pid: 2 })).await;
        stream
    }
}

/// A VM without a VMM: a control socket, its desk, and the loop over a link to a played guest.
struct Vm {
    path: PathBuf,
    _server: ControlServer,
    _kills: mpsc::Receiver<()>,
}

async fn vm(directory: &Path) -> (Vm, Guest) {
    let evidence = Evidence::at(directory.to_owned());
    let purpose =
        Purpose::Vm { vm: "v".to_owned(), name: "web".to_owned(), memory_max: 1 << 26, pids_max: 100 };
    let (desk, asks) = VmDesk::of(&purpose, &evidence, 1 << 28).unwrap();
    let execs = Rc::clone(&desk.execs);
    let (kills, received) = mpsc::channel(1);
    let desk = Desk {
        incarnation: "inc".to_owned(),
        state: Doing::new("running"),
        kills,
        probes: Rc::default(),
        vm: Some(desk),
    };
    let path = directory.join("control.sock");
    let server = ControlServer::start(&path, Rc::new(desk)).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut link, mut guest) = (Link::new(ours), Guest(theirs));
    let answer = async {
        let (_, HostMessage::Hello(Hello { nonce, .. })) = guest.hear().await else { panic!() };
        let ack = HelloAck { nonce, protocol: PROTOCOL, ..HelloAck::default() };
        guest.say(0, GuestMessage::HelloAck(ack)).await;
    };
    let (hello, ()) = tokio::join!(link.hello(), answer);
    hello.unwrap();
    tokio::task::spawn_local(serve(link, execs, asks, evidence));
    (Vm { path, _server: server, _kills: received }, guest)
}

impl Vm {
    async fn ask(&self, request: &Request) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        assert!(receive(&mut stream).await.unwrap().is_some());
        send(&mut stream, serde_json::to_vec(&greeting())).await.unwrap();
        say(&mut stream, request).await;
        stream
    }
}

async fn say(stream: &mut UnixStream, request: &Request) {
    send(stream, serde_json::to_vec(request)).await.unwrap();
}

async fn hear(stream: &mut UnixStream) -> Answer {
    serde_json::from_value(receive_patiently(stream).await.unwrap().unwrap()).unwrap()
}

fn program(argv: &[&str]) -> ExecRequest {
    ExecRequest {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: vec!["LANG=de".to_owned()],
        cwd: None,
        user: None,
        stdin: true,
        pty: false,
        rows: 0,
        columns: 0,
        timeout_ms: None,
        detach: false,
        output_limit: None,
    }
}

/// What a log holds, as far as its length was told.
fn logged(log: &Path, length: u64) -> Vec<u8> {
    let bytes = std::fs::read(log).unwrap();
    let mut reader = OutputLogReader::new();
    reader.push(&bytes[..usize::try_from(length).unwrap()]);
    let mut seen = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        if let Record::Data { bytes, .. } = record {
            seen.extend(bytes);
        }
    }
    seen
}

async fn begun(client: &mut UnixStream) -> (u32, PathBuf) {
    let answer = hear(client).await;
    let Answer::ExecStarted { exec, log } = answer else { panic!("{answer:?}") };
    (exec, log)
}

#[tokio::test]
async fn a_program_is_completed_fed_heard_and_its_end_told() {
    let directory = tempfile::tempdir().unwrap();
    let scene = async {
        let (vm, mut guest) = vm(directory.path()).await;
        let mut client = vm.ask(&Request::Exec(program(&["cat"]))).await;
        let (stream, HostMessage::Exec(exec)) = guest.hear().await else { panic!() };
        assert_eq!((exec.uid, exec.gid, exec.memory_max, exec.pids_max), (0, 0, 1 << 26, 100));
        assert!(exec.env.contains(&"HOSTNAME=web".to_owned()) && exec.env.contains(&"LANG=de".to_owned()));
        assert_eq!(exec.env.iter().filter(|assignment| assignment.starts_with("LANG=")).count(), 1);
        guest.say(stream, GuestMessage::Started(Started { pid: 2 })).await;
        let (number, log) = begun(&mut client).await;
        // Input waits for room, and comes in pieces for which there is some.
        say(&mut client, &Request::Stdin { exec: number, data: b"hello".to_vec(), last: true }).await;
        guest.say(stream, GuestMessage::Credit(Credit { bytes: 3 })).await;
        let mut given = Vec::new();
        while given.len() < 3 {
            let (_, HostMessage::StdinData(data)) = guest.hear().await else { panic!() };
            given.extend(data.data);
        }
        assert_eq!(given, b"hel");
        guest.say(stream, GuestMessage::Credit(Credit { bytes: 100 })).await;
        let (_, HostMessage::StdinData(rest)) = guest.hear().await else { panic!() };
        let (_, HostMessage::StdinData(end)) = guest.hear().await else { panic!() };
        assert_eq!((rest.data.as_slice(), rest.last), (&b"lo"[..], false));
        assert!(end.data.is_empty() && end.last);
        guest.write(stream, 1, b"hello").await;
        let Answer::ExecOutput { log_bytes, .. } = hear(&mut client).await else { panic!() };
        assert_eq!(logged(&log, log_bytes), b"hello");
        guest.exit(stream, 7).await;
        let Answer::ExecEnded { outcome, log_bytes, .. } = hear(&mut client).await else { panic!() };
        assert_eq!(outcome.exit_code, Some(7));
        assert_eq!(logged(&log, log_bytes), b"hello");
        // It is the client's as long as the client is there.
        drop(client);
        while log.exists() {
            tokio::task::yield_now().await;
        }
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn two_programs_never_mix_and_a_client_that_stands_still_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let scene = async {
        let (vm, mut guest) = vm(directory.path()).await;
        let mut slow = vm.ask(&Request::Exec(program(&["yes"]))).await;
        let first = guest.started().await;
        let (_, log) = begun(&mut slow).await;
        let mut quick = vm.ask(&Request::Exec(program(&["date"]))).await;
        let second = guest.started().await;
        // Nobody reads what the slow one is told, however much there is.
        for _ in 0..2000 {
            guest.write(first, 1, &[b'y'; 1000]).await;
        }
        guest.write(second, 2, b"now").await;
        guest.exit(second, 0).await;
        let (_, other_log) = begun(&mut quick).await;
        let end = loop {
            match hear(&mut quick).await {
                Answer::ExecOutput { log_bytes, .. } => assert_eq!(logged(&other_log, log_bytes), b"now"),
                end => break end,
            }
        };
        assert!(matches!(end, Answer::ExecEnded { outcome, .. } if outcome.kind == "completed"));
        guest.exit(first, 0).await;
        let mut heard = 0;
        let log_bytes = loop {
            heard += 1;
            match hear(&mut slow).await {
                Answer::ExecEnded { log_bytes, .. } => break log_bytes,
                Answer::ExecOutput { log_bytes, .. } if heard == 1 => {
                    assert!(logged(&log, log_bytes).iter().all(|byte| *byte == b'y'));
                }
                _ => {}
            }
        };
        assert!(log_bytes > 2_000_000, "{log_bytes}");
        assert!(heard < 2000, "only news is told: {heard}");
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_kills_its_program_and_a_detached_one_lives_on() {
    let directory = tempfile::tempdir().unwrap();
    let scene = async {
        let (vm, mut guest) = vm(directory.path()).await;
        let mut client = vm.ask(&Request::Exec(program(&["sleep"]))).await;
        let stream = guest.started().await;
        let (_, log) = begun(&mut client).await;
        drop(client);
        let (on, message) = guest.hear().await;
        assert!(matches!(message, HostMessage::Signal(signal) if signal.number == 9) && on == stream);
        guest.exit(stream, 137).await;
        while log.exists() {
            tokio::task::yield_now().await;
        }
        let mut client =
            vm.ask(&Request::Exec(ExecRequest { detach: true, ..program(&["daemonize"]) })).await;
        let stream = guest.started().await;
        let (number, log) = begun(&mut client).await;
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "there is nothing more to be said");
        guest.write(stream, 1, b"still here").await;
        // What is asked next on a connection of its own finds it living.
        let mut other = vm.ask(&Request::Signal { exec: number, number: 15 }).await;
        let (_, message) = guest.hear().await;
        assert!(matches!(message, HostMessage::Signal(signal) if signal.number == 15), "{message:?}");
        assert_eq!(hear(&mut other).await, Answer::Accepted);
        guest.exit(stream, 0).await;
        let mut over = vm.ask(&Request::Signal { exec: number, number: 15 }).await;
        while hear(&mut over).await == Answer::Accepted {
            over = vm.ask(&Request::Signal { exec: number, number: 15 }).await;
        }
        assert_eq!(logged(&log, std::fs::metadata(&log).unwrap().len()), b"still here");
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn what_never_began_is_refused_and_what_a_dead_vm_ran_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let scene = async {
        let (vm, mut guest) = vm(directory.path()).await;
        // Whom the guest knows is the guest's to say; an agent that does not know the question must refuse it.
        let nobody = ExecRequest { user: Some("nobody?".to_owned()), ..program(&["id"]) };
        let mut client = vm.ask(&Request::Exec(nobody)).await;
        let (stream, heard) = guest.hear().await;
        let HostMessage::Exec(exec) = heard else { panic!("{heard:?}") };
        assert_eq!((exec.user.as_str(), exec.uid, exec.gid), ("nobody?", u32::MAX, u32::MAX));
        assert!(!exec.env.iter().any(|entry| entry.starts_with("HOME=")), "{:?}", exec.env);
        let refused = Refused {
            operation: "start the program".to_owned(),
            errno: 2,
            cause: "execute\u{1b}[2J".to_owned(),
        };
        guest.say(stream, GuestMessage::Refused(refused)).await;
        let Answer::Refused { cause } = hear(&mut client).await else { panic!() };
        assert!(cause.contains("No such file") && !cause.contains('\u{1b}'), "{cause:?}");
        assert!(!Evidence::at(directory.path().to_owned()).exec_log(1).exists());
        let mut client = vm.ask(&Request::Exec(program(&["sleep"]))).await;
        guest.started().await;
        begun(&mut client).await;
        drop(guest);
        let end = hear(&mut client).await;
        assert!(matches!(&end, Answer::ExecEnded { outcome, .. } if outcome.kind == "lost"), "{end:?}");
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_while_its_input_waits_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let scene = async {
        let (vm, mut guest) = vm(directory.path()).await;
        let mut client = vm.ask(&Request::Exec(program(&["sleep"]))).await;
        let stream = guest.started().await;
        let (number, _) = begun(&mut client).await;
        // The guest gives no credit, so nothing of this is taken, and what is behind it is not read.
        for _ in 0..2 {
            say(&mut client, &Request::Stdin { exec: number, data: vec![7; 1000], last: false }).await;
        }
        drop(client);
        let (on, message) = guest.hear().await;
        assert!(matches!(message, HostMessage::Signal(signal) if signal.number == 9) && on == stream);
    };
    LocalSet::new().run_until(scene).await;
}

#[tokio::test]
async fn a_guest_that_gives_credit_and_takes_nothing_fills_no_memory() {
    let directory = tempfile::tempdir().unwrap();
    let scene = async {
        let (vm, mut guest) = vm(directory.path()).await;
        let mut client = vm.ask(&Request::Exec(program(&["cat"]))).await;
        let stream = guest.started().await;
        let (number, _) = begun(&mut client).await;
        let flood = async {
            loop {
                let data = vec![7; 64 * 1024];
                let request = serde_json::to_vec(&Request::Stdin { exec: number, data, last: false });
                send_patiently(&mut client, request).await.unwrap();
            }
        };
        let generous = async {
            loop {
                guest.say(stream, GuestMessage::Credit(Credit { bytes: 1 << 20 })).await;
                tokio::task::yield_now().await;
            }
        };
        // The guest reads nothing of its link: what the client may send ends with the socket and the bound.
        let both = async {
            tokio::select! { () = flood => {}, () = generous => {} }
        };
        let limit = std::time::Duration::from_millis(500);
        assert!(tokio::time::timeout(limit, both).await.is_err());
        // What waits for the guest is bounded; whoever asks for more is told so.
        let mut other = vm.ask(&Request::Signal { exec: number, number: 15 }).await;
        let answer = hear(&mut other).await;
        assert!(
            matches!(&answer, Answer::Refused { cause } if cause.contains("has not taken")),
            "{answer:?}"
        );
    };
    LocalSet::new().run_until(scene).await;
}
