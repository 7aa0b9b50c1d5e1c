//! The lab: one home, the binary under test, and the inventory that must be the same at the end.

use crate::call::{Call, Output};
use crate::deadline::{until, within};
use crate::process::{self, Process};
use crate::setup::Setup;
use crate::user::User;
use crate::{evidence, library, program, systemd};
use outlast_prove::inventory::Tree;
use outlast_prove::{FaultPoint, Inventory, Scope};
use outlast_wire::journal::{Journal, JournalEntry};
use outlast_wire::paths::{Evidence, Places};
use outlast_wire::view::{DoctorView, WorkloadView};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::{CString, OsStr};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The kernel takes processes, links and mounts away after the fact; measured: 10 to 80 ms.
const TEARDOWN: Duration = Duration::from_secs(2);
/// What a test left running at its end must be over within this, or it is the test's mistake.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// A cold boot comes before the latest point at which a runner can be held.
const HELD_WITHIN: Duration = Duration::from_secs(120);

/// A place for one test.
#[derive(Debug)]
pub struct Lab {
    directory: TempDir,
    places: Places,
    binaries: PathBuf,
    own_library: bool,
    tmpfs: bool,
    audit_will_break: bool,
    user: Option<User>,
    before: Option<Inventory>,
}

impl Lab {
    /// Makes the home and takes the inventory.
    pub(crate) fn open(setup: &Setup) -> Self {
        let binaries = setup.binaries.clone().unwrap_or_else(program::directory);
        // Short names: the path of a Unix socket has at most 107 bytes.
        let directory =
            tempfile::Builder::new().prefix("oe").tempdir_in("/tmp").expect("a directory in /tmp");
        let at = |name: &str| directory.path().join(name);
        for name in ["h", "w"] {
            fs::create_dir(at(name)).expect("the lab's directories can be made");
        }
        if let Some(size) = setup.home_size {
            let options = CString::new(format!("size={size},mode=700")).expect("a size has no zero byte");
            mount("tmpfs", at("h"), "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
                .expect("a small tmpfs");
        }
        let user = setup.user.map(|uid| User::settle(uid, directory.path(), &binaries));
        let binaries = user.as_ref().map_or(binaries, |user| user.binaries.clone());
        let library = match (&setup.own_library, &user) {
            (_, Some(user)) => user.library.clone(),
            (None, None) => library::shared(),
            (Some(parts), None) => {
                library::make(&at("l"), parts).expect("a library of the test's own");
                at("l")
            }
        };
        let places = Places::new(at("h"), at("h").join("run"), library);
        if setup.marked {
            fs::write(places.proofs_marker(), "").expect("the mark can be made");
        }
        let mut lab = Self {
            directory,
            places,
            binaries,
            own_library: setup.own_library.is_some() || user.is_some(),
            tmpfs: setup.home_size.is_some(),
            audit_will_break: setup.audit_will_break,
            user,
            before: None,
        };
        lab.before = Some(lab.inventory());
        lab
    }

    /// The home.
    pub fn home(&self) -> &Path {
        self.places.home()
    }

    /// Where everything lies.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The directory of the binaries under test.
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// The lab's directory, which holds the home and what tests write.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file for the test to use and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join("w").join(name);
        fs::write(&path, content).expect("the lab's directory can be written");
        path
    }

