//! Opening: what is made, with which modes, and everything that is refused and left as it is.

use crate::schema::{APPLICATION_ID, MIGRATIONS, version_of};
use crate::testing::{Scratch, new_workload, run_through};
use crate::{Acceptance, Store, StoreError};
use outlast_model::StoreId;
use rusqlite::types::ValueRef;
use rustix::fs::Mode;
use rustix::thread::CapabilitySet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn modes_under(umask: u32) {
    // nextest runs each test in a process of its own; a plain `cargo test` only ever sees these umasks shortly.
    let before = rustix::process::umask(Mode::from_raw_mode(umask));
    let scratch = Scratch::empty();
    let store = scratch.open();
    let _ = store.accept(&new_workload(1, None)).unwrap();
    rustix::process::umask(before);
    assert_eq!(names(&scratch.home()), ["outlast.db", "outlast.db-shm", "outlast.db-wal"]);
    assert_eq!(mode(&scratch.home()), 0o700, "umask {umask:o}");
    for name in names(&scratch.home()) {
        assert_eq!(mode(&scratch.home().join(&name)), 0o600, "{name}, umask {umask:o}");
    }
}

#[test]
fn modes_are_private_whatever_the_umask() {
    modes_under(0o000);
    modes_under(0o077);
    // Root may enter directories it has no bits for; for others a umask this strict breaks tempfile itself.
    if rustix::process::geteuid().is_root() {
        modes_under(0o777);
    }
}

#[test]
fn missing_parents_are_made_and_private() {
    let scratch = Scratch::empty();
    let database = scratch.home().join("state/outlast/outlast.db");
    Store::open(&database).unwrap();
    for directory in [scratch.home(), scratch.home().join("state"), scratch.home().join("state/outlast")] {
        assert_eq!(mode(&directory), 0o700);
    }
}

#[test]
fn opened_again_it_is_the_same_store() {
    let scratch = Scratch::empty();
    let first = scratch.open();
    run_through(&first, 1);
    let id = first.id();
    drop(first);
    let again = scratch.open();
    assert_eq!(again.id(), id);
    assert_eq!(again.audit_verify().unwrap().count, 4);
    assert_ne!(Scratch::new().open().id(), id);
}

#[test]
fn what_the_connection_was_told_holds() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let settings = [
        ("PRAGMA journal_mode", "wal"),
        ("PRAGMA synchronous", "2"),
        ("PRAGMA foreign_keys", "1"),
        ("PRAGMA trusted_schema", "0"),
        ("PRAGMA cell_size_check", "1"),
    ];
    for (pragma, expected) in settings {
        let found = store.rows("test", pragma, [], |row| match row.get_ref(0)? {
            ValueRef::Integer(number) => Ok(number.to_string()),
            other => Ok(String::from_utf8_lossy(other.as_bytes().unwrap()).into_owned()),
        });
        assert_eq!(found.unwrap(), [expected], "{pragma}");
    }
    assert_eq!(scratch.raw().query_row("PRAGMA application_id", [], |r| r.get(0)), Ok(APPLICATION_ID));
}

/// Commits of a short command stay in the log when it leaves.
#[test]
fn closing_does_not_checkpoint() {
    let scratch = Scratch::new();
    run_through(&scratch.open(), 1);
    let log = scratch.home().join("outlast.db-wal");
    assert!(fs::metadata(&log).unwrap().len() > 0);
    assert_eq!(scratch.open().audit_verify().unwrap().count, 4);
}

#[test]
fn the_log_stays_bounded() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for number in 1..=600 {
        run_through(&store, number);
    }
    let log = fs::metadata(scratch.home().join("outlast.db-wal")).unwrap().len();
    assert!(log < 8 << 20, "{log}");
}

fn refused(path: &Path, contents: &[u8]) -> StoreError {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
    fs::write(path, contents).unwrap();
    let error = Store::open(path).unwrap_err();
    assert_eq!(fs::read(path).unwrap(), contents, "it was left as it is");
    error
}

#[test]
fn garbage_is_no_database() {
    let garbage: Vec<u8> = (0..20_000u32).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
    let error = refused(&Scratch::empty().database(), &garbage);
    assert!(matches!(error, StoreError::NotADatabase { .. }), "{error:?}");
    let error = refused(&Scratch::empty().database(), b"hello");
    assert!(matches!(error, StoreError::NotADatabase { .. }), "{error:?}");
}

