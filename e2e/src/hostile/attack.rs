//! What the hostile agent answers: the truth, until its phase has come.
//!
//! A phase is named after the host's message that begins it: `hello`, `reseed`, `identity`, `clock`, `directory`,
//! `file`, `exec`, `tree`; two lie between messages: `started` (the program runs) and `exit` (it has ended); and `resume`
//! is the second certification, after a pause.

use super::speech::{Speech, frame, rubbish};
use super::tree;
use outlast_wire::guest::{
    Clock, ClockRead, Credit, Done, Exec, Exited, FileData, GuestMessage, Hello, HelloAck, HostFrame,
    HostMessage, Identity, MAX_CHUNK, Output, PROTOCOL, Pong, Refused, Reseeded, Started, TreeDone,
};
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Text that plays with a terminal: clears it, names its window, and breaks the line.
const ESCAPES: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\r\nroot@host# ";

/// The agent.
pub(super) struct Agent {
    speech: Speech,
    phase: String,
    deed: String,
    /// What the guest's clock must be set forward by, in nanoseconds.
    clock: i128,
    /// Everything that was said, when it is to be said again.
    said: Vec<u8>,
    /// How often it was certified.
    certified: u32,
}

impl Agent {
    /// An agent that is honest until that phase.
    pub(super) fn new(speech: Speech, phase: String, deed: String) -> Self {
        Self { speech, phase, deed, clock: 0, said: Vec::new(), certified: 0 }
    }

    /// Answers for ever.
    pub(super) fn live(mut self) {
        loop {
            let HostFrame { stream, message } = self.speech.hear();
            let Some(message) = message else { continue };
            let phase = self.phase_of(&message);
            if self.is(phase) {
                self.attack(stream, &message);
            } else {
                self.answer(stream, message);
            }
        }
    }

