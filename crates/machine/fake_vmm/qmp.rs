//! The fake's end of the monitor: answers commands in order, with what its scenario says otherwise.

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// What one scenario does otherwise than a VMM in good health.
pub(crate) struct Script {
    scenario: String,
}

/// What becomes of the conversation after a command.
enum Then {
    GoOn,
    Leave,
}

impl Script {
    pub(crate) fn of(scenario: &str) -> Self {
        Self { scenario: scenario.to_owned() }
    }

    fn is(&self, scenario: &str) -> bool {
        self.scenario == scenario
    }
}

pub(crate) struct Conversation {
    stream: UnixStream,
    script: Script,
    unread: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    asked: Vec<String>,
}

impl Conversation {
    pub(crate) fn new(stream: UnixStream, script: Script) -> Self {
        Self { stream, script, unread: Vec::new(), descriptors: Vec::new(), asked: Vec::new() }
    }

    pub(crate) fn run(mut self) {
        self.say(&json!({ "QMP": { "version": {}, "capabilities": ["oob"] } }));
        while let Some(command) = self.next_command() {
            let name = command["execute"].as_str().expect("a command's name").to_owned();
            self.asked.push(name.clone());
            if let Then::Leave = self.answer(&name, &command) {
                return;
            }
        }
    }

    fn answer(&mut self, name: &str, command: &Value) -> Then {
        let id = command["id"].clone();
        match (name, self.script.scenario.as_str()) {
            ("qmp_capabilities", "never-answers") => return Then::GoOn,
            ("qmp_capabilities", "talks-nonsense") => self.write(b"I am not a monitor\n"),
            ("qmp_capabilities", "never-ends-its-line") => self.write(&vec![b'x'; 1 << 20]),
            ("cont", "refuses-to-run") => {
                let desc = "no\u{7} bootable device";
                self.say(&json!({ "error": { "class": "GenericError", "desc": desc }, "id": id }));
                return Then::GoOn;
            }
            ("migrate", _) if self.is_stuck() => {
                let desc = "Can't migrate the vm that was paused due to previous migration";
                self.say(&json!({ "error": { "class": "GenericError", "desc": desc }, "id": id }));
                return Then::GoOn;
            }
            ("migrate-incoming" | "migrate", _) => {
                self.say(&json!({ "return": {}, "id": id }));
                self.migrate(name, &command["arguments"]);
                return Then::GoOn;
            }
            ("query-migrate", _) => {
                let info = json!({ "status": "failed", "error-desc": "the state is from another machine" });
                self.say(&json!({ "return": info, "id": id }));
                return Then::GoOn;
            }
            ("query-status", _) => {
                let migrated =
                    self.asked.iter().rev().find(|name| matches!(name.as_str(), "migrate" | "cont"));
                let status =
                    if migrated.is_some_and(|name| name == "migrate") { "postmigrate" } else { "paused" };
                self.say(&json!({ "return": { "running": false, "status": status }, "id": id }));
                return Then::GoOn;
            }
            ("closefd", _) => self.descriptors.clear(),
            ("add-fd", _) => {
                assert_eq!(self.descriptors.len(), 1, "a descriptor came along");
                self.say(&json!({ "return": { "fd": 30, "fdset-id": 2 }, "id": id }));
                return Then::GoOn;
            }
            _ => {}
        }
        self.say(&json!({ "return": {}, "id": id }));
        self.afterwards(name)
    }

    /// A machine that was migrated and has not run since is not migrated again.
    fn is_stuck(&self) -> bool {
        let earlier = self.asked.iter().rev().skip(1);
        earlier
            .into_iter()
            .find(|name| matches!(name.as_str(), "migrate" | "cont"))
            .is_some_and(|n| n == "migrate")
    }