/// An empty file is what a crash or a full disk leaves of a database; taking it for a new one would hide that.
#[test]
fn an_empty_file_is_not_taken_for_a_new_store() {
    let error = refused(&Scratch::empty().database(), b"");
    assert!(matches!(error, StoreError::NotAStore { found: 0, .. }), "{error:?}");
}

#[test]
fn another_programs_database_is_refused() {
    let scratch = Scratch::empty();
    fs::create_dir(scratch.home()).unwrap();
    let raw = scratch.raw();
    raw.execute_batch("PRAGMA application_id = 7; CREATE TABLE theirs (x);").unwrap();
    drop(raw);
    let contents = fs::read(scratch.database()).unwrap();
    let error = refused(&scratch.database(), &contents);
    assert!(matches!(error, StoreError::NotAStore { found: 7, .. }), "{error:?}");
}

#[test]
fn a_newer_schema_is_refused() {
    let scratch = Scratch::new();
    let newer = version_of(MIGRATIONS) + 1;
    scratch.raw().pragma_update(None, "user_version", newer).unwrap();
    let error = Store::open(&scratch.database()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found, known, .. } if found == newer && known == newer - 1));
    let marks = scratch.raw().query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    assert_eq!(marks, Ok(newer));
}

#[test]
fn a_truncated_database_is_damaged() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for number in 1..=50 {
        run_through(&store, number);
    }
    drop(store);
    scratch.raw().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let length = fs::metadata(scratch.database()).unwrap().len();
    fs::OpenOptions::new().write(true).open(scratch.database()).unwrap().set_len(length / 8 * 4).unwrap();
    let error = Store::open(&scratch.database()).and_then(|store| store.check_integrity()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

#[test]
fn an_overwritten_page_is_found() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for number in 1..=50 {
        run_through(&store, number);
    }
    assert_eq!(store.check_integrity().unwrap(), Vec::<String>::new());
    drop(store);
    scratch.raw().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let mut bytes = fs::read(scratch.database()).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(scratch.database(), bytes).unwrap();
    let found = scratch.open().check_integrity();
    assert!(
        matches!(&found, Err(StoreError::Damaged { .. })) || found.as_ref().is_ok_and(|f| !f.is_empty()),
        "{found:?}"
    );
}

/// A new database beside an old log would have the log's pages written into it.
#[test]
fn a_log_without_its_database_is_refused() {
    let scratch = Scratch::new();
    run_through(&scratch.open(), 1);
    fs::remove_file(scratch.database()).unwrap();
    let error = Store::open(&scratch.database()).unwrap_err();
    assert!(matches!(error, StoreError::OnlyTheLog { .. }), "{error:?}");
    assert!(!scratch.database().exists());
}

#[test]
fn a_directory_others_may_write_to_is_refused() {
    let scratch = Scratch::empty();
    fs::create_dir(scratch.home()).unwrap();
    for wide in [0o770, 0o707, 0o1777] {
        fs::set_permissions(scratch.home(), Permissions::from_mode(wide)).unwrap();
        let error = Store::open(&scratch.database()).unwrap_err();
        assert!(matches!(error, StoreError::NotPrivate { mode, .. } if mode == wide), "{error:?}");
    }
    assert!(names(&scratch.home()).is_empty());
    fs::set_permissions(scratch.home(), Permissions::from_mode(0o755)).unwrap();
    Store::open(&scratch.database()).unwrap();
}

#[test]
fn a_file_others_could_read_is_tightened() {
    let scratch = Scratch::new();
    run_through(&scratch.open(), 1);
    for name in names(&scratch.home()) {
        fs::set_permissions(scratch.home().join(name), Permissions::from_mode(0o666)).unwrap();
    }
    scratch.open();
    for name in names(&scratch.home()) {
        assert_eq!(mode(&scratch.home().join(name)), 0o600);
    }
}

#[test]
fn a_link_or_directory_in_its_place_is_refused() {
    let scratch = Scratch::new();
    let elsewhere = scratch.home().join("elsewhere.db");
    symlink(scratch.database(), &elsewhere).unwrap();
    assert!(matches!(Store::open(&elsewhere), Err(StoreError::NotOurFile { .. })));
    assert!(matches!(Store::open(&scratch.home()), Err(StoreError::NotOurFile { .. })));
    assert!(matches!(Store::open(Path::new("/")), Err(StoreError::BadPath { .. })));
    assert!(matches!(
        Store::open(&scratch.database().join("x")),
        Err(StoreError::NotPrivate { .. } | StoreError::MakeDirectory { .. } | StoreError::Examine { .. })
    ));
}

