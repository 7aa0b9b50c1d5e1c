//! The product, used the way people use it: its command line, in a home of its own that goes away afterwards.

use crate::clock;
use anyhow::{Context as _, bail, ensure};
use outlast_prove::{Inventory, Item, Scope};
use outlast_wire::journal::Journal;
use outlast_wire::paths::{Evidence, Library, Places};
use outlast_wire::view::{RunView, WorkloadView};
use outlast_wire::vm_view::VmSummary;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a VM may take to say `running`, a template being made first included.
const RUNNING_WITHIN: Duration = Duration::from_secs(360);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A program that sleeps, in the home.
const SLEEP: &str = "sleep.py";

/// The product and where it keeps its things.
#[derive(Debug)]
pub(crate) struct Product {
    program: PathBuf,
    home: PathBuf,
    library: PathBuf,
}

/// One `outlast run` that ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// What it printed.
    pub(crate) view: RunView,
    /// When it was started.
    pub(crate) began_unix_ns: u64,
    /// From the start of the process to its end, in milliseconds.
    pub(crate) wall_ms: f64,
}

/// A program that runs in a VM until it is killed.
#[derive(Debug)]
pub(crate) struct Sleeper {
    /// The workload.
    pub(crate) id: String,
    /// Its runner.
    pub(crate) runner: u32,
    /// Its VMM.
    pub(crate) vmm: u32,
}

impl Product {
    /// Uses `program` with the images of `library`, in a new home beside it.
    pub(crate) fn new(program: &Path, library: &Path) -> anyhow::Result<Self> {
        let program = fs::canonicalize(program).with_context(|| format!("find {}", program.display()))?;
        Self::in_home(
            program,
            library,
            PathBuf::from(format!("/var/lib/outlast-bench-{}", std::process::id())),
        )
    }

    /// The same product with another home of its own beside this one's.
    pub(crate) fn beside(&self, name: &str) -> anyhow::Result<Self> {
        let mut home = self.home.clone().into_os_string();
        home.push(format!("-{name}"));
        Self::in_home(self.program.clone(), &self.library, home.into())
    }

    fn in_home(program: PathBuf, library: &Path, home: PathBuf) -> anyhow::Result<Self> {
        let made = fs::DirBuilder::new().mode(0o700).create(&home);
        made.with_context(|| format!("make {}", home.display()))?;
        Ok(Self { program, home, library: library.to_owned() })
    }

    /// The library.
    pub(crate) fn library(&self) -> Library {
        Library::at(self.library.clone())
    }

