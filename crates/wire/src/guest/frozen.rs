//! Every message of the guest link as bytes, frozen: an agent of an image that was built long ago says and understands
//! these.

use super::*;
use std::fmt::Write as _;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn host_messages() -> Vec<HostMessage> {
    vec![
        HostMessage::Hello(Hello { nonce: vec![7; 16], protocol: PROTOCOL }),
        HostMessage::Ping(Ping {}),
        HostMessage::Clock(Clock { set_unix_ns: 1 << 40 }),
        HostMessage::Reseed(Reseed { entropy: vec![1, 2] }),
        HostMessage::SetIdentity(SetIdentity { host_name: text("w"), machine_id: text("0") }),
        HostMessage::PutFile(PutFile { path: text("/a"), mode: 0o600, uid: 1, gid: 2 }),
        HostMessage::FileData(FileData { data: vec![3], last: true }),
        HostMessage::GetTree(GetTree { path: text("/b"), max_bytes: 10, max_files: 2 }),
        HostMessage::Exec(Exec {
            argv: vec![text("p"), text("q")],
            env: vec![text("A=b")],
            cwd: text("/"),
            uid: 1,
            gid: 2,
            memory_max: 3,
            pids_max: 4,
            deadline_ms: 5,
            stdin: true,
            pty: true,
            rows: 24,
            columns: 80,
            user: text("u"),
        }),
        HostMessage::StdinData(StdinData { data: vec![4], last: true }),
        HostMessage::Signal(Signal { number: 15 }),
        HostMessage::Quiesce(Quiesce {}),
        HostMessage::PowerOff(PowerOff { grace_ms: 1500 }),
        HostMessage::MakeDirectory(MakeDirectory { path: text("/c"), mode: 0o700, uid: 1, gid: 2 }),
        HostMessage::Settle(Settle {
            device: text(SCRATCH_DEVICE),
            bytes: 1 << 30,
            console_memory_max: 6,
            console_pids_max: 7,
        }),
        HostMessage::Resize(Resize { rows: 24, columns: 80 }),
        HostMessage::Freeze(Freeze { keep: vec![1, 300], numbers: vec![2, 5] }),
        HostMessage::Thaw(Thaw {}),
    ]
}

fn guest_messages() -> Vec<GuestMessage> {
    vec![
        GuestMessage::HelloAck(HelloAck {
            nonce: vec![7; 16],
            protocol: PROTOCOL,
            agent_version: text("0.1.0"),
            boot_id: text("b"),
            kernel: text("6.1"),
            uptime_ms: 9,
            kept: Vec::new(),
            last_stream: 0,
            numbers: Vec::new(),
        }),
        GuestMessage::HelloAck(HelloAck {
            kept: vec![1, 300],
            last_stream: 301,
            numbers: vec![2, 5],
            ..HelloAck::default()
        }),
        GuestMessage::Pong(Pong {}),
        GuestMessage::ClockRead(ClockRead { unix_ns: 1 << 40 }),
        GuestMessage::Reseeded(Reseeded {}),
        GuestMessage::Identity(Identity {
            host_name: text("w"),
            machine_id: text("0"),
            addresses: vec![text("10.0.0.2/24")],
        }),
        GuestMessage::Done(Done {}),
        GuestMessage::Refused(Refused { operation: text("o"), errno: 2, cause: text("c") }),
        GuestMessage::Credit(Credit { bytes: INITIAL_CREDIT }),
        GuestMessage::Started(Started { pid: 42 }),
        GuestMessage::Output(Output { descriptor: 1, data: vec![5] }),
        GuestMessage::Exited(Exited {
            code: Some(1),
            signal: Some(9),
            out_of_memory: true,
            deadline_passed: true,
            wall_us: 7,
        }),
        GuestMessage::FileHeader(FileHeader { path: text("a"), mode: 0o644, size: 5 }),
        GuestMessage::FileData(FileData { data: vec![6], last: true }),
        GuestMessage::TreeDone(TreeDone { files: 1, bytes: 2, skipped: 3 }),
        GuestMessage::Quiesced(Quiesced {}),
    ]
}

/// A change here is a change of what lies in people's images and templates: only additions are allowed.
#[test]
fn the_bytes_of_every_message_are_frozen() {
    let mut lines = String::new();
    for message in host_messages() {
        let name = format!("{message:?}").split('(').next().unwrap_or_default().to_owned();
        let bytes = encode(&HostFrame { stream: 1, message: Some(message) }).unwrap();
        let _ = writeln!(lines, "host {name} {}", hex(&bytes));
    }
    for message in guest_messages() {
        let name = format!("{message:?}").split('(').next().unwrap_or_default().to_owned();
        let bytes = encode(&GuestFrame { stream: 1, message: Some(message) }).unwrap();
        let _ = writeln!(lines, "guest {name} {}", hex(&bytes));
    }
    insta::assert_snapshot!("guest_messages_1", lines);
}

#[test]
fn an_exec_of_an_older_host_has_no_terminal() {
    let of_old = Exec { argv: vec![text("p")], stdin: true, ..Exec::default() };
    let bytes = encode(&HostFrame { stream: 1, message: Some(HostMessage::Exec(of_old)) }).unwrap();
    let mut decoder = FrameDecoder::new();
    decoder.push(&bytes);
    let frame: HostFrame = decoder.next_message().unwrap().unwrap();
    let Some(HostMessage::Exec(exec)) = frame.message else { panic!("{frame:?}") };
    assert_eq!((exec.pty, exec.rows, exec.columns), (false, 0, 0));
}
