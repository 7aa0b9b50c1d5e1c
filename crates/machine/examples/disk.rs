//! Tries a machine's own disk on a real VMM in its real jail: makes the disk with a VMM root's tools, boots, moves the
//! guest onto it, writes, powers off, boots again and reads; then the same as a clone of a template that had a placeholder.
//!
//! `cargo run --example disk -- LIBRARY INITRAMFS RUNNER [raw|qcow2]`; the guest's words and times go to standard error.
//! Not part of the product.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a trial by hand")]

use outlast_machine::backend::{Backend, LaunchPlan, MemoryBacking};
use outlast_machine::cgroup::VmmCgroup;
use outlast_machine::jail::Identity;
use outlast_machine::qemu::{Qemu, command_line, cpu_model};
use outlast_machine::{disk, vmm_root};
use outlast_model::DiskFormat;
use outlast_wire::guest::{
    Exec, FrameDecoder, GuestFrame, GuestMessage, Hello, HostFrame, HostMessage, PROTOCOL, PowerOff, Quiesce,
    SCRATCH_DEVICE, SetIdentity, Settle, encode,
};
use outlast_wire::intent::{Machine, Scratch};
use outlast_wire::paths::{Evidence, Library, RunDirectory};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const BYTES: u64 = 256 << 20;

struct Guest {
    stream: UnixStream,
    decoder: FrameDecoder,
    last: u32,
}

impl Guest {
    async fn meet(vmm: &mut Qemu) -> Self {
        let stream = vmm.connect_agent().await.unwrap();
        let mut guest = Self { stream, decoder: FrameDecoder::of_guest(), last: 0 };
        guest.say(0, HostMessage::Hello(Hello { nonce: vec![7; 16], protocol: PROTOCOL })).await;
        while !matches!(guest.hear().await, (0, GuestMessage::HelloAck(_))) {}
        guest
    }

