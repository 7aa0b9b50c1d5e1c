//! The leak inventory, shown a planted leak of every kind, each of which must make it red, and clean when
//! the plant is gone. What this machine cannot plant is counted by name.

use outlast_e2e::deadline::within;
use outlast_e2e::{alone, process, skip, until};
use outlast_prove::inventory::Tree;
use outlast_prove::{Inventory, Item, Kind, Scope};
use std::fs::{self, File};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(2);

fn take(scope: &Scope) -> Inventory {
    let inventory = Inventory::take(scope).expect("an inventory can be taken");
    assert_eq!(
        inventory.undecided().count(),
        0,
        "root can read everything: {:?}",
        inventory.undecided().next()
    );
    inventory
}

/// Waits until exactly the wanted things, told by their text, have appeared since `before`.
#[track_caller]
fn expect(before: &Inventory, scope: &Scope, kind: Kind, wanted: &[&str]) {
    let mut last = None;
    let found = within(SOON, || {
        let difference = before.difference(&take(scope));
        let texts: Vec<String> = difference.appeared_of(kind).map(Item::to_string).collect();
        last = Some(difference);
        let all = wanted.iter().all(|part| texts.iter().any(|text| text.contains(part)));
        (all && texts.len() == wanted.len()).then_some(())
    });
    assert!(found.is_some(), "{kind}: wanted {wanted:?}, the difference is {}", last.expect("it was taken"));
}

/// Waits until nothing is different any more.
#[track_caller]
fn expect_clean(before: &Inventory, scope: &Scope) {
    let clean = || (before.difference(&take(scope)).verdict().to_string() == "pass").then_some(());
    assert!(
        within(SOON, clean).is_some(),
        "after the plant was removed: {}",
        before.difference(&take(scope))
    );
}

/// A shell that plants something in namespaces of its own, says so, and stays until it is killed.
struct Planter(Child);

impl Planter {
    fn start(unshare: &[&str], script: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ready = directory.path().join("ready");
        let script = format!("{script}\necho > {}\nexec sleep 1000", ready.display());
        let mut command = Command::new("unshare");
        command.args(unshare).args(["sh", "-ec", &script]).stdin(Stdio::null());
        let child = command.spawn().expect("unshare is part of util-linux, which every Debian has");
        let planter = Self(child);
        until(&format!("planted: {script}"), Duration::from_secs(10), || ready.exists().then_some(()));
        planter
    }
}

impl Drop for Planter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program; `None`, counted as a skip of `what`, when it is missing or fails.
fn run(what: &str, program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => {
            skip::say(what, &format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            None
        }
        Err(error) => {
            skip::say(what, &format!("{program}: {error}"));
            None
        }
    }
}

#[test]
fn nothing_planted_is_no_difference() {
    alone(|| {
        let scope = Scope::new().with_cgroups("", &[]).with_memory_directory("/dev/shm");
        let before = take(&scope);
        expect_clean(&before, &scope);
        assert!(before.items().any(|item| item.kind() == Kind::Process), "it is not empty: we are in it");
        assert!(before.items().any(|item| item.kind() == Kind::Mount));
        assert!(before.items().any(|item| item.kind() == Kind::NetworkNamespace));
    });
}

#[test]
fn planted_taps_veths_and_bridges_are_found() {
    alone(|| {
        let scope = Scope::new();
        let plants: [(&str, &[&str], &[&str]); 3] = [
            ("tap", &["tuntap", "add", "dev", "planttap", "mode", "tap"], &["planttap"]),
            (
                "veth",
                &["link", "add", "plantve0", "type", "veth", "peer", "name", "plantve1"],
                &["plantve0", "plantve1"],
            ),
            ("bridge", &["link", "add", "plantbr", "type", "bridge"], &["plantbr"]),
        ];
        for (what, arguments, names) in plants {
            let before = take(&scope);
            if run(&format!("inventory: {what}"), "ip", arguments).is_some() {
                expect(&before, &scope, Kind::Link, names);
                run(what, "ip", &["link", "del", names[0]]).expect("what was made can be removed");
                expect_clean(&before, &scope);
            }
        }
    });
}

#[test]
fn a_link_in_the_network_namespace_of_another_process_is_found() {
    alone(|| {
        let scope = Scope::new();
        let before = take(&scope);
        if run("inventory: link in another namespace", "ip", &["-V"]).is_none() {
            return;
        }
        let planter = Planter::start(&["-n"], "ip link add plantbr type bridge");
        expect(&before, &scope, Kind::Link, &["plantbr"]);
        expect(&before, &scope, Kind::NetworkNamespace, &["net:["]);
        drop(planter);
        expect_clean(&before, &scope);
    });
}

