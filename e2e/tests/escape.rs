//! Somebody has taken over a VMM: a program is put in its place by the real runner, in the real jail, and tries
//! every way out and across that docs/security.md lists. Outside of the jail the same program succeeds.
//!
//! A runner is held before it starts its VMM, the program takes the VMM's place in a library of the test's own, and
//! the runner goes on: nothing in the product knows of this.

#![expect(clippy::unwrap_used, reason = "a test")]

use outlast_e2e::escape::{Answer, Assignment, Assignments, Targets, WAYS, Way};
use outlast_e2e::{Lab, Setup, until};
use outlast_prove::FaultPoint;
use outlast_wire::journal::{Journal, JournalEntry};
use outlast_wire::paths::Evidence;
use outlast_wire::view::WorkloadView;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const ESCAPEE: &str = env!("CARGO_BIN_EXE_outlast-e2e-escapee");
const POINT: &str = "launch-vmm:before";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
/// The range of user ids that VMMs have.
const IDS: std::ops::Range<u32> = 0x7F6C_0000..0x7F6D_0000;
/// So many runners are held at a time: all of them within their boot's deadline.
const BATCH: usize = 8;
const OVER: Duration = Duration::from_secs(120);

/// A library whose VMM root is the test's own, with the VMM that belongs there or the escapee.
struct Stage<'lab> {
    lab: &'lab Lab,
    root: PathBuf,
    aside: PathBuf,
}

impl<'lab> Stage<'lab> {
    fn set(lab: &'lab Lab) -> Self {
        let library = lab.places().library();
        copy_tree(&outlast_e2e::library::shared().join("vmm"), &library.vmm());
        Self { lab, root: library.vmm().join("qemu/root"), aside: lab.path("qemu") }
    }

    fn put_escapee_in_place(&self, assignments: &Assignments) {
        fs::rename(self.root.join(PROGRAM), &self.aside).unwrap();
        fs::copy(ESCAPEE, self.root.join(PROGRAM)).unwrap();
        fs::set_permissions(self.root.join(PROGRAM), fs::Permissions::from_mode(0o555)).unwrap();
        let table = self.root.join("etc/escape.json");
        fs::write(&table, serde_json::to_vec(assignments).unwrap()).unwrap();
        fs::set_permissions(&table, fs::Permissions::from_mode(0o444)).unwrap();
    }

    fn put_vmm_back(&self) {
        fs::rename(&self.aside, self.root.join(PROGRAM)).unwrap();
        fs::remove_file(self.root.join("etc/escape.json")).unwrap();
    }

    /// A runner that is about to start its VMM.
    fn held(&self, arguments: &[&str]) -> WorkloadView {
        let arguments = [&["--detach"], arguments].concat();
        let started = self.lab.python("pass", &arguments).env("OUTLAST_HOLD", POINT).run();
        let view = self.lab.show(started.expect_code(0).stdout_text().trim());
        until("the runner is held", OVER, || self.evidence(&view).hold().exists().then_some(()));
        view
    }

    fn evidence(&self, view: &WorkloadView) -> Evidence {
        Evidence::at(self.lab.places().incarnations().join(&view.incarnation))
    }

    /// Lets the runner go on, as often as it is held, until its workload is over. What the program said, each time.
    fn released(&self, view: &WorkloadView) -> (WorkloadView, Vec<String>) {
        let evidence = self.evidence(view);
        let mut said = Vec::new();
        loop {
            let held = held_times(&evidence);
            fs::remove_file(evidence.hold()).unwrap();
            let view = until("it is over or held again", OVER, || {
                let view = self.lab.show(&view.id);
                (view.outcome.is_some() || held_times(&evidence) > held).then_some(view)
            });
            said.push(fs::read_to_string(evidence.vmm_log()).unwrap_or_default());
            if view.outcome.is_some() {
                return (view, said);
            }
        }
    }
}

fn held_times(evidence: &Evidence) -> usize {
    let journal = Journal::parse(&fs::read(evidence.journal()).unwrap_or_default());
    let held = JournalEntry::Held { hold: FaultPoint::named(POINT).unwrap().name() };
    journal.lines.iter().filter(|line| line.entry == held).count()
}

fn copy_tree(from: &Path, to: &Path) {
    let metadata = fs::symlink_metadata(from).unwrap();
    if metadata.is_symlink() {
        symlink(fs::read_link(from).unwrap(), to).unwrap();
    } else if metadata.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy_tree(&from.join(&name), &to.join(&name));
        }
        fs::set_permissions(to, metadata.permissions()).unwrap();
    } else {
        fs::copy(from, to).unwrap();
    }
}

