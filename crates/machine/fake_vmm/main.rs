//! A FAKE VMM: a real program on real sockets that speaks QEMU's machine protocol and runs no guest.
//!
//! It stands where the runner's own executable stands (`jail --spec-fd N`), takes the jail's specification and the
//! inherited descriptors as the real one would, builds no jail, and then plays the scenario that is the file name
//! of the VMM's path. Only contract tests start it; it is never installed.

mod qmp;

use outlast_machine::jail::{self, JailSpec};
use outlast_machine::sys;
use qmp::{Conversation, Script};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::{UnixListener, UnixStream};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    assert_eq!(arguments[1..3], [jail::SUBCOMMAND, jail::SPEC_OPTION], "started as the jail is");
    let number: RawFd = arguments[3].parse().expect("a descriptor's number");
    let mut text = String::new();
    let sheet = sys::take_inherited(number).expect("an inherited descriptor");
    File::from(sheet).read_to_string(&mut text).expect("the specification");
    let spec: JailSpec = serde_json::from_str(&text).expect("a specification");
    assert!(std::env::vars().next().is_none(), "the environment is empty");
    play(&spec);
}

fn play(spec: &JailSpec) {
    let scenario = spec.program.file_name().and_then(|name| name.to_str()).expect("a scenario");
    if scenario == "dies-before-it-answers" {
        eprintln!("some noise");
        eprintln!("fake-vmm: no such machine type");
        std::process::exit(1);
    }
    let monitor = UnixListener::from(inherited(spec, "monitor"));
    let agent = UnixListener::from(inherited(spec, "agent"));
    let mut console = UnixStream::from(inherited(spec, "console"));
    std::thread::spawn(move || echo(&agent));
    if scenario == "floods-its-console" {
        console.write_all(&vec![b'c'; 3 << 20]).expect("the console is drained");
    }
    console.write_all(b"hello from the console\n").expect("the console is there");
    let (stream, _) = monitor.accept().expect("somebody connects to the monitor");
    let script = Script::of(scenario);
    Conversation::new(stream, script).run();
}

/// The descriptor behind `-chardev socket,id=ID,fd=N…`, which must be among those that stay open.
fn inherited(spec: &JailSpec, id: &str) -> std::os::fd::OwnedFd {
    let device = spec.arguments.iter().find(|argument| argument.contains(&format!("socket,id={id},")));
    let device = device.unwrap_or_else(|| panic!("no character device {id}"));
    let number = device.split(',').find_map(|part| part.strip_prefix("fd=")).expect("a descriptor");
    let number: RawFd = number.parse().expect("a number");
    assert!(spec.descriptors.contains(&number), "the jail would close the descriptor of {id}");
    sys::take_inherited(number).expect("an inherited descriptor")
}

/// The agent's port gives back what it gets, one connection after the other.
fn echo(agent: &UnixListener) {
    for stream in agent.incoming() {
        let mut stream = stream.expect("a connection");
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
    }
}
