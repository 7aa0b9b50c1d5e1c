//! Writes the seeds of the corpus: what the product itself writes, or would accept, for every target.
//!
//! `cargo run --example seeds -- corpus`, in `fuzz/`. The same bytes every time; a seed has a name with a dash in it.

use flate2::{Compression, write::GzEncoder};
use outlast_wire::guest::{self, GuestFrame, GuestMessage, HostFrame, HostMessage};
use outlast_wire::journal::{JournalEntry, JournalLine, StepPhase};
use outlast_wire::output_log::{MAGIC, Record, Stream};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

fn main() -> io::Result<()> {
    let corpus = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "corpus".into()));
    let write = |target: &str, name: &str, bytes: &[u8]| -> io::Result<()> {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("seed-{name}")), bytes)
    };
    for (number, message) in guest_messages().into_iter().enumerate() {
        let bytes = guest_frame(1, message);
        write("guest_frames", &number.to_string(), &bytes)?;
        write(
            "guest_link",
            &number.to_string(),
            &[guest_frame(2, GuestMessage::Pong(guest::Pong {})), bytes].concat(),
        )?;
    }
    for (number, message) in host_messages().into_iter().enumerate() {
        let frame = HostFrame { stream: 3, message: Some(message) };
        write("host_frames", &number.to_string(), &guest::encode(&frame).expect("short"))?;
    }
    for target in ["guest_frames", "guest_link", "host_frames"] {
        write(target, "endless", &u32::MAX.to_be_bytes())?;
        write(target, "torn", b"\0\x10\0\0half a frame")?;
    }
    for (name, text) in TREES {
        write("handback", name, text.as_bytes())?;
    }
    for (name, text) in MONITOR {
        write("monitor", name, text.as_bytes())?;
    }
    write("journal", "whole", &journal())?;
    write("journal", "torn", &journal()[..100])?;
    write("output_log", "whole", &output_log())?;
    write("output_log", "torn", &output_log()[..40])?;
    write("output_log", "bare", &output_log()[MAGIC.len()..])?;
    for (number, text) in UNITS.iter().enumerate() {
        write("units", &number.to_string(), text.as_bytes())?;
    }
    for (name, json) in golden_manifests()? {
        write("manifests", &name, &json)?;
    }
    write("manifests", "template", TEMPLATE.as_bytes())?;
    for (name, json) in snapshot_manifests()? {
        write("snapshot_manifest", name, &json)?;
    }
    archives(&write)?;
    write("kernel", "elf", &elf())
}

fn guest_frame(stream: u32, message: GuestMessage) -> Vec<u8> {
    guest::encode(&GuestFrame { stream, message: Some(message) }).expect("short")
}

fn guest_messages() -> Vec<GuestMessage> {
    let text = |text: &str| text.to_owned();
    vec![
        GuestMessage::HelloAck(guest::HelloAck {
            nonce: vec![7; 16],
            protocol: guest::PROTOCOL,
            agent_version: text("0.1.0"),
            boot_id: text("b0077e57-0000-4000-8000-000000000001"),
            kernel: text("6.1.0"),
            uptime_ms: 850,
            kept: vec![2],
            last_stream: 3,
            numbers: vec![2],
        }),
        GuestMessage::Pong(guest::Pong {}),
        GuestMessage::ClockRead(guest::ClockRead { unix_ns: 1_700_000_000_000_000_000 }),
        GuestMessage::Reseeded(guest::Reseeded {}),
        GuestMessage::Identity(guest::Identity {
            host_name: text("w-1"),
            machine_id: text("0123456789abcdef0123456789abcdef"),
            addresses: vec![text("10.0.0.2/24")],
        }),
        GuestMessage::Done(guest::Done {}),
        GuestMessage::Refused(guest::Refused {
            operation: text("put"),
            errno: 28,
            cause: text("\u{1b}[2Jno"),
        }),
        GuestMessage::Credit(guest::Credit { bytes: 65536 }),
        GuestMessage::Started(guest::Started { pid: 80 }),
        GuestMessage::Output(guest::Output { descriptor: 2, data: b"hello\n".to_vec() }),
        GuestMessage::Exited(guest::Exited {
            code: None,
            signal: Some(9),
            out_of_memory: true,
            deadline_passed: false,
            wall_us: 1234,
        }),
        GuestMessage::FileHeader(guest::FileHeader { path: text("a/b"), mode: 0o644, size: 5 }),
        GuestMessage::FileData(guest::FileData { data: b"bytes".to_vec(), last: true }),
        GuestMessage::TreeDone(guest::TreeDone { files: 1, bytes: 5, skipped: 0 }),
        GuestMessage::Quiesced(guest::Quiesced {}),
    ]
}