#[test]
fn a_network_namespace_that_only_a_mount_pins_is_found_with_its_links() {
    alone(|| {
        let directory = tempfile::tempdir().unwrap();
        let pin = directory.path().join("pin");
        fs::write(&pin, "").unwrap();
        let scope = Scope::new();
        let before = take(&scope);
        let arguments =
            [&format!("--net={}", pin.display()), "ip", "link", "add", "plantbr", "type", "bridge"];
        if run("inventory: pinned network namespace", "unshare", &arguments).is_none() {
            return;
        }
        expect(&before, &scope, Kind::NetworkNamespace, &["net:["]);
        expect(&before, &scope, Kind::Link, &["plantbr"]);
        expect(&before, &scope, Kind::Mount, &[&pin.display().to_string()]);
        run("unmount", "umount", &[&pin.display().to_string()]).expect("what was mounted can be unmounted");
        expect_clean(&before, &scope);
    });
}

#[test]
fn a_network_namespace_that_only_a_descriptor_holds_is_found() {
    alone(|| {
        let scope = Scope::new();
        let before = take(&scope);
        let planter = Planter::start(&["-n"], "");
        let held = File::open(format!("/proc/{}/ns/net", planter.0.id())).unwrap();
        drop(planter);
        expect(&before, &scope, Kind::NetworkNamespace, &["net:["]);
        assert_eq!(before.difference(&take(&scope)).appeared_of(Kind::Process).count(), 0);
        drop(held);
        expect_clean(&before, &scope);
    });
}

#[test]
fn planted_mounts_are_found_in_our_namespace_and_in_others_even_on_top_of_equal_ones() {
    alone(|| {
        let directory = tempfile::tempdir().unwrap();
        let point = directory.path().display().to_string();
        let scope = Scope::new();
        let before = take(&scope);
        for _ in 1..=2 {
            run("mount", "mount", &["-t", "tmpfs", "planted", &point]).expect("root can mount");
        }
        let count = before.difference(&take(&scope)).appeared_of(Kind::Mount).count();
        assert_eq!(count, 2, "two mounts on one point are two: {}", before.difference(&take(&scope)));
        for _ in 1..=2 {
            run("umount", "umount", &[&point]).expect("root can unmount");
        }
        expect_clean(&before, &scope);
        let planter = Planter::start(&["-m"], &format!("mount -t tmpfs planted {point}"));
        let appeared = before.difference(&take(&scope));
        assert!(
            appeared.appeared_of(Kind::Mount).any(|item| item.to_string().contains(&point)),
            "{appeared}"
        );
        drop(planter);
        expect_clean(&before, &scope);
    });
}

#[test]
fn a_planted_process_in_a_nested_pid_namespace_is_found() {
    alone(|| {
        let scope = Scope::new();
        let before = take(&scope);
        let planter = Planter::start(&["-p", "-f"], "");
        expect(&before, &scope, Kind::Process, &["(unshare)", "(sleep)"]);
        let sleeper = process::named("sleep").pop().unwrap();
        assert_eq!(sleeper.nested_pids.last(), Some(&1), "it is PID 1 in there: {sleeper:?}");
        // Its parent dies; the sleeper in the nested namespace is an orphan of exactly the feared kind.
        drop(planter);
        expect(&before, &scope, Kind::Process, &["(sleep)"]);
        process::Process::hold(&sleeper)
            .unwrap_or_else(|| {
                let now = process::named("sleep").pop().expect("it still runs");
                process::Process::hold(&now).expect("it can be held")
            })
            .kill();
        expect_clean(&before, &scope);
    });
}

#[test]
fn a_planted_zombie_is_found() {
    alone(|| {
        let scope = Scope::new();
        let before = take(&scope);
        let mut child = Command::new("true").spawn().unwrap();
        expect(&before, &scope, Kind::Zombie, &[&format!("zombie {} (true)", child.id())]);
        child.wait().unwrap();
        expect_clean(&before, &scope);
    });
}

#[test]
fn planted_cgroups_are_found_in_every_hierarchy() {
    alone(|| {
        let scope = Scope::new().with_cgroups("", &["outlast", "outlast/*"]);
        let before = take(&scope);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let of_cgroups = |line: &&str| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"));
        let hierarchies: Vec<PathBuf> = mounts
            .lines()
            .filter(of_cgroups)
            .filter_map(|line| line.split(' ').nth(1))
            .map(PathBuf::from)
            .collect();
        if hierarchies.is_empty() {
            skip::say("inventory: cgroup", "no cgroup hierarchy is mounted");
        }
        for hierarchy in &hierarchies {
            fs::create_dir_all(hierarchy.join("outlast/store/planted")).unwrap();
            let text = format!("outlast/store/planted in {}", hierarchy.display());
            expect(&before, &scope, Kind::Cgroup, &[&text]);
            fs::remove_dir(hierarchy.join("outlast/store/planted")).unwrap();
            // The two above are static by contract, and excepted.
            expect_clean(&before, &scope);
        }
    });
}