const ABSTRACT: &str = "outlast-e2e-escape";

fn targets_inside(lab: &Lab, other: &WorkloadView) -> Targets {
    let places = lab.places();
    Targets {
        template: "/vm/memory".into(),
        image: "/vm/rootfs".into(),
        program: Path::new("/").join(PROGRAM),
        directory: "/vm".into(),
        store: places.database(),
        library: places.library().path().to_owned(),
        run: places.run().to_owned(),
        socket: places.run().join(&other.incarnation).join("control.sock"),
        evidence: places.incarnations().join(&other.incarnation).join("journal.jsonl"),
        abstract_name: ABSTRACT.to_owned(),
    }
}

/// The same outside, where files of the test stand for those of the VMM.
fn targets_outside(lab: &Lab, other: &WorkloadView) -> Targets {
    let directory = lab.path("outside");
    fs::create_dir(&directory).unwrap();
    let inside = targets_inside(lab, other);
    Targets {
        template: lab.file("template", "a template"),
        image: lab.file("image", "an image"),
        program: ESCAPEE.into(),
        directory,
        ..inside
    }
}

/// What the program says about each way it tried.
#[track_caller]
fn expect_refused(way: &Way, said: &str) {
    let said_of_it = |word: &str| said.lines().any(|line| line.starts_with(&format!("{word} {}", way.name)));
    assert!(said_of_it("trying") && said_of_it("refused"), "{} was not refused: {said}", way.name);
    assert!(!said.contains("ESCAPED"), "{said}");
}

fn names(ways: &[&Way]) -> Vec<String> {
    ways.iter().map(|way| way.name.to_owned()).collect()
}

fn ways(answers: &[Answer]) -> Vec<&'static Way> {
    WAYS.iter().filter(|way| answers.contains(&way.answer)).collect()
}

fn uid_of(said: &str) -> u32 {
    let line = said.lines().find_map(|line| line.strip_prefix("uid "));
    line.and_then(|uid| uid.parse().ok()).unwrap_or_else(|| panic!("no user id: {said}"))
}

/// Outside of the jail: each in a process of its own, for some change what they are tried from.
fn expect_escapes_outside(lab: &Lab, targets: &Targets) {
    for way in WAYS.iter().filter(|way| way.works_outside) {
        let assignment = Assignment { ways: vec![way.name.to_owned()], targets: targets.clone() };
        let table = lab.file(
            "table.json",
            serde_json::to_vec(&Assignments::from([("x".to_owned(), assignment)])).unwrap(),
        );
        let output = Command::new(ESCAPEE).arg(table).arg("x").stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("ESCAPED"),
            "'{}' leads nowhere anywhere: {said} ({})",
            way.name,
            output.status
        );
    }
}

#[test]
fn every_way_out_of_a_vmm_is_refused_and_leads_out_elsewhere() {
    let library = ["images", "kernels", "boot", "canary"];
    Setup::new().library_with_only(&library).marked_for_proofs().run(|lab| {
        assert!(WAYS.len() >= 30);
        let name = SocketAddr::from_abstract_name(ABSTRACT).unwrap();
        let listener = UnixListener::bind_addr(&name).unwrap();
        let stage = Stage::set(lab);
        // A template, for the clone.
        lab.python("print('once')", &[]).run().expect_code(0);
        let other = lab.only_workload();
        let mut ids = BTreeSet::new();
        refused_in_a_clone(&stage, &other, &mut ids);
        let deadly = ways(&[Answer::Killed, Answer::Starved]);
        for batch in deadly.chunks(BATCH) {
            deadly_ones(&stage, batch, &mut ids);
        }
        assert_eq!(ids.len(), deadly.len() + 1, "every VMM was another user");
        drop(listener);
    });
}

/// All that are refused, in one clone, beside another run that lives.
fn refused_in_a_clone(stage: &Stage<'_>, other: &WorkloadView, ids: &mut BTreeSet<u32>) {
    let ways = ways(&[Answer::Refused]);
    let beside = stage.held(&[]);
    let view = stage.held(&[]);
    expect_escapes_outside(
        stage.lab,
        &Targets { evidence: stage.evidence(other).journal(), ..targets_outside(stage.lab, &beside) },
    );
    let targets = targets_inside(stage.lab, &beside);
    let assignment = Assignment { ways: names(&ways), targets };
    let bystander = Assignment { ways: Vec::new(), ..assignment.clone() };
    let table = [(view.incarnation.clone(), assignment), (beside.incarnation.clone(), bystander)];
    stage.put_escapee_in_place(&Assignments::from(table));
    let (view, said) = stage.released(&view);
    // As a clone, and again as a machine that boots: a clone that cannot be restored does.
    for said in &said {
        for way in &ways {
            expect_refused(way, said);
        }
        assert!(said.ends_with("done\n"), "{said}");
        assert!(IDS.contains(&uid_of(said)), "{said}");
    }
    ids.insert(uid_of(&said[0]));
    assert_eq!(view.outcome.expect("it is over").kind, "not_started");
    stage.released(&beside);
    stage.put_vmm_back();
}