fn host_messages() -> Vec<HostMessage> {
    let text = |text: &str| text.to_owned();
    vec![
        HostMessage::Hello(guest::Hello { nonce: vec![7; 16], protocol: guest::PROTOCOL }),
        HostMessage::Ping(guest::Ping {}),
        HostMessage::Clock(guest::Clock { set_unix_ns: 1_700_000_000_000_000_000 }),
        HostMessage::Reseed(guest::Reseed { entropy: vec![1; 64] }),
        HostMessage::SetIdentity(guest::SetIdentity { host_name: text("w-1"), machine_id: text("0123") }),
        HostMessage::PutFile(guest::PutFile { path: text("/work/a"), mode: 0o600, uid: 1000, gid: 1000 }),
        HostMessage::FileData(guest::FileData { data: b"bytes".to_vec(), last: true }),
        HostMessage::GetTree(guest::GetTree { path: text("/outlast/out"), max_bytes: 10, max_files: 2 }),
        HostMessage::Exec(guest::Exec {
            argv: vec![text("python3"), text("main.py")],
            env: vec![text("A=b")],
            cwd: text("/work"),
            uid: 1000,
            gid: 1000,
            memory_max: 1 << 27,
            pids_max: 64,
            deadline_ms: 30_000,
            stdin: true,
            pty: true,
            rows: 24,
            columns: 80,
            user: text("www"),
        }),
        HostMessage::StdinData(guest::StdinData { data: b"in".to_vec(), last: false }),
        HostMessage::Signal(guest::Signal { number: 15 }),
        HostMessage::Quiesce(guest::Quiesce {}),
        HostMessage::PowerOff(guest::PowerOff { grace_ms: 2000 }),
        HostMessage::MakeDirectory(guest::MakeDirectory { path: text("/w"), mode: 0o700, uid: 0, gid: 0 }),
        HostMessage::Settle(guest::Settle {
            device: text(guest::SCRATCH_DEVICE),
            bytes: 1 << 30,
            console_memory_max: 1 << 28,
            console_pids_max: 1024,
        }),
        HostMessage::Resize(guest::Resize { rows: 24, columns: 80 }),
        HostMessage::Freeze(guest::Freeze { keep: vec![1, 2], numbers: vec![3, 1] }),
        HostMessage::Thaw(guest::Thaw {}),
    ]
}

const TREES: [(&str, &str); 6] = [
    ("tree", "F 644 a/b.txt\nD hello\nZ  world\nF 755 run\nZ #!/bin/sh\nE"),
    ("twice", "F 644 a\nZ x\nF 644 a\nE"),
    ("escape", "F 644 a/../../b\nZ x\nE"),
    ("shape", "S\nF 7777 a/./b//c\nL ~\nZ x\nF 600 a/./b//d\nZ\nE\nF 644 late\nX"),
    ("under-a-file", "F 644 a\nZ\nF 644 a/b\nE"),
    ("lies", "F 644 a\nD x\nF 644 b\nZ\nY"),
];

const MONITOR: [(&str, &str); 6] = [
    (
        "greeting",
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n",
    ),
    (
        "answers",
        "{\"return\": {}, \"id\": 1}\r\n{\"return\": {\"fdset-id\": 1, \"fd\": 20}, \"id\": 2}\r\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\u001b[2J\"}, \"id\": 3}\r\n",
    ),
    (
        "migration",
        "{\"return\": {\"status\": \"failed\", \"error-desc\": \"Unable to read\"}, \"id\": 4}\n{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n",
    ),
    (
        "ends",
        "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}, \"timestamp\": {}}\n{\"event\": \"RESET\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": false, \"reason\": \"host-qmp-quit\"}}\n",
    ),
    ("panic", "{\"event\": \"GUEST_PANICKED\", \"data\": {\"action\": \"pause\"}}\n{\"event\": \"STOP\"}\n"),
    ("rubbish", "\n\n[]\nhello\n{\"error\": 1, \"id\": 1}\n{\"error\": {}}\n{\"ret"),
];