    async fn say(&mut self, stream: u32, message: HostMessage) {
        let frame = encode(&HostFrame { stream, message: Some(message) }).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn hear(&mut self) -> (u32, GuestMessage) {
        loop {
            if let Some(frame) = self.decoder.next_message::<GuestFrame>().unwrap() {
                return (frame.stream, frame.message.unwrap());
            }
            let mut bytes = vec![0; 1 << 16];
            let length = self.stream.read(&mut bytes).await.unwrap();
            assert!(length > 0, "the guest hung up");
            self.decoder.push(&bytes[..length]);
        }
    }

    async fn ask(&mut self, message: HostMessage) -> GuestMessage {
        self.last += 1;
        self.say(self.last, message).await;
        loop {
            let (stream, message) = self.hear().await;
            if stream == self.last {
                return message;
            }
        }
    }

    async fn settle(&mut self) {
        let identity = SetIdentity { host_name: "web".into(), machine_id: "0123456789abcdef".repeat(2) };
        assert!(matches!(self.ask(HostMessage::SetIdentity(identity)).await, GuestMessage::Identity(_)));
        let started = Instant::now();
        let settle = Settle { device: SCRATCH_DEVICE.to_owned(), bytes: BYTES, ..Settle::default() };
        let answer = self.ask(HostMessage::Settle(settle)).await;
        assert!(matches!(answer, GuestMessage::Done(_)), "{answer:?}");
        println!("settled within {:?}", started.elapsed());
    }

    async fn run(&mut self, script: &str) -> String {
        let exec = Exec {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            cwd: "/".to_owned(),
            memory_max: 64 << 20,
            pids_max: 64,
            ..Exec::default()
        };
        let mut shown = String::new();
        let mut message = self.ask(HostMessage::Exec(exec)).await;
        loop {
            match message {
                GuestMessage::Output(output) => shown.push_str(&String::from_utf8_lossy(&output.data)),
                GuestMessage::Exited(_) => return shown,
                GuestMessage::Refused(refused) => panic!("{refused:?}"),
                _ => {}
            }
            message = self.hear().await.1;
        }
    }
}

struct Stand {
    plan: LaunchPlan,
    place: PathBuf,
}

impl Stand {
    fn directory(&self, name: &str) -> PathBuf {
        let path = self.place.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn plan(&self, name: &str) -> LaunchPlan {
        let mut plan = self.plan.clone();
        plan.run_directory = RunDirectory::at(self.directory(&format!("{name}-run")));
        plan.evidence = Evidence::at(self.directory(&format!("{name}-evidence")));
        plan.identity = Identity::of_incarnation(name);
        plan
    }

    async fn life(&self, plan: &LaunchPlan, script: &str) -> String {
        let started = Instant::now();
        let (mut vmm, mut events) = Qemu::launch(plan).await.unwrap();
        if plan.incoming.is_some() {
            vmm.restore().await.unwrap();
        } else {
            vmm.boot().await.unwrap();
        }
        let mut guest = Guest::meet(&mut vmm).await;
        println!("answered within {:?}", started.elapsed());
        guest.settle().await;
        println!("ready within {:?}", started.elapsed());
        let shown = guest.run(script).await;
        let _ = guest.ask(HostMessage::PowerOff(PowerOff { grace_ms: 500 })).await;
        while let Some(event) = events.recv().await {
            println!("{event:?}");
        }
        shown
    }
}

fn stand(arguments: &[String], place: PathBuf) -> (Stand, vmm_root::VmmRoot) {
    let library = Library::at(PathBuf::from(&arguments[0]));
    let vmm = vmm_root::open(&library).unwrap();
    let images = Path::new("/var/lib/outlast/library");
    let machine = Machine {
        backend: "qemu".to_owned(),
        accelerator: "tcg".to_owned(),
        cpu_model: cpu_model("tcg").to_owned(),
        vcpus: 1,
        memory: 128 << 20,
        kernel: images.join("lean/kernel/vmlinux"),
        initramfs: PathBuf::from(&arguments[1]),
        rootfs: Some(images.join("images/base/rootfs.squashfs")),
        command_line: command_line("tcg"),
        vmm_root: vmm.path().to_owned(),
        vmm_binary: vmm.qemu().to_owned(),
        vmm_version: vmm.version().to_owned(),
        image: None,
        image_digest: None,
        scratch: None,
    };
    let plan = LaunchPlan {
        machine,
        memory: MemoryBacking::Anonymous,
        incoming: None,
        run_directory: RunDirectory::at(place.clone()),
        evidence: Evidence::at(place.clone()),
        vmm_cgroup: VmmCgroup::none(),
        identity: None,
        jail_program: PathBuf::from(&arguments[2]),
    };
    (Stand { plan, place }, vmm)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let format: DiskFormat = arguments.get(3).map_or(DiskFormat::Raw, |text| text.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let (mut stand, vmm) = stand(&arguments, place.path().to_owned());
    let path = place.path().join("web.disk");
    let started = Instant::now();
    disk::create(&path, disk::Wanted { format, bytes: BYTES, beyond_free: false }, &vmm).unwrap();
    println!("made within {:?}: {:?}", started.elapsed(), disk::check(&path, format, BYTES).unwrap());
    let scratch = |path: &Path, format: DiskFormat, bytes: u64| Scratch {
        path: path.to_owned(),
        format: format.name().to_owned(),
        bytes,
    };

    stand.plan.machine.scratch = Some(scratch(&path, format, BYTES));
    for boot in ["first", "second"] {
        let shown =
            stand.life(&stand.plan(boot), "cat /root/file; echo cold >> /root/file; df / | tail -1").await;
        print!("{shown}");
        assert_eq!(shown.contains("cold"), boot == "second", "{shown}");
    }

    let placeholder = place.path().join("placeholder");
    std::fs::File::create_new(&placeholder).unwrap().set_len(1 << 20).unwrap();
    let (memory, state) = (place.path().join("memory"), place.path().join("state"));
    let mut plan = stand.plan("template");
    plan.machine.scratch = Some(scratch(&placeholder, DiskFormat::Raw, 1 << 20));
    plan.memory = MemoryBacking::SharedFile(memory.clone());
    let (mut maker, events) = Qemu::launch(&plan).await.unwrap();
    maker.boot().await.unwrap();
    let mut guest = Guest::meet(&mut maker).await;
    guest.run("true").await;
    assert!(matches!(guest.ask(HostMessage::Quiesce(Quiesce {})).await, GuestMessage::Quiesced(_)));
    maker.pause().await.unwrap();
    maker.save(&state).await.unwrap();
    maker.kill().unwrap();
    drop((guest, maker, events));
    std::fs::remove_file(&placeholder).unwrap();
    // As whoever publishes a template does: clones have other user ids.
    std::fs::set_permissions(&memory, std::fs::Permissions::from_mode(0o444)).unwrap();

    stand.plan.memory = MemoryBacking::PrivateFile(memory);
    stand.plan.incoming = Some(state);
    for clone in ["third", "fourth"] {
        let shown = stand.life(&stand.plan(clone), "cat /root/file; echo clone >> /root/file").await;
        print!("{shown}");
        assert!(shown.starts_with("cold") && shown.contains("clone") == (clone == "fourth"), "{shown}");
    }
    println!("{:?}", disk::check(&path, format, BYTES).unwrap());
    disk::remove(&path).unwrap();
}
