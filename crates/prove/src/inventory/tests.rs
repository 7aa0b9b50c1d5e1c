//! What of the inventory can be tried without root: planted files, sockets, processes, zombies and open files.
//! Mounts, namespaces, links, cgroups, loop devices and rules are planted in `e2e/tests/inventory.rs`.

use super::*;
use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// What appeared below `directory` while `plant` ran. Other tests run at the same time on the same host:
/// only what the closure `mine` recognizes counts.
fn appeared<T>(scope: &Scope, plant: impl FnOnce() -> T, mine: impl Fn(&Item) -> bool) -> Vec<Item> {
    let before = Inventory::take(scope).unwrap();
    let kept = plant();
    let after = Inventory::take(scope).unwrap();
    drop(kept);
    before.difference(&after).appeared.into_iter().filter(mine).collect()
}

fn below(directory: &Path) -> impl Fn(&Item) -> bool {
    let name = directory.display().to_string();
    move |item| item.to_string().contains(&name)
}

#[test]
fn planted_files_directories_links_and_sockets_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let scope = Scope::new().with_tree(Tree::all(scratch.path()).except("kept"));
    let plant = || {
        fs::create_dir(at("directory")).unwrap();
        fs::write(at("directory/file"), "four").unwrap();
        fs::write(at("kept"), "no leak").unwrap();
        std::os::unix::fs::symlink("/nowhere", at("link")).unwrap();
        UnixListener::bind(at("socket")).unwrap()
    };
    let found = appeared(&scope, plant, below(scratch.path()));
    let socket = at("socket").display().to_string();
    let bound = found.iter().filter(|item| matches!(item, Item::Socket { name, .. } if *name == socket));
    assert_eq!(bound.count(), 1, "the bound socket: {found:?}");
    let files: Vec<_> = found.iter().filter(|item| item.kind() != Kind::Socket).cloned().collect();
    let expected = [
        Item::File { path: at("directory/file"), bytes: 4 },
        Item::Directory { path: at("directory") },
        Item::Special { path: at("link"), what: "symlink" },
        Item::Special { path: at("socket"), what: "socket" },
    ];
    assert_eq!(files, expected);
}

#[test]
fn a_file_that_grew_is_a_difference_both_ways() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("disk");
    let scope = Scope::new().with_tree(Tree::all(scratch.path()));
    fs::write(&path, "1").unwrap();
    let before = Inventory::take(&scope).unwrap();
    fs::write(&path, "22").unwrap();
    let difference = before.difference(&Inventory::take(&scope).unwrap());
    assert!(difference.appeared.contains(&Item::File { path: path.clone(), bytes: 2 }));
    assert!(difference.vanished.contains(&Item::File { path, bytes: 1 }));
    assert_eq!(difference.verdict(), outlast_model::Verdict::Fail);
}

#[test]
fn a_planted_process_is_named_with_its_start_and_becomes_a_zombie() {
    let scope = Scope::new();
    let before = Inventory::take(&scope).unwrap();
    let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let alive = before.difference(&Inventory::take(&scope).unwrap());
    let mine = |item: &Item| matches!(item, Item::Process { pid: found, comm, start_time } if *found == pid && comm == "sleep" && *start_time > 0);
    assert!(alive.appeared.iter().any(mine), "{alive}");

    child.kill().unwrap();
    // WNOWAIT: waits for the death without taking the zombie away.
    let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child));
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(id, options).unwrap();
    let dead = before.difference(&Inventory::take(&scope).unwrap());
    let mine = |item: &Item| matches!(item, Item::Zombie { pid: found, .. } if *found == pid);
    assert!(dead.appeared.iter().any(mine), "{dead}");
    child.wait().unwrap();
}

#[test]
fn a_file_held_open_by_a_long_lived_process_is_counted_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("held");
    fs::write(&path, "").unwrap();
    let scope = Scope::new().with_open_files_of(std::process::id());
    let plant = || [File::open(&path).unwrap(), File::open(&path).unwrap()];
    let found = appeared(&scope, plant, below(scratch.path()));
    assert!(
        matches!(found.as_slice(), [Item::OpenFile { count: 2, target, .. }] if Path::new(target) == path),
        "{found:?}"
    );
}

#[test]
fn planted_memory_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let scope = Scope::new().with_memory_directory(scratch.path());
    let found =
        appeared(&scope, || fs::write(scratch.path().join("m"), "12").unwrap(), below(scratch.path()));
    assert!(matches!(found.as_slice(), [Item::MemoryFile { bytes: 2, .. }]), "{found:?}");
}

#[test]
fn what_cannot_be_read_is_undecided_and_never_a_pass() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("not-a-directory");
    fs::write(&file, "").unwrap();
    let broken = Scope::new().with_tree(Tree::all(&file));
    let inventory = Inventory::take(&broken).unwrap();
    assert!(inventory.undecided().any(|(kind, _)| *kind == Kind::Directory));
    let difference =
        Difference { undecided: inventory.undecided().cloned().collect(), ..Difference::default() };
    assert_eq!(difference.verdict(), outlast_model::Verdict::Unknown);
    // A doubt in either of the two counts.
    let clean = Inventory::take(&Scope::new()).unwrap();
    assert!(!clean.difference(&inventory).undecided.is_empty());
    assert!(!inventory.difference(&clean).undecided.is_empty());
}

#[test]
fn the_open_files_of_a_process_that_is_gone_are_undecided() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let inventory = Inventory::take(&Scope::new().with_open_files_of(child.id())).unwrap();
    assert!(inventory.undecided().any(|(kind, _)| *kind == Kind::OpenFile));
}

#[test]
fn nothing_different_is_a_pass() {
    assert_eq!(Difference::default().verdict(), outlast_model::Verdict::Pass);
}