const UNITS: [&str; 24] = [
    "64M",
    "256MiB",
    "1G",
    "4096",
    "1023",
    "3t",
    "100 k",
    "0M",
    "99999999999999999999",
    "500ms",
    "30s",
    "5m",
    "1h",
    "30d",
    "2592000001ms",
    "1.5s",
    "claim:before",
    "start-program:after",
    "launch-vmm:during",
    "01jd2x7v3k8q9r0s1t2v3w4x5y",
    "01JD2X7V3K8Q9R0S1T2V3W4X5Y",
    "PATH=/bin",
    "1A=b",
    "=\u{1b}[2J",
];

fn journal() -> Vec<u8> {
    let text = |text: &str| text.to_owned();
    let entries = [
        JournalEntry::Step { step: text("claim"), phase: StepPhase::Begin, error: None },
        JournalEntry::Step {
            step: text("launch-vmm"),
            phase: StepPhase::Failed,
            error: Some(text("no room")),
        },
        JournalEntry::Held { hold: text("claim:after") },
        JournalEntry::Released { hold: text("claim:after") },
        JournalEntry::FellBack { cause: text("it cannot be read") },
        JournalEntry::Program { phase: text("started"), detail: None },
        JournalEntry::Rung { rung: text("kill"), worked: true },
        JournalEntry::Template { phase: text("saved") },
        JournalEntry::End { cause: text("completed"), outcome: Some(text("completed")) },
    ];
    let mut bytes = Vec::new();
    for (entry, number) in entries.into_iter().zip(1..) {
        bytes.extend(json(&JournalLine { unix_ns: number, monotonic_ns: number, entry }));
        bytes.push(b'\n');
    }
    bytes
}

fn output_log() -> Vec<u8> {
    let data =
        |stream, offset, bytes: &[u8]| Record::Data { stream, unix_ns: 1, offset, bytes: bytes.to_vec() };
    let records = [
        data(Stream::Stdout, 0, b"hello"),
        data(Stream::Stderr, 0, b"oh"),
        data(Stream::Stdout, 5, b""),
        Record::Truncated { unix_ns: 2, dropped: 77 },
    ];
    MAGIC.iter().copied().chain(records.iter().flat_map(Record::encode)).collect()
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a record can be written")
}

/// The manifests that the tests of `wire` keep as golden files.
fn golden_manifests() -> io::Result<Vec<(String, Vec<u8>)>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/wire/src/snapshots");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Some((_, kind)) = name.split_once("image__tests__") else { continue };
        // A golden file begins with a few lines about itself, between dashes.
        let text = fs::read_to_string(&path)?;
        let json = text.splitn(3, "---\n").nth(2).unwrap_or_default().trim_end();
        found.push((kind.replace('_', "-"), json.as_bytes().to_vec()));
    }
    Ok(found)
}

/// A snapshot's manifest: the golden one, one of another format, one torn, one that somebody has formatted otherwise.
fn snapshot_manifests() -> io::Result<[(&'static str, Vec<u8>); 4]> {
    let golden = "/../crates/wire/src/snapshots/outlast_wire__snapshot__tests__snapshot_manifest_1.snap";
    let text = fs::read_to_string([env!("CARGO_MANIFEST_DIR"), golden].concat())?;
    // The file ends with one line break, as the manifest does; of two one is the golden file's.
    let json = format!("{}\n", text.splitn(3, "---\n").nth(2).unwrap_or_default().trim_end());
    Ok([
        ("format-2", json.replace("\"format\": 1", "\"format\": 2").into_bytes()),
        ("compact", json.replace('\n', "").into_bytes()),
        ("torn", json.as_bytes()[..json.len() / 2].to_vec()),
        ("golden", json.into_bytes()),
    ])
}

/// A template's manifest, which has no golden file.
const TEMPLATE: &str = r#"{"version": 1, "key": "12", "ingredients": {"generation": 1, "image": "python",
"image_digest": "12", "initramfs_digest": "12", "command_line": "console=hvc0", "backend": "qemu", "vmm_digest": "12",
"topology": "q35", "accelerator": "tcg", "cpu_model": "max", "host_cpu": "cpu", "vcpus": 1, "memory": 268435456,
"warm_up": ["python3"], "lean_kernel": "12"}, "made_by": "01jd2x7v3k8q9r0s1t2v3w4x5y", "made_unix_ns": 1,
"memory_sha256": "12", "state_sha256": "12", "state_bytes": 9}"#;