    /// The path of a file in `examples/`.
    pub fn example(&self, name: &str) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace");
        root.join("examples").join(name)
    }

    /// A path in the lab for something that does not exist yet.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("w").join(name)
    }

    /// A call of `outlast`, to be made.
    pub fn call(&self, arguments: &[impl AsRef<OsStr>]) -> Call<'_> {
        let call = Call::new(self, self.binaries.join("outlast").as_os_str(), arguments);
        self.with_environment(call)
    }

    fn with_environment<'lab>(&self, call: Call<'lab>) -> Call<'lab> {
        let call = call.alone_in(&self.path("")).env("OUTLAST_HOME", self.places.home());
        match &self.user {
            None => call.env("OUTLAST_LIBRARY", self.places.library().path()),
            Some(user) => call
                .env("HOME", self.places.home())
                .env("OUTLAST_LIBRARY", user.libraries())
                .as_user(user.uid),
        }
    }

    /// A call of another program, which is to call `outlast` in its turn, with the environment of [`Lab::call`].
    pub fn call_through(&self, program: &str, arguments: &[impl AsRef<OsStr>]) -> Call<'_> {
        self.with_environment(Call::new(self, OsStr::new(program), arguments))
    }

    /// The library that ordinary users read: images and VMM roots of the shared one, mounted read-only.
    pub fn read_library(&self) -> &Path {
        &self.user.as_ref().expect("this lab is an ordinary user's").reads
    }

    /// Calls `outlast` and waits for its end.
    #[track_caller]
    pub fn outlast(&self, arguments: &[impl AsRef<OsStr>]) -> Output {
        self.call(arguments).run()
    }

    /// Runs Python code given on standard input, with these further arguments of `outlast run`.
    pub fn python(&self, code: &str, arguments: &[&str]) -> Call<'_> {
        let mut line = vec!["run", "--runtime", "python"];
        line.extend(arguments.iter().take_while(|argument| **argument != "--"));
        line.push("-");
        line.extend(arguments.iter().skip_while(|argument| **argument != "--"));
        self.call(&line).stdin(code)
    }

    /// Starts Python code detached and returns the workload's id.
    #[track_caller]
    pub fn detached_python(&self, code: &str) -> String {
        let output = self.python(code, &["--detach"]).run();
        output.expect_code(0).stdout_text().trim().to_owned()
    }

    /// What `outlast show --json ID` prints.
    #[track_caller]
    pub fn show(&self, id: &str) -> WorkloadView {
        self.outlast(&["show", "--json", id]).expect_code(0).json()
    }

    /// The same as `ps` has it, which tells also of what cannot be decided.
    #[track_caller]
    pub fn show_as_is(&self, id: &str) -> WorkloadView {
        self.workloads().into_iter().find(|view| view.id == id).expect("a workload of that id")
    }

    /// What `outlast ps -a --json` prints: all workloads, newest first.
    #[track_caller]
    pub fn workloads(&self) -> Vec<WorkloadView> {
        self.outlast(&["ps", "-a", "--json"]).expect_code(0).json()
    }

    /// The one workload there is.
    #[track_caller]
    pub fn only_workload(&self) -> WorkloadView {
        let mut all = self.workloads();
        assert_eq!(all.len(), 1, "exactly one workload: {all:#?}");
        all.remove(0)
    }

    /// Waits until the workload is in this state.
    #[track_caller]
    pub fn until_state(&self, id: &str, state: &str, limit: Duration) -> WorkloadView {
        let view = || Some(self.show(id)).filter(|view| view.state == state);
        match within(limit, view) {
            Some(view) => view,
            None => panic!("workload {id} is not {state} within {limit:?}: {:#?}", self.show(id)),
        }
    }

    /// Waits until the workload is over.
    #[track_caller]
    pub fn until_over(&self, id: &str, limit: Duration) -> WorkloadView {
        let view = || Some(self.show(id)).filter(|view| view.outcome.is_some());
        until(&format!("workload {id} is over"), limit, view)
    }

    /// Waits for the one runner there is, and takes hold of it.
    #[track_caller]
    pub fn runner(&self) -> Process {
        let runner = || match process::runners().as_slice() {
            [one] => Process::hold(one),
            _ => None,
        };
        until("one runner is there", Duration::from_secs(30), runner)
    }

    /// Waits for the one launcher there is, and takes hold of it.
    #[track_caller]
    pub fn launcher(&self) -> Process {
        let launcher = || match process::launchers().as_slice() {
            [one] => Process::hold(one),
            _ => None,
        };
        until("one launcher is there", Duration::from_secs(30), launcher)
    }

    /// Waits until a runner, or a launcher, stands still at the point, by its own word, and returns the evidence
    /// directory.
    #[track_caller]
    pub fn until_held(&self, point: FaultPoint) -> Evidence {
        let wanted = JournalEntry::Held { hold: point.name() };
        let is_held = |evidence: &Evidence| {
            let journal = Journal::parse(&fs::read(evidence.journal()).unwrap_or_default());
            let marked = fs::read_to_string(evidence.hold()).is_ok_and(|marker| marker == point.name());
            marked && (point.is_launchers() || journal.lines.iter().any(|line| line.entry == wanted))
        };
        until(&format!("held at {}", point.name()), HELD_WITHIN, || {
            self.incarnations().into_iter().find(is_held)
        })
    }

    /// Waits for the one VMM of that runner, and takes hold of it.
    #[track_caller]
    pub fn vmm(&self, runner: &Process) -> Process {
        let vmm = || match process::vmms_of(runner.pid()).as_slice() {
            [one] => Process::hold(one),
            _ => None,
        };
        until("one VMM is there", Duration::from_secs(30), vmm)
    }

    /// The evidence directories there are, in order of their ids.
    pub fn incarnations(&self) -> Vec<Evidence> {
        let entries = fs::read_dir(self.places.incarnations()).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths.into_iter().map(Evidence::at).collect()
    }

    /// The directories of the published templates, in the library this lab uses.
    pub fn templates(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.places.library().templates()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.join("manifest.json").exists()).collect()
    }

    /// The inventory of everything this test could leave behind.
    pub fn inventory(&self) -> Inventory {
        Inventory::take(&self.scope()).expect("an inventory can be taken")
    }

    fn scope(&self) -> Scope {
        let library = self.places.library();
        let library = Tree::all(library.path());
        let library = if self.own_library {
            // What a library is for is no leak; what is being made in it, or was left half made, is.
            let kept = ["images", "kernels", "lean", "vmm", "boot", "canary", "verified"];
            // A leading dot is what scratch has; only locks and the store of finished things have it and stay.
            let below = ["", "/*", "/*/**", "/.store", "/.store/**", "/.lock", "/.lock-*"];
            let with_all = |tree: Tree, name: &&str| {
                below.iter().fold(tree, |tree, below| tree.except(&format!("{name}{below}")))
            };
            let templates = ["templates", "templates/*", "templates/*/*", "templates/.lock-*"];
            templates.iter().fold(kept.iter().fold(library, with_all), |tree, name| tree.except(name))
        } else {
            // Others make things here at the same time; ours can be told by the incarnation that makes them.
            let ids = self.incarnations().into_iter();
            let name = |evidence: Evidence| Some(evidence.path().file_name()?.to_str()?.to_owned());
            library.only_naming(ids.filter_map(name))
        };
        // Static by contract: the family, and where all runners are.
        let static_cgroups = ["outlast", "outlast/runners"];
        let scope = Scope::new()
            .with_places(&self.places)
            .with_tree(library)
            .with_open_files_of(std::process::id())
            .with_memory_directory("/dev/shm");
        if systemd::is_first() {
            // Where it keeps what it does is its own.
            return scope.with_cgroups("", &[&static_cgroups[..], &systemd::OWN_CGROUPS].concat());
        }
        // Nobody else's: every test has its own.
        let trees = scope.with_tree(Tree::all("/run")).with_tree(Tree::all("/var/tmp"));
        trees.with_cgroups("", &static_cgroups).with_open_files_of(1)
    }

    /// That the host is as it was at the beginning, as soon as it is, or after the kernel has had its time.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        self.expect_as(self.before.as_ref().expect("the inventory was taken when the lab was opened"));
    }

    /// The same of an earlier moment.
    #[track_caller]
    pub fn expect_as(&self, before: &Inventory) {
        let mut last = None;
        let clean = within(TEARDOWN, || {
            let difference = before.difference(&self.inventory());
            let clean = difference.verdict().to_string() == "pass";
            last = Some(difference);
            clean.then_some(())
        });
        if let (None, Some(difference)) = (clean, last) {
            panic!("the host is not as it was {TEARDOWN:?} later: {difference}");
        }
    }

    /// What `outlast doctor --json` prints.
    #[track_caller]
    pub fn doctor(&self) -> DoctorView {
        self.outlast(&["doctor", "--json"]).json()
    }

    /// Removes the home.
    pub(crate) fn close(self) {
        if self.tmpfs {
            unmount(self.places.home(), UnmountFlags::empty()).expect("nobody uses the home any more");
        }
        if let Some(user) = &self.user {
            user.leave();
        }
        self.directory.close().expect("the lab's directory can be removed");
    }

    /// Compares the end with the beginning.
    #[track_caller]
    pub(crate) fn judge(&self) {
        let open = || self.workloads().into_iter().filter(|view| view.outcome.is_none()).collect::<Vec<_>>();
        let over = within(ENDED_WITHIN, || open().is_empty().then_some(()));
        assert!(over.is_some(), "these workloads have no outcome: {:#?}", open());
        self.remove_vms();
        self.expect_nothing_left();
        let leaks = self.doctor().leaks;
        assert!(leaks.is_empty(), "the doctor finds leaks: {leaks:#?}");
        if !self.audit_will_break {
            // A home in which nothing was ever accepted has no audit log to verify, and must not be told it is intact.
            let expected = if self.places.database().exists() { 0 } else { 3 };
            self.outlast(&["audit", "verify"]).expect_code(expected);
        }
        self.expect_nothing_left();
    }

    /// Prints everything there is to know, and keeps the home for whoever looks into it.
    pub(crate) fn abandon(self) {
        evidence::print(&self.places);
        let home_is_gone_with_us = if self.tmpfs { " (its home was a tmpfs)" } else { "" };
        eprintln!("kept for you: {}{home_is_gone_with_us}", self.directory.keep().display());
    }
}
