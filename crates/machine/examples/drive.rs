//! Drives a real QEMU by hand, through the driver alone: boots a guest, makes a template, clones it, and says how
//! long each took. For those who work on the driver; the product's own measurements are in `benches`.
//!
//! ```text
//!   drive boot  VMM_ROOT KERNEL INITRAMFS ROOTFS DIRECTORY [COUNT]
//!   drive make  VMM_ROOT KERNEL INITRAMFS ROOTFS DIRECTORY
//!   drive clone VMM_ROOT KERNEL INITRAMFS ROOTFS DIRECTORY [COUNT]
//!   drive tell  VMM_ROOT KERNEL INITRAMFS ROOTFS DIRECTORY WORD     clones, sends the word, shows the events
//! ```
//!
//! The guest's init must answer on the port with the bytes it was sent, or do what the word says. Needs root.
#![expect(clippy::print_stdout, reason = "its findings are its output")]

use anyhow::{Context, Result, bail, ensure};
use outlast_machine::backend::{Backend, LaunchPlan, MemoryBacking, VmmEvents};
use outlast_machine::cgroup::{Hierarchy, IncarnationCgroup, VmmCgroup};
use outlast_machine::jail;
use outlast_machine::qemu::{Qemu, command_line, cpu_model};
use outlast_model::{IncarnationId, StoreId};
use outlast_wire::intent::Machine;
use outlast_wire::paths::{Evidence, RunDirectory};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == jail::SUBCOMMAND) {
        let number = arguments.get(2).and_then(|number| number.parse().ok()).unwrap_or(-1);
        let error = jail::enter(number);
        eprintln!("jail: {error}: {:?}", std::error::Error::source(&error));
        return ExitCode::from(jail::FAILED);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("no runtime").and_then(|runtime| runtime.block_on(run(&arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drive: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<()> {
    let [verb, root, kernel, initramfs, rootfs, directory, rest @ ..] = arguments else {
        bail!("see the top of examples/drive.rs for the arguments");
    };
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(directory.join("run"))?;
    let plan = plan(root, kernel, initramfs, rootfs, &directory)?;
    let count = || rest.first().map_or(Ok(1), |count| count.parse::<usize>());
    match verb.as_str() {
        "boot" => repeat(count()?, &plan).await,
        "make" => make(plan, &directory).await,
        "clone" => repeat(count()?, &clone_of(plan, &directory)).await,
        "tell" => tell(&clone_of(plan, &directory), rest.first().context("tell it what?")?).await,
        verb => bail!("there is no verb '{verb}'"),
    }
}

/// With `DRIVE_CGROUP` set, VMMs are put into a control group as the product does it.
fn group() -> Result<IncarnationCgroup> {
    let (store, incarnation) = (StoreId::from_parts(0, 1), IncarnationId::from_parts(0, 2));
    Ok(IncarnationCgroup::create(&Hierarchy::detect()?, store, incarnation)?)
}

fn vmm_cgroup() -> Result<VmmCgroup> {
    if std::env::var_os("DRIVE_CGROUP").is_some() { Ok(group()?.vmm()) } else { Ok(VmmCgroup::none()) }
}

fn plan(root: &str, kernel: &str, initramfs: &str, rootfs: &str, directory: &Path) -> Result<LaunchPlan> {
    let accelerator = std::env::var("DRIVE_ACCEL").unwrap_or_else(|_| "tcg".to_owned());
    Ok(LaunchPlan {
        machine: Machine {
            backend: Qemu::NAME.to_owned(),
            cpu_model: std::env::var("DRIVE_CPU").unwrap_or_else(|_| cpu_model(&accelerator).to_owned()),
            vcpus: 1,
            memory: 256 << 20,
            kernel: kernel.into(),
            initramfs: initramfs.into(),
            rootfs: Some(rootfs.into()),
            command_line: command_line(&accelerator),
            accelerator,
            vmm_root: root.into(),
            vmm_binary: "/usr/bin/qemu-system-x86_64".into(),
            vmm_version: String::new(),
            image: None,
            image_digest: None,
        },
        memory: MemoryBacking::Anonymous,
        incoming: None,
        run_directory: RunDirectory::at(directory.join("run")),
        evidence: Evidence::at(directory.to_owned()),
        vmm_cgroup: vmm_cgroup()?,
        jail_program: "/proc/self/exe".into(),
    })
}

fn clone_of(mut plan: LaunchPlan, directory: &Path) -> LaunchPlan {
    plan.memory = MemoryBacking::PrivateFile(directory.join("memory"));
    plan.incoming = Some(directory.join("state"));
    plan
}

/// What one start took: until the monitor answered, until the guest ran, until it answered.
struct Taken([Duration; 3]);

async fn start(plan: &LaunchPlan) -> Result<(Qemu, VmmEvents, UnixStream, Taken)> {
    let begin = Instant::now();
    let (mut qemu, events) = Qemu::launch(plan).await?;
    let launched = begin.elapsed();
    let mut agent = qemu.connect_agent().await?;
    if plan.incoming.is_some() {
        qemu.restore().await?;
    } else {
        qemu.boot().await?;
    }
    let started = begin.elapsed();
    tokio::time::timeout(Duration::from_secs(60), ping(&mut agent)).await??;
    Ok((qemu, events, agent, Taken([launched, started, begin.elapsed()])))
}

async fn ping(agent: &mut UnixStream) -> Result<()> {
    agent.write_all(b"ping").await?;
    let mut answer = [0; 4];
    agent.read_exact(&mut answer).await?;
    ensure!(&answer == b"ping", "the guest answered {answer:?}");
    Ok(())
}

async fn repeat(count: usize, plan: &LaunchPlan) -> Result<()> {
    let mut taken = Vec::new();
    for _ in 0..count {
        let (qemu, mut events, agent, times) = start(plan).await?;
        drop(agent);
        qemu.kill()?;
        let ended = events.recv().await;
        taken.push(times);
        ensure!(ended.is_some(), "no event of its end");
    }
    if !plan.vmm_cgroup.is_none() {
        let begin = Instant::now();
        println!(
            "control group removed: {} in {:.1?}",
            group()?.remove(Duration::from_secs(2))?,
            begin.elapsed()
        );
    }
    for (index, what) in ["monitor answers", "guest runs", "guest answers"].iter().enumerate() {
        let mut times: Vec<Duration> = taken.iter().map(|Taken(times)| times[index]).collect();
        times.sort_unstable();
        println!(
            "{what:16} min {:7.1?} median {:7.1?} max {:7.1?}",
            times[0],
            times[count / 2],
            times[count - 1]
        );
    }
    Ok(())
}

async fn make(mut plan: LaunchPlan, directory: &Path) -> Result<()> {
    let memory = directory.join("memory");
    let _ = std::fs::remove_file(&memory);
    plan.memory = MemoryBacking::SharedFile(memory);
    let (mut qemu, mut events, agent, times) = start(&plan).await?;
    drop(agent);
    // The guest sees the hang-up and waits for another connection: nothing tells us when it has.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begin = Instant::now();
    qemu.pause().await?;
    qemu.save(&directory.join("state")).await?;
    println!("booted in {:.1?}, saved in {:.1?}", times.0[2], begin.elapsed());
    qemu.power_off().await?;
    println!("then {:?}", events.recv().await);
    Ok(())
}

async fn tell(plan: &LaunchPlan, word: &str) -> Result<()> {
    let (qemu, mut events, mut agent, _) = start(plan).await?;
    let begin = Instant::now();
    agent.write_all(word.as_bytes()).await?;
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(5), events.recv()).await {
        println!("{event:?} after {:.1?}", begin.elapsed());
    }
    println!("then dead: {}", qemu.process().is_dead()?);
    Ok(())
}
