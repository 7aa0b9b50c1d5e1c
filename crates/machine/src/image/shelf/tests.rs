//! The shelf's promises: what is published is whole, what is used stays, and what others may do with it.

use super::*;

fn silent(_: super::super::progress::Progress<'_>) {}

fn shelf() -> (tempfile::TempDir, Shelf) {
    let root = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(root.path().join("images"));
    (root, shelf)
}

fn put(shelf: &Shelf, name: &str, digest: &str) -> PathBuf {
    let lock = shelf.lock_build(name, &mut silent).unwrap();
    let made = shelf.scratch(&lock).unwrap().join("out");
    fs::create_dir(&made).unwrap();
    fs::write(made.join("content"), digest).unwrap();
    shelf.publish(&lock, &made, digest, &|_| true).unwrap()
}

#[test]
fn what_is_published_is_found_and_replaced_whole() {
    let (_root, shelf) = shelf();
    put(&shelf, "a", "one");
    put(&shelf, "a", "two");
    let (path, _lease) = shelf.open("a").unwrap().unwrap();
    assert_eq!(fs::read_to_string(path.join("content")).unwrap(), "two");
    assert_eq!(shelf.names().unwrap(), ["a"]);
    shelf.sweep().unwrap();
    assert!(!shelf.store().join("one").exists(), "what has no name is swept");
}

#[test]
fn what_is_leased_is_neither_removed_nor_swept() {
    let (_root, shelf) = shelf();
    let one = put(&shelf, "a", "one");
    let (_, lease) = shelf.open("a").unwrap().unwrap();
    assert!(matches!(shelf.remove("a"), Err(LibraryError::InUse { .. })));
    put(&shelf, "a", "two");
    shelf.sweep().unwrap();
    assert!(one.exists(), "the old one stays for its user");
    drop(lease);
    assert!(shelf.remove("a").unwrap());
    assert!(!one.exists() && shelf.open("a").unwrap().is_none());
    assert!(!shelf.remove("a").unwrap());
}

#[test]
fn others_may_pass_through_and_a_visitor_delays_removal_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_root, shelf) = shelf();
    let stored = put(&shelf, "a", "one");
    fs::write(stored.join(VISITED), "{}").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&stored), PASSED);
    fs::set_permissions(&stored, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    shelf.let_others_read(&|path| path == stored).unwrap();
    let lock = shelf.root.join(".lock-a");
    assert_eq!([&*shelf.root, &*shelf.store(), &*stored, &*lock].map(mode), [LISTED, PASSED, PASSED, LOCKED]);
    shelf.let_others_read(&|_| false).unwrap();
    assert_eq!(mode(&stored), PRIVATE, "what somebody brought is theirs");
    let visitor = visit(&stored).unwrap().unwrap();
    assert!(matches!(shelf.remove("a"), Err(LibraryError::InUse { by, .. }) if by.contains("another user")));
    assert!(shelf.open("a").unwrap().is_some(), "its owner is not kept from using it");
    put(&shelf, "a", "two");
    shelf.sweep().unwrap();
    assert!(stored.exists());
    let rude = File::open(stored.join(VISITED)).unwrap();
    drop(visitor);
    assert!(try_lock(&rude, Hold::Exclusive).unwrap());
    assert!(visit(&stored).unwrap().is_some(), "who locks it alone keeps nobody from using it");
    drop(rude);
    shelf.sweep().unwrap();
    assert!(!stored.exists() && visit(&stored).unwrap().is_none());
}

#[test]
fn one_thing_with_two_names_goes_with_the_last() {
    let (_root, shelf) = shelf();
    let stored = put(&shelf, "a", "one");
    put(&shelf, "b", "one");
    let (_, lease) = shelf.open("b").unwrap().unwrap();
    assert!(shelf.remove("a").unwrap());
    drop(lease);
    assert!(stored.exists());
    assert!(shelf.remove("b").unwrap());
    assert!(!stored.exists());
}

#[test]
fn the_scratch_of_a_dead_build_is_removed_and_that_of_a_living_one_is_not() {
    let (_root, shelf) = shelf();
    let dead = {
        let lock = shelf.lock_build("dead", &mut silent).unwrap();
        shelf.scratch(&lock).unwrap()
    };
    let living_lock = shelf.lock_build("living", &mut silent).unwrap();
    let living = shelf.scratch(&living_lock).unwrap();
    assert!(!dead.exists(), "taking another lock swept it");
    put(&shelf, "other", "one");
    assert!(living.exists());
    // A program that inherited the lock keeps the scratch alive after the build is gone.
    let inherited = living_lock.lend().unwrap();
    drop(living_lock);
    shelf.sweep().unwrap();
    assert!(living.exists());
    drop(inherited);
    shelf.sweep().unwrap();
    assert!(!living.exists());
}

#[test]
fn a_damaged_thing_is_replaced_by_its_equal() {
    let (_root, shelf) = shelf();
    let stored = put(&shelf, "a", "one");
    fs::write(stored.join("content"), "damaged").unwrap();
    let lock = shelf.lock_build("a", &mut silent).unwrap();
    let made = shelf.scratch(&lock).unwrap().join("out");
    fs::create_dir(&made).unwrap();
    fs::write(made.join("content"), "one").unwrap();
    let is_whole = |path: &Path| fs::read_to_string(path.join("content")).unwrap() == "one";
    shelf.publish(&lock, &made, "one", &is_whole).unwrap();
    assert_eq!(fs::read_to_string(stored.join("content")).unwrap(), "one");
}

#[test]
fn two_builds_of_one_name_follow_each_other() {
    let (_root, shelf) = shelf();
    let first = shelf.lock_build("a", &mut silent).unwrap();
    let scratch = shelf.scratch(&first).unwrap();
    let (sender, waiting) = std::sync::mpsc::channel();
    let second = {
        let shelf = shelf.clone();
        std::thread::spawn(move || {
            let lock = shelf.lock_build("a", &mut |progress| sender.send(progress.phase).unwrap()).unwrap();
            shelf.scratch(&lock).unwrap()
        })
    };
    assert_eq!(waiting.recv_timeout(Duration::from_secs(60)).unwrap(), Phase::Waiting);
    assert!(scratch.exists(), "the second touches nothing before it has the lock");
    drop(first);
    second.join().unwrap();
}