#[test]
fn a_home_behind_a_link_is_as_good() {
    let scratch = Scratch::new();
    let link = scratch.home().parent().unwrap().join("link");
    symlink(scratch.home(), &link).unwrap();
    let store = Store::open(&link.join("outlast.db")).unwrap();
    assert_eq!(store.path(), scratch.database());
}

/// Runs `body` on a thread without the right to write everywhere, which root has.
fn without_override<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let run = || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        rustix::thread::set_capabilities(None, sets).unwrap();
        body()
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

#[test]
fn a_read_only_directory_is_a_typed_error() {
    let scratch = Scratch::empty();
    fs::create_dir(scratch.home()).unwrap();
    let read_only = |read_only: bool| {
        let mode = if read_only { 0o500 } else { 0o700 };
        fs::set_permissions(scratch.home(), Permissions::from_mode(mode)).unwrap();
    };
    read_only(true);
    let error = without_override(|| Store::open(&scratch.database()).unwrap_err());
    assert!(
        matches!(&error, StoreError::Create { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied),
        "{error:?}"
    );
    let error = without_override(|| Store::open(&scratch.home().join("deeper/outlast.db")).unwrap_err());
    assert!(matches!(&error, StoreError::MakeDirectory { .. }), "{error:?}");
    read_only(false);
    run_through(&scratch.open(), 1);
    for name in ["outlast.db-wal", "outlast.db-shm"] {
        fs::remove_file(scratch.home().join(name)).unwrap();
    }
    read_only(true);
    let error = without_override(|| Store::open(&scratch.database()).unwrap_err());
    read_only(false);
    assert!(matches!(&error, StoreError::NotWritable { .. }), "{error:?}");
}

#[test]
fn what_a_killed_creation_left_is_swept_and_nothing_else() {
    let scratch = Scratch::empty();
    fs::create_dir(scratch.home()).unwrap();
    fs::set_permissions(scratch.home(), Permissions::from_mode(0o700)).unwrap();
    let (old, at_work) = (StoreId::from_parts(1, 1), StoreId::from_parts(u64::MAX >> 16, 1));
    let kept = [format!(".outlast.db.new-{at_work}"), ".outlast.db.new-note".to_owned()];
    for left in kept.iter().cloned().chain(["", "-wal"].map(|end| format!(".outlast.db.new-{old}{end}"))) {
        fs::write(scratch.home().join(left), b"half").unwrap();
    }
    scratch.open();
    let left: Vec<_> = names(&scratch.home()).into_iter().filter(|name| name.contains(".new-")).collect();
    assert_eq!(left, kept);
}

/// No space left: nothing is half written, and what was written stays readable.
#[test]
fn a_full_disk_is_a_typed_error() {
    let scratch = Scratch::new();
    let store = scratch.open();
    run_through(&store, 1);
    let pages = store.rows("test", "PRAGMA page_count", [], |row| Ok(row.get::<_, i64>(0)?)).unwrap();
    let limit = format!("PRAGMA max_page_count = {}", pages[0] + 1);
    store.rows("test", &limit, [], |_| Ok(())).unwrap();
    let mut accepted = 0;
    let error = loop {
        match store.accept(&new_workload(accepted + 2, None)) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(u64::try_from(store.living().unwrap().len()).unwrap(), accepted);
    assert_eq!(store.audit_verify().unwrap().count, accepted + 4);
    assert!(store.audit_verify().unwrap().is_intact());
}

/// A copy made by SQLite's own means is in another journal mode.
#[test]
fn a_restored_copy_is_a_store_again() {
    let scratch = Scratch::new();
    run_through(&scratch.open(), 1);
    let copy = scratch.home().join("copy.db");
    scratch.raw().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    let store = Store::open(&copy).unwrap();
    assert_eq!(store.accept(&new_workload(2, None)).unwrap(), Acceptance::New);
    assert_eq!(mode(&copy), 0o600);
    assert!(store.audit_verify().unwrap().is_intact());
}