/// One in each machine, for none lives to try another.
fn deadly_ones(stage: &Stage<'_>, ways: &[&Way], ids: &mut BTreeSet<u32>) {
    let held: Vec<(&Way, WorkloadView)> = ways.iter().map(|&way| (way, stage.held(&["--cold"]))).collect();
    let assignments = held.iter().map(|(way, view)| {
        let targets = targets_inside(stage.lab, view);
        (view.incarnation.clone(), Assignment { ways: vec![way.name.to_owned()], targets })
    });
    stage.put_escapee_in_place(&assignments.collect());
    for (way, view) in held {
        let (view, said) = stage.released(&view);
        let said = said.concat();
        assert!(said.ends_with(&format!("trying {}\n", way.name)), "'{}': {said}", way.name);
        assert!(ids.insert(uid_of(&said)), "no two VMMs have one user id");
        let death = view.death.clone().expect("a death certificate").cause;
        let cause = if way.answer == Answer::Starved { "host_out_of_memory" } else { "vmm_blocked" };
        assert_eq!(death, cause, "'{}': {view:#?}", way.name);
        assert_eq!(view.outcome.expect("it is over").kind, "not_started", "'{}'", way.name);
    }
    stage.put_vmm_back();
}

#[test]
fn a_vmm_that_its_confinement_stops_while_a_program_runs_says_so_on_its_death_certificate() {
    Setup::new().run(|lab| {
        let mut running =
            lab.python("print('up')\nimport time\ntime.sleep(600)", &["--timeout", "700s"]).start();
        assert_eq!(running.line(0, Duration::from_secs(250)).text, "up");
        lab.vmm(&lab.runner()).signal(Signal::SYS);
        running.wait().expect_code(125);
        let view = lab.only_workload();
        assert_eq!(view.outcome.expect("it is over").kind, "lost");
        assert_eq!(view.death.expect("a death certificate").cause, "vmm_blocked");
    });
}

#[test]
fn a_living_vmm_is_nobody_and_has_nothing() {
    Setup::new().run(|lab| {
        let mut running =
            lab.python("print('up')\nimport time\ntime.sleep(600)", &["--timeout", "700s"]).start();
        assert_eq!(running.line(0, Duration::from_secs(250)).text, "up");
        let vmm = lab.vmm(&lab.runner());
        let zero =
            |field: &str| vmm.status(field).is_some_and(|set| u64::from_str_radix(set.trim(), 16) == Ok(0));
        assert!(["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].iter().all(|set| zero(set)));
        assert_eq!(vmm.status("NoNewPrivs").as_deref().map(str::trim), Some("1"));
        assert_eq!(vmm.status("Groups").as_deref().map(str::trim), Some(""));
        let uid = vmm.status("Uid").unwrap().split_whitespace().next().unwrap().parse().unwrap();
        assert!(IDS.contains(&uid), "{uid}");
        let proc = PathBuf::from(format!("/proc/{}", vmm.pid()));
        assert!(fs::read(proc.join("environ")).unwrap().is_empty(), "its environment is empty");
        assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
        let links = fs::read_to_string(proc.join("net/dev")).unwrap();
        assert_eq!(links.lines().skip(2).count(), 1, "it has the loopback and no other link: {links}");
        let open: Vec<PathBuf> = fs::read_dir(proc.join("fd"))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
            .collect();
        let other = |path: &&PathBuf| {
            path.is_absolute()
                && !path.starts_with("/vm")
                && !path.starts_with("/dev/null")
                && !path.ends_with("state")
        };
        assert_eq!(open.iter().filter(other).count(), 0, "{open:?}");
        running.signal(Signal::TERM);
        drop(running.wait());
    });
}

#[test]
fn the_ways_in_security_md_are_the_ones_that_are_tried() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let listed: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let tried: Vec<String> = WAYS
        .iter()
        .map(|way| format!("| `{}` | {} | {} |", way.name, way.what, way.answer.words()))
        .collect();
    assert_eq!(listed, tried, "the table of docs/security.md should be:\n{}\n", tried.join("\n"));
}