    /// The phase that a message begins.
    fn phase_of(&mut self, message: &HostMessage) -> &'static str {
        if matches!(message, HostMessage::Reseed(_)) {
            self.certified += 1;
            if self.certified > 1 {
                return "resume";
            }
        }
        phase_of(message)
    }

    fn is(&self, phase: &str) -> bool {
        self.phase == phase
    }

    fn say(&mut self, stream: u32, message: GuestMessage) {
        let bytes = frame(stream, message);
        self.speech.raw(&bytes);
        if self.is("repeat") {
            // Again at once, and everything of before once more.
            self.speech.raw(&bytes);
            self.said.extend_from_slice(&bytes);
            let said = self.said.clone();
            self.speech.raw(&said);
        }
    }

    /// The truth.
    fn answer(&mut self, stream: u32, message: HostMessage) {
        let answer = match message {
            HostMessage::Hello(hello) => GuestMessage::HelloAck(acknowledge(&hello)),
            HostMessage::Reseed(_) => GuestMessage::Reseeded(Reseeded {}),
            HostMessage::SetIdentity(wanted) => GuestMessage::Identity(Identity {
                host_name: wanted.host_name,
                machine_id: wanted.machine_id,
                addresses: Vec::new(),
            }),
            HostMessage::Clock(clock) => GuestMessage::ClockRead(self.set_clock(clock)),
            HostMessage::PutFile(_) => GuestMessage::Credit(Credit { bytes: 256 * 1024 }),
            HostMessage::FileData(FileData { last: true, .. })
            | HostMessage::MakeDirectory(_)
            | HostMessage::Settle(_)
            | HostMessage::Freeze(_)
            | HostMessage::Thaw(_)
            | HostMessage::Resize(_)
            | HostMessage::Signal(_) => GuestMessage::Done(Done {}),
            HostMessage::FileData(FileData { data, .. }) => {
                GuestMessage::Credit(Credit { bytes: u32::try_from(data.len()).unwrap_or(0) })
            }
            HostMessage::Exec(exec) => return self.run(stream, &exec),
            HostMessage::GetTree(_) => GuestMessage::TreeDone(TreeDone { files: 0, bytes: 0, skipped: 0 }),
            HostMessage::Ping(_) => GuestMessage::Pong(Pong {}),
            HostMessage::StdinData(_) | HostMessage::Quiesce(_) | HostMessage::PowerOff(_) => return,
        };
        self.say(stream, answer);
    }

    fn set_clock(&mut self, clock: Clock) -> ClockRead {
        let now = i128::from(unix_ns());
        if clock.set_unix_ns > 0 {
            self.clock = i128::from(clock.set_unix_ns) - now;
        }
        ClockRead { unix_ns: u64::try_from(now + self.clock).unwrap_or(0) }
    }

    /// A program that says one line and ends well.
    fn run(&mut self, stream: u32, exec: &Exec) {
        self.say(stream, GuestMessage::Started(Started { pid: 2 }));
        if self.is("started") {
            return self.while_it_runs(stream, exec);
        }
        self.say(stream, output(b"hello from a liar\n"));
        let end = |code, signal| Exited { code, signal, wall_us: 1, ..Exited::default() };
        let ends = match (self.phase.as_str(), self.deed.as_str()) {
            ("exit", "256") => vec![end(Some(256), None)],
            ("exit", "negative") => vec![end(Some(-1), None)],
            ("exit", "both") => vec![end(Some(0), Some(9))],
            ("exit", "neither") => vec![end(None, None)],
            ("exit", "signal-99") => vec![end(None, Some(99))],
            ("exit", "twice") => vec![end(Some(0), None), end(Some(3), None)],
            _ => vec![end(Some(0), None)],
        };
        for exited in ends {
            self.say(stream, GuestMessage::Exited(exited));
        }
        if self.is("exit") && self.deed == "never-silent" {
            self.flood(stream, output(&vec![b'z'; MAX_CHUNK]));
        }
    }

    /// Attacks of a guest whose program runs.
    fn while_it_runs(&mut self, stream: u32, exec: &Exec) {
        match self.deed.as_str() {
            "flood" => self.flood(stream, output(&vec![b'x'; MAX_CHUNK])),
            "flood-of-nothing" => self.flood(stream, GuestMessage::Credit(Credit { bytes: 0 })),
            "flood-of-bytes" => self.flood(stream, output(b"x")),
            "flood-elsewhere" => self.flood(0, GuestMessage::Pong(Pong {})),
            "credit" => self.take_all_of_stdin(stream, exec),
            "panic" => drop(fs::write("/proc/sysrq-trigger", "c")),
            "reset" => drop(fs::write("/proc/sysrq-trigger", "b")),
            "power-off" => drop(rustix::system::reboot(rustix::system::RebootCommand::PowerOff)),
            "end" => std::process::exit(0),
            "memory" => eat_memory(),
            _ => self.anywhere(),
        }
        // What ends the guest ends it here; whatever did not work is a guest that is silent.
        silence();
    }

    fn take_all_of_stdin(&mut self, stream: u32, exec: &Exec) {
        assert!(exec.stdin, "this attack needs standard input");
        for _ in 0..8 {
            self.say(stream, GuestMessage::Credit(Credit { bytes: u32::MAX }));
        }
        loop {
            if let Some(HostMessage::StdinData(data)) = self.speech.hear().message {
                if data.last {
                    self.say(stream, GuestMessage::Exited(Exited { code: Some(0), ..Exited::default() }));
                    return;
                }
            }
        }
    }

    /// The attack that was asked for, in the place of an answer to `message`.
    fn attack(&mut self, stream: u32, message: &HostMessage) {
        match (message, self.deed.as_str()) {
            (HostMessage::Hello(hello), "wrong-nonce") => {
                let ack = HelloAck { nonce: vec![7; 16], ..acknowledge(hello) };
                self.say(stream, GuestMessage::HelloAck(ack));
            }
            (HostMessage::Hello(hello), "wrong-protocol") => {
                let ack = HelloAck { protocol: PROTOCOL + 1, ..acknowledge(hello) };
                self.say(stream, GuestMessage::HelloAck(ack));
            }
            (HostMessage::Hello(hello), "old") => {
                let ack = HelloAck { uptime_ms: u64::MAX, ..acknowledge(hello) };
                self.say(stream, GuestMessage::HelloAck(ack));
            }
            (HostMessage::Hello(hello), "escapes") => {
                let said = HelloAck {
                    agent_version: ESCAPES.repeat(40),
                    kernel: ESCAPES.repeat(40),
                    boot_id: ESCAPES.to_owned(),
                    ..acknowledge(hello)
                };
                self.say(stream, GuestMessage::HelloAck(said));
            }
            (HostMessage::SetIdentity(_), "another") => {
                let identity =
                    Identity { host_name: ESCAPES.to_owned(), machine_id: String::new(), addresses: vec![] };
                self.say(stream, GuestMessage::Identity(identity));
            }
            (HostMessage::Clock(_), "hour-ahead") => {
                let unix_ns = unix_ns() + 3_600_000_000_000;
                self.say(stream, GuestMessage::ClockRead(ClockRead { unix_ns }));
            }
            (HostMessage::Clock(_), "hour-behind") => {
                let unix_ns = unix_ns() - 3_600_000_000_000;
                self.say(stream, GuestMessage::ClockRead(ClockRead { unix_ns }));
            }
            (HostMessage::Clock(_), "end-of-time") => {
                self.say(stream, GuestMessage::ClockRead(ClockRead { unix_ns: u64::MAX }));
            }
            // A program that was not sent yet has started already. Said before the answer: after it the host may
            // have asked more.
            (HostMessage::Clock(_), "early") => {
                for ahead in 1..20 {
                    self.say(stream + ahead, GuestMessage::Started(Started { pid: 2 }));
                }
            }
            (HostMessage::Exec(_), "output-first") => self.say(stream, output(b"not started yet\n")),
            (_, "refuse") => {
                let refused =
                    Refused { operation: ESCAPES.to_owned(), errno: -1, cause: ESCAPES.repeat(100) };
                self.say(stream, GuestMessage::Refused(refused));
            }
            (_, deed) => {
                let deed = deed.to_owned();
                if !tree::send(&mut self.speech, stream, &deed) {
                    self.anywhere();
                }
            }
        }
    }

    /// Attacks that make sense in every phase.
    fn anywhere(&mut self) {
        let announced = |length: u32| length.to_be_bytes().to_vec();
        match self.deed.as_str() {
            "rubbish" => self.speech.raw(&rubbish(1 << 20)),
            "malformed" => self.speech.raw(&[announced(64), rubbish(64)].concat()),
            "huge" => self.speech.raw(&announced(u32::MAX)),
            "over" => self.speech.raw(&announced(128 * 1024)),
            "truncated" => self.speech.raw(&[announced(1000), rubbish(500)].concat()),
            "never-ending" => self.never_ending(),
            "unknown" => self.speech.raw(&announced(0)),
            "unopened" => self.say(4_000_000, GuestMessage::Pong(Pong {})),
            "interrupts" => super::hang::hang(),
            "leftovers" => self.flood(0, GuestMessage::Pong(Pong {})),
            _ => {}
        }
        silence();
    }

    /// A frame of which a byte comes now and then.
    fn never_ending(&mut self) {
        self.speech.raw(&60_000_u32.to_be_bytes());
        loop {
            self.speech.raw(&[0]);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The same for ever, as fast as it goes.
    fn flood(&mut self, stream: u32, message: GuestMessage) {
        let one = frame(stream, message);
        let many = one.repeat((MAX_CHUNK / one.len()).max(1));
        loop {
            self.speech.raw(&many);
        }
    }
}

fn phase_of(message: &HostMessage) -> &'static str {
    match message {
        HostMessage::Hello(_) => "hello",
        HostMessage::Reseed(_) => "reseed",
        HostMessage::SetIdentity(_) => "identity",
        HostMessage::Clock(_) => "clock",
        HostMessage::MakeDirectory(_) => "directory",
        HostMessage::PutFile(_) => "file",
        HostMessage::Exec(_) => "exec",
        HostMessage::GetTree(_) => "tree",
        HostMessage::Ping(_) => "ping",
        HostMessage::Settle(_) => "settle",
        HostMessage::FileData(_)
        | HostMessage::Freeze(_)
        | HostMessage::Thaw(_)
        | HostMessage::Resize(_)
        | HostMessage::StdinData(_)
        | HostMessage::Signal(_)
        | HostMessage::Quiesce(_)
        | HostMessage::PowerOff(_) => "",
    }
}

fn acknowledge(hello: &Hello) -> HelloAck {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split(['.', ' ']).next().and_then(|text| text.parse::<u64>().ok());
    HelloAck {
        nonce: hello.nonce.clone(),
        protocol: PROTOCOL,
        agent_version: "0".to_owned(),
        boot_id: String::new(),
        kernel: "linux".to_owned(),
        uptime_ms: 1000 * seconds.unwrap_or(0) + 500,
        kept: Vec::new(),
        last_stream: 0,
        numbers: Vec::new(),
    }
}

fn output(bytes: &[u8]) -> GuestMessage {
    GuestMessage::Output(Output { descriptor: 1, data: bytes.to_vec() })
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(0)
}

/// Takes all memory there is, and touches it.
fn eat_memory() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&eaten);
    }
}

fn silence() -> ! {
    loop {
        std::thread::park();
    }
}