    /// What happens to a VMM once it runs, or is asked to end.
    fn afterwards(&mut self, name: &str) -> Then {
        match (name, self.script.scenario.as_str()) {
            ("quit", _) => std::process::exit(0),
            ("cont", "guest-panics-without-end") => {
                for _ in 0..1000 {
                    self.event("GUEST_PANICKED", &json!({ "action": "pause" }));
                }
                self.event("SHUTDOWN", &json!({ "guest": true, "reason": "guest-panic" }));
                let us = rustix::process::getpid();
                rustix::process::kill_process(us, rustix::process::Signal::KILL).expect("our own death");
                Then::GoOn
            }
            ("cont", "guest-shuts-down") => self.leave_with("guest-shutdown"),
            ("cont", "guest-resets") => self.leave_with("guest-reset"),
            ("cont", "hangs-up") => {
                self.stream.shutdown(std::net::Shutdown::Both).expect("a stream");
                loop {
                    std::thread::park();
                }
            }
            ("cont", "speaks-of-the-future") => {
                self.event("GUEST_LEVITATED", &json!({ "height": { "unit": "m" } }));
                self.event("SHUTDOWN", &json!({ "guest": true, "reason": "guest-ascension" }));
                self.event("MIGRATION", &json!({ "status": "transcendent" }));
                self.say(&json!({ "return": {}, "id": 4711 }));
                Then::GoOn
            }
            _ => Then::GoOn,
        }
    }

    /// Events first, and then at once the exit that may overtake them.
    fn leave_with(&mut self, reason: &str) -> Then {
        self.event("SHUTDOWN", &json!({ "guest": true, "reason": reason }));
        Then::Leave
    }

    fn migrate(&mut self, name: &str, arguments: &Value) {
        let set = arguments["uri"].as_str().expect("where to");
        assert!(self.asked.contains(&"migrate-set-capabilities".to_owned()), "capabilities come first");
        self.event("MIGRATION", &json!({ "status": "setup" }));
        self.event("MIGRATION", &json!({ "status": "active" }));
        if self.script.is("state-cannot-be-read") {
            self.event("MIGRATION", &json!({ "status": "failed" }));
            return;
        }
        if name == "migrate" {
            let file = File::from(self.descriptors.pop().expect("the descriptor that was added"));
            match set {
                "file:/dev/fdset/2" => { &file }.write_all(b"device state").expect("it can be written"),
                "fd:state" => self.write_memory(file),
                other => panic!("{other}"),
            }
        } else {
            assert_eq!(set, "file:/dev/fdset/1");
        }
        self.event("MIGRATION", &json!({ "status": "completed" }));
    }

    /// Devices and memory of a machine of 64 MiB, or more than any such has.
    fn write_memory(&mut self, mut pipe: File) {
        let bytes = if self.script.is("never-stops-writing") { 1 << 30 } else { 3 << 20 };
        let page = [7; 4096];
        for _ in 0..bytes / page.len() {
            // The other side may have had enough.
            if pipe.write_all(&page).is_err() {
                break;
            }
        }
    }

    fn event(&mut self, name: &str, data: &Value) {
        let timestamp = json!({ "seconds": 1, "microseconds": 2 });
        self.say(&json!({ "timestamp": timestamp, "event": name, "data": data }));
    }

    fn say(&mut self, value: &Value) {
        let mut line = value.to_string().into_bytes();
        line.extend_from_slice(b"\r\n");
        self.write(&line);
    }

    /// The other side may be gone, which is what some scenarios are about.
    fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn next_command(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a command is JSON"));
            }
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut along = RecvAncillaryBuffer::new(&mut space);
            let mut pieces = [IoSliceMut::new(&mut bytes)];
            let got = recvmsg(&self.stream, &mut pieces, &mut along, RecvFlags::CMSG_CLOEXEC).ok()?;
            for message in along.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors);
                }
            }
            if got.bytes == 0 {
                return None;
            }
            self.unread.extend_from_slice(&bytes[..got.bytes]);
        }
    }
}
