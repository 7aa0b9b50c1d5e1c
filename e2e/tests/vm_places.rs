//! Where VMs are kept fails: the disk is full or read-only, the database is damaged or locked. What cannot be written is
//! not said to be done, nothing is overwritten, whoever runs goes on, and everything works again when the place does.

use outlast_e2e::ballast::Ballast;
use outlast_e2e::file::sha256;
use outlast_e2e::{Lab, Setup, on_lab};
use outlast_wire::vm_view::VmSummary;
use rusqlite::Connection;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

const CREATE: [&str; 11] =
    ["vm", "create", "other", "--image", "base", "--memory", "128M", "--disk", "64M", "--disk-format", "raw"];

/// What changes something, of a VM that runs and of one that does not.
fn changes() -> Vec<Vec<&'static str>> {
    vec![
        CREATE.to_vec(),
        vec!["vm", "start", "idle"],
        vec!["vm", "stop", "web"],
        vec!["vm", "rm", "--force", "web"],
        vec!["vm", "rm", "idle"],
    ]
}

/// Two VMs: one runs.
fn two(lab: &Lab) {
    lab.create_vm("idle");
    lab.running_vm("web");
}

/// The one that runs has not noticed, and both can be used again.
#[track_caller]
fn expect_well(lab: &Lab) {
    let states: Vec<_> = lab.vms().into_iter().map(|vm: VmSummary| (vm.name, vm.state)).collect();
    let pair = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    assert_eq!(states, [pair("idle", "created"), pair("web", "running")]);
    lab.sh("web", "echo well").expect_code(0).expect_stdout("well\n");
    lab.start_vm("idle");
    for name in ["idle", "web"] {
        lab.outlast(&["vm", "stop", name]).expect_code(0);
        lab.outlast(&["vm", "rm", name]).expect_code(0);
    }
}

#[test]
fn a_read_only_home_is_named_and_nothing_is_said_to_be_done() {
    Setup::new().home_of_size("512m").run(|lab| {
        two(lab);
        let (runner, vmm) = lab.processes_of("web");
        // As its callers see it; what the runner has opened, it has opened elsewhere.
        mount_bind(lab.home(), lab.home()).expect("a mount of our own");
        mount_remount(lab.home(), MountFlags::BIND | MountFlags::RDONLY, c"").expect("it is our own");
        for line in changes() {
            let output = lab.outlast(&line);
            assert!(!matches!(output.code(), Some(0 | 2 | 3) | None), "{output}");
            output.expect_stderr(&["error: ", "/h/"]);
        }
        assert!(!runner.is_dead() && !vmm.is_dead(), "whoever runs goes on");
        unmount(lab.home(), UnmountFlags::empty()).expect("nobody uses it any more");
        expect_well(lab);
    });
}

#[test]
fn a_full_home_is_named_and_nothing_is_said_to_be_done() {
    Setup::new().home_of_size("512m").run(|lab| {
        two(lab);
        let ballast = Ballast::fill(lab.home(), 0);
        for line in changes() {
            let output = lab.outlast(&line);
            assert!(!matches!(output.code(), Some(0 | 2 | 3) | None), "{output}");
            output.expect_stderr(&["error: "]);
            let said = output.stderr_text().to_lowercase();
            assert!(said.contains("space") || said.contains("free"), "{output}");
        }
        let (runner, vmm) = lab.processes_of("web");
        assert!(!runner.is_dead() && !vmm.is_dead(), "whoever runs goes on");
        ballast.throw_off();
        expect_well(lab);
    });
}

/// Everything that is in the database, in one file.
fn checkpoint(database: &Path) {
    let store = Connection::open(database).expect("the store can be opened");
    let busy: i64 = store
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .expect("a checkpoint can be made");
    assert_eq!(busy, 0);
}

#[test]
fn a_damaged_database_is_not_written_to_and_its_owner_is_told_how_to_recover() {
    on_lab(|lab| {
        lab.create_vm("web");
        let database = lab.places().database();
        checkpoint(&database);
        let whole = fs::read(&database).expect("it can be read");
        // The beginning of every page but the first, which says that it is a database.
        let file = OpenOptions::new().write(true).open(&database).expect("it is ours");
        for page in (4096..whole.len()).step_by(4096) {
            file.write_all_at(&[0xa5; 64], u64::try_from(page).expect("a length")).expect("it is ours");
        }
        let damaged = sha256(&fs::read(&database).expect("it can be read"));
        for line in [
            &CREATE[..],
            &["vm", "ls"],
            &["vm", "start", "web"],
            &["vm", "stop", "web"],
            &["vm", "rm", "web"],
        ] {
            let output = lab.outlast(line);
            output.expect_code(1).expect_stderr(&["outlast.db is damaged", ".recover", "begin anew", "/vms"]);
        }
        assert_eq!(lab.outlast(&["audit", "verify"]).code(), Some(1));
        assert_eq!(sha256(&fs::read(&database).expect("it can be read")), damaged, "nothing was overwritten");
        fs::write(&database, &whole).expect("it is ours");
        lab.start_vm("web");
        // One that is no database at all is left as it is, too.
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        checkpoint(&database);
        let whole = fs::read(&database).expect("it can be read");
        fs::write(
            &database,
            "not a database, and longer than a header has to be, which is a hundred bytes. ".repeat(60),
        )
        .expect("it is ours");
        let damaged = sha256(&fs::read(&database).expect("it can be read"));
        for line in [&CREATE[..], &["vm", "ls"], &["vm", "start", "web"]] {
            lab.outlast(line).expect_code(1).expect_stderr(&["is not a database", "begin anew"]);
        }
        assert_eq!(sha256(&fs::read(&database).expect("it can be read")), damaged);
        fs::write(&database, &whole).expect("it is ours");
        assert_eq!(lab.vms()[0].state, "stopped");
    });
}

#[test]
fn long_a_locked_database_is_waited_for_and_then_named() {
    on_lab(|lab| {
        two(lab);
        let store = Connection::open(lab.places().database()).expect("the store can be opened");
        store.busy_timeout(Duration::from_secs(10)).expect("a wait can be set");
        store.execute_batch("BEGIN IMMEDIATE").expect("its lock can be had");
        let began = Instant::now();
        let calls: Vec<_> = changes().iter().map(|line| lab.call(line).start()).collect();
        for call in calls {
            call.wait().expect_code(4).expect_stderr(&["stayed locked"]);
        }
        assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
        store.execute_batch("ROLLBACK").expect("its lock can be given back");
        expect_well(lab);
    });
}