#[test]
fn planted_sockets_are_found_by_path_and_by_abstract_name() {
    alone(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("planted.sock");
        let scope = Scope::new();
        let before = take(&scope);
        let bound = UnixListener::bind(&path).unwrap();
        expect(&before, &scope, Kind::Socket, &[&path.display().to_string()]);
        drop(bound);
        expect_clean(&before, &scope);
        let address = SocketAddr::from_abstract_name("planted name").unwrap();
        let bound = UnixListener::bind_addr(&address).unwrap();
        expect(&before, &scope, Kind::Socket, &["@planted name"]);
        drop(bound);
        expect_clean(&before, &scope);
    });
}

#[test]
fn planted_files_directories_and_socket_files_are_found() {
    alone(|| {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let scope = Scope::new().with_tree(Tree::all(directory.path()));
        let before = take(&scope);
        fs::create_dir(at("directory")).unwrap();
        fs::write(at("directory/scratch.img"), "12345").unwrap();
        drop(UnixListener::bind(at("stale.sock")).unwrap());
        expect(&before, &scope, Kind::Directory, &["directory"]);
        expect(&before, &scope, Kind::File, &["directory/scratch.img (5 bytes)"]);
        expect(&before, &scope, Kind::Special, &["stale.sock (socket)"]);
        fs::remove_dir_all(at("directory")).unwrap();
        fs::remove_file(at("stale.sock")).unwrap();
        expect_clean(&before, &scope);
    });
}

#[test]
fn what_is_missing_at_the_end_is_found_too() {
    alone(|| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("disk"), "").unwrap();
        let scope = Scope::new().with_tree(Tree::all(directory.path()));
        let before = take(&scope);
        fs::remove_file(directory.path().join("disk")).unwrap();
        let difference = before.difference(&take(&scope));
        assert!(difference.vanished.iter().any(|item| item.kind() == Kind::File), "{difference}");
        assert_eq!(difference.verdict().to_string(), "fail");
    });
}

#[test]
fn a_planted_loop_device_is_found() {
    alone(|| {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        let scope = Scope::new().with_tree(Tree::all(directory.path()));
        let before = take(&scope);
        let disk = disk.display().to_string();
        let Some(device) = run("inventory: loop device", "losetup", &["-f", "--show", &disk]) else { return };
        expect(&before, &scope, Kind::LoopDevice, &[&disk]);
        run("losetup -d", "losetup", &["-d", &device]).expect("what was made can be removed");
        expect_clean(&before, &scope);
    });
}

#[test]
fn planted_memory_is_found_as_file_and_as_segment() {
    alone(|| {
        let scope = Scope::new().with_memory_directory("/dev/shm");
        let before = take(&scope);
        fs::write("/dev/shm/planted", "123").unwrap();
        expect(&before, &scope, Kind::MemoryFile, &["/dev/shm/planted (3 bytes)"]);
        fs::remove_file("/dev/shm/planted").unwrap();
        expect_clean(&before, &scope);
        let made = run("inventory: System V segment", "ipcmk", &["-M", "4096"]);
        if let Some(id) = made.as_deref().and_then(|text| text.rsplit(' ').next()) {
            expect(&before, &scope, Kind::MemoryFile, &[&format!("segment {id} ")]);
            run("ipcrm", "ipcrm", &["-m", id]).expect("what was made can be removed");
            expect_clean(&before, &scope);
        }
    });
}

#[test]
fn a_file_left_open_in_a_long_lived_process_is_found() {
    alone(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("held");
        fs::write(&path, "").unwrap();
        let scope = Scope::new().with_open_files_of(1).with_open_files_of(std::process::id());
        let before = take(&scope);
        let held = File::open(&path).unwrap();
        expect(&before, &scope, Kind::OpenFile, &[&format!("{} × 1", path.display())]);
        // A deleted file that somebody holds still takes its room on the disk.
        fs::remove_file(&path).unwrap();
        expect(&before, &scope, Kind::OpenFile, &["held (deleted) × 1"]);
        drop(held);
        expect_clean(&before, &scope);
    });
}

#[test]
fn planted_nft_rules_are_found_or_the_kind_is_named_as_not_inspected() {
    alone(|| {
        let scope = Scope::new();
        let before = take(&scope);
        let inspected =
            !before.difference(&before).not_inspected.iter().any(|(kind, _)| *kind == Kind::NftRule);
        let planted = run("inventory: nft rule", "nft", &["add table inet planted"]);
        assert_eq!(inspected, planted.is_some(), "rules are inspected where there is a program to do it");
        if planted.is_some() {
            expect(&before, &scope, Kind::NftRule, &["table inet planted"]);
            run("nft", "nft", &["delete table inet planted"]).expect("what was made can be removed");
            expect_clean(&before, &scope);
        }
    });
}

#[test]
fn every_kind_of_thing_has_its_planted_leak_here() {
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inventory.rs")).unwrap();
    for kind in Kind::ALL {
        let planted = format!("Kind::{kind:?}, &[");
        assert!(source.contains(&planted), "{kind}: no plant is expected by '{planted}'");
    }
}