    /// A command of the product that reads nothing.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("OUTLAST_HOME", &self.home).env("OUTLAST_LIBRARY", &self.library);
        command.env_remove("OUTLAST_HOLD").stdin(Stdio::null());
        command
    }

    /// The database of its home.
    pub(crate) fn database(&self) -> PathBuf {
        Places::new(self.home.clone(), self.home.join("run"), self.library.clone()).database()
    }

    /// How long a command takes that reads nothing and succeeds, in milliseconds.
    pub(crate) fn time(&self, arguments: &[&str]) -> anyhow::Result<f64> {
        let began = Instant::now();
        let output = self.command(arguments).output()?;
        let took = clock::ms_since(began);
        done(output).with_context(|| format!("outlast {}", arguments.join(" "))).map(|_| took)
    }

    /// The version it prints.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        Ok(text(&done(self.command(["--version"]).output()?)?))
    }

    /// Runs a file to its end. An outcome other than `completed` is an error: a failed run measures nothing.
    pub(crate) fn run(&self, options: &[&str], file: &str) -> anyhow::Result<Ran> {
        let began_unix_ns = clock::unix_ns();
        let began = Instant::now();
        let output = self.command(["run", "--json"]).args(options).arg(file).output()?;
        let wall_ms = clock::ms_since(began);
        let output = done(output).with_context(|| format!("outlast run {} {file}", options.join(" ")))?;
        let view: RunView = serde_json::from_slice(&output.stdout).context("read what run --json printed")?;
        ensure!(view.outcome.kind == "completed", "{file} ended {:?}", view.outcome);
        Ok(Ran { view, began_unix_ns, wall_ms })
    }

    /// What is known about a workload.
    pub(crate) fn show(&self, id: &str) -> anyhow::Result<WorkloadView> {
        let output = done(self.command(["show", "--json", id]).output()?)?;
        serde_json::from_slice(&output.stdout).context("read what show --json printed")
    }

    /// The journal of a workload's incarnation.
    pub(crate) fn journal(&self, id: &str) -> anyhow::Result<Journal> {
        let path = Evidence::at(self.show(id)?.evidence.into()).journal();
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(Journal::parse(&bytes))
    }

    /// What lies in home and run directory beside what is kept. Must be nothing once nothing runs: speed that
    /// leaves things behind is not the speed that was promised.
    pub(crate) fn litter(&self) -> anyhow::Result<Vec<String>> {
        let places = Places::new(self.home.clone(), self.home.join("run"), self.library.clone());
        let inventory = Inventory::take(&Scope::new().with_places(&places))?;
        let sleep = self.home.join(SLEEP);
        let left = |item: &&Item| {
            matches!(item, Item::Directory { .. } | Item::Special { .. })
                || matches!(item, Item::File { path, .. } if *path != sleep)
        };
        Ok(inventory.items().filter(left).map(|item| format!("{item:?}")).collect())
    }

    /// A Python file in the home that sleeps for a long time.
    fn sleeping_file(&self) -> anyhow::Result<PathBuf> {
        let path = self.home.join(SLEEP);
        fs::File::create(&path)?.write_all(b"import time\ntime.sleep(3600)\n")?;
        Ok(path)
    }

    /// Starts a program that sleeps, detached, and waits until it runs.
    pub(crate) fn start_sleeper(&self, options: &[&str]) -> anyhow::Result<Sleeper> {
        let mut command = self.command(["run", "--detach", "--timeout", "3600s"]);
        let output = done(command.args(options).arg(self.sleeping_file()?).output()?)?;
        let id = text(&output);
        self.wait_until_it_runs(&id)
    }

    /// The same with somebody waiting for it, whose death would end it.
    pub(crate) fn start_attended(&self, key: &str) -> anyhow::Result<(Child, Sleeper)> {
        let mut command = self.command(["run", "--json", "--timeout", "3600s", "--idempotency-key", key]);
        let mut child =
            command.arg(self.sleeping_file()?).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let found = self.newest(key).and_then(|id| self.wait_until_it_runs(&id));
        if found.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok((child, found?))
    }

    /// The only workload that is not over.
    fn newest(&self, key: &str) -> anyhow::Result<String> {
        wait_for(RUNNING_WITHIN, || {
            let output = done(self.command(["ps", "--json"]).output()?)?;
            let views: Vec<WorkloadView> = serde_json::from_slice(&output.stdout)?;
            Ok(views.into_iter().next().map(|view| view.id))
        })
        .with_context(|| format!("the workload of {key} never appeared"))
    }

    fn wait_until_it_runs(&self, id: &str) -> anyhow::Result<Sleeper> {
        let runner = wait_for(RUNNING_WITHIN, || {
            let view = self.show(id)?;
            match view.outcome {
                Some(outcome) => bail!("{id} ended {outcome:?} instead of sleeping"),
                None => Ok(view.runner_pid.filter(|_| view.state == "running")),
            }
        })?;
        Ok(Sleeper { id: id.to_owned(), runner, vmm: vmm_of(runner)? })
    }

    /// Kills a workload and waits until it is over.
    pub(crate) fn kill(&self, id: &str) -> anyhow::Result<()> {
        done(self.command(["kill", id]).output()?)?;
        wait_for(RUNNING_WITHIN, || Ok(self.show(id)?.outcome)).map(drop)
    }
}

impl Drop for Product {
    /// A net: whatever still runs ends, and the home goes.
    fn drop(&mut self) {
        let listed = self.command(["vm", "ls", "--json"]).output().ok();
        let vms = listed.and_then(|output| serde_json::from_slice::<Vec<VmSummary>>(&output.stdout).ok());
        for vm in vms.unwrap_or_default().into_iter().filter(|vm| vm.runner_pid.is_some()) {
            if let Err(error) = self.time(&["vm", "rm", "--force", &vm.name]) {
                eprintln!("{} still runs: {error:#}", vm.name);
            }
        }
        let listed = self.command(["ps", "--json"]).output().ok();
        let views =
            listed.and_then(|output| serde_json::from_slice::<Vec<WorkloadView>>(&output.stdout).ok());
        for view in views.unwrap_or_default() {
            if let Err(error) = self.kill(&view.id) {
                eprintln!("{} still runs: {error:#}", view.id);
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.home) {
            eprintln!("{} stays: {error}", self.home.display());
        }
    }
}

/// The child of a runner that is QEMU.
fn vmm_of(runner: u32) -> anyhow::Result<u32> {
    let path = format!("/proc/{runner}/task/{runner}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let is_vmm = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu-system"))
    };
    let found = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_vmm);
    found.with_context(|| format!("runner {runner} has no child that is QEMU"))
}

/// Looks at a condition until it holds.
fn wait_for<T>(within: Duration, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "not within {} s", within.as_secs());
        std::thread::sleep(LOOK);
    }
}

/// What it printed, of a command that succeeded.
pub(crate) fn done(output: Output) -> anyhow::Result<Output> {
    if output.status.success() {
        return Ok(output);
    }
    bail!("{}: {}{}", output.status, text(&output), String::from_utf8_lossy(&output.stderr).trim())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