/// One entry of a tar: name, type, target of a link, content.
type Entry<'a> = (&'a str, u8, &'a str, &'a str);

fn archives(write: &impl Fn(&str, &str, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let pax = "25 path=long/name/in/pax\n";
    let seeds: [(&str, &[Entry<'_>]); 7] = [
        ("files", &[("d/", b'5', "", ""), ("d/a", b'0', "", "hello"), ("b", b'0', "", "")]),
        (
            "links",
            &[("a", b'0', "", "x"), ("l", b'2', "a", ""), ("h", b'1', "a", ""), ("d/up", b'2', "../a", "")],
        ),
        ("directory-link", &[("d/a", b'0', "", "x"), ("copy", b'2', "d", "")]),
        ("loop", &[("a", b'2', "b", ""), ("b", b'2', "a", "")]),
        ("escape", &[("../a", b'0', "", "x"), ("l", b'2', "/etc/passwd", "")]),
        (
            "pax",
            &[
                ("p", b'x', "", pax),
                ("a", b'0', "", "x"),
                ("l", b'L', "", "gnu/long/name\0"),
                ("b", b'0', "", "y"),
            ],
        ),
        ("kinds", &[("a", b'0', "", "x"), ("f", b'6', "", ""), ("c", b'3', "", "")]),
    ];
    for (name, entries) in seeds {
        write("archive", name, &entries.iter().flat_map(entry).collect::<Vec<_>>())?;
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&[0; 1024])?;
    write("archive", "empty-gzip", &packed.finish()?)
}

/// Without a check sum: the target sets it.
fn entry((name, kind, link, content): &Entry<'_>) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(157, link);
    put(257, "ustar  \0");
    block[156] = *kind;
    block.extend_from_slice(content.as_bytes());
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

/// A small ELF file with a `.modinfo`, its section names and a PVH note.
fn elf() -> Vec<u8> {
    let parts: [&[u8]; 3] = [b"depends=a,b\0alias=x\0", b"\0.modinfo\0.shstrtab\0", &pvh_note()];
    let (sections, segments) = (64 + parts.map(<[u8]>::len).iter().sum::<usize>(), 1);
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let mut offsets = Vec::new();
    for part in parts {
        offsets.push((bytes.len(), part.len()));
        bytes.extend_from_slice(part);
    }
    let section = |name: u32, (offset, size): (usize, usize)| {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        header
    };
    bytes.extend(section(0, (0, 0)));
    bytes.extend(section(1, offsets[0]));
    bytes.extend(section(10, offsets[1]));
    let segment_at = bytes.len() as u64;
    let mut segment = vec![0; 56];
    segment[0] = 4;
    segment[8..16].copy_from_slice(&(offsets[2].0 as u64).to_le_bytes());
    segment[32..40].copy_from_slice(&(offsets[2].1 as u64).to_le_bytes());
    bytes.extend(segment);
    bytes[0x20..0x28].copy_from_slice(&segment_at.to_le_bytes());
    bytes[0x28..0x30].copy_from_slice(&(sections as u64).to_le_bytes());
    bytes[0x36] = 56;
    bytes[0x38] = segments;
    bytes[0x3a] = 64;
    bytes[0x3c] = 3;
    bytes[0x3e] = 2;
    bytes
}

fn pvh_note() -> Vec<u8> {
    let numbers = [4u32, 8, 18].map(u32::to_le_bytes).concat();
    [numbers.as_slice(), b"Xen\0", &0x0100_0000u64.to_le_bytes()].concat()
}
