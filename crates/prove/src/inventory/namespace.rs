//! Network namespaces, and the links, bound sockets and nftables rules in each of them.
//!
//! A network namespace lives as long as a process is in it, a mount pins it or a descriptor holds it; all
//! three are looked for. Each is entered by a thread of its own that ends there, so the caller's own
//! namespace never changes.

use super::mount::Mount;
use super::{Inventory, Item, Kind, nft, process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// What is inside one network namespace.
struct Inside {
    links: io::Result<Vec<String>>,
    sockets: io::Result<Vec<String>>,
    rules: nft::Rules,
}

/// Lists all network namespaces and what is in them.
pub(super) fn list(pids: &[u32], mounts: &[Mount], inventory: &mut Inventory) {
    let mut namespaces = BTreeMap::new();
    of_processes(pids, &mut namespaces, inventory);
    of_mounts(mounts, &mut namespaces, inventory);
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    let own = own.and_then(|link| process::namespace_inode(&link.to_string_lossy(), "net"));
    for (inode, handle) in namespaces {
        inventory.found(Item::NetworkNamespace { inode });
        match look_inside(&handle, own == Some(inode)) {
            Ok(inside) => note(inode, inside, inventory),
            Err(error) => {
                for kind in [Kind::Link, Kind::Socket, Kind::NftRule] {
                    inventory.doubt(kind, format!("enter net:[{inode}]: {error}"));
                }
            }
        }
    }
}

fn of_processes(pids: &[u32], namespaces: &mut BTreeMap<u64, File>, inventory: &mut Inventory) {
    for pid in pids.iter().copied() {
        let what = format!("network namespace of process {pid}");
        match process::namespace_of(pid, "net") {
            Ok(inode) => open(inode, &process::path(pid, "ns/net"), &what, namespaces, inventory),
            Err(error) => inventory.failed(Kind::NetworkNamespace, &what, &error),
        }
        match process::descriptors(pid) {
            Ok(descriptors) => {
                for (link, target) in descriptors {
                    if let Some(inode) = process::namespace_inode(&target, "net") {
                        open(inode, &link, &what, namespaces, inventory);
                    }
                }
            }
            Err(error) => {
                inventory.failed(Kind::NetworkNamespace, &format!("files of process {pid}"), &error);
            }
        }
    }
}

fn of_mounts(mounts: &[Mount], namespaces: &mut BTreeMap<u64, File>, inventory: &mut Inventory) {
    for mount in mounts.iter().filter(|mount| mount.line.fstype == "nsfs") {
        if let Some(inode) = process::namespace_inode(&mount.line.root, "net") {
            let what = format!("network namespace mounted at {}", mount.line.point);
            open(inode, &mount.reachable_point(), &what, namespaces, inventory);
        }
    }
}

/// Opens a namespace unless it is already open. Opening waits for nothing and keeps it alive meanwhile.
fn open(inode: u64, path: &Path, what: &str, into: &mut BTreeMap<u64, File>, inventory: &mut Inventory) {
    if into.contains_key(&inode) {
        return;
    }
    match File::open(path) {
        Ok(handle) => drop(into.insert(inode, handle)),
        Err(error) => inventory.failed(Kind::NetworkNamespace, what, &error),
    }
}

fn look_inside(handle: &File, is_own: bool) -> io::Result<Inside> {
    if is_own {
        return Ok(look_around());
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(look_around())
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that looked inside panicked")))
    })
}

fn look_around() -> Inside {
    let read = |name: &str| {
        let bytes = fs::read(Path::new("/proc/thread-self/net").join(name))?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    Inside {
        links: read("dev").map(|text| links(&text)),
        sockets: read("unix").map(|text| sockets(&text)),
        rules: nft::Rules::read(),
    }
}

fn note(namespace: u64, inside: Inside, inventory: &mut Inventory) {
    match inside.links {
        Ok(links) => inventory.found_all(links, |name| Item::Link { namespace, name }),
        Err(error) => inventory.doubt(Kind::Link, format!("net:[{namespace}]: {error}")),
    }
    match inside.sockets {
        Ok(sockets) => inventory.found_all(sockets, |name| Item::Socket { namespace, name }),
        Err(error) => inventory.doubt(Kind::Socket, format!("net:[{namespace}]: {error}")),
    }
    match inside.rules {
        nft::Rules::Are(rules) => inventory.found_all(rules, |rule| Item::NftRule { namespace, rule }),
        nft::Rules::NoProgram => inventory.skip(Kind::NftRule, "there is no program nft on this host".into()),
        nft::Rules::Failed(reason) => inventory.doubt(Kind::NftRule, format!("net:[{namespace}]: {reason}")),
    }
}

/// The interfaces in /proc/net/dev, but for loopback, which every namespace has.
fn links(text: &str) -> Vec<String> {
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).filter(|name| name != "lo").collect()
}

/// The names in /proc/net/unix: the eighth field, which only bound sockets have and which may hold spaces.
fn sockets(text: &str) -> Vec<String> {
    let name = |line: &str| {
        let mut rest = line;
        for _ in 0..7 {
            rest = rest.trim_start();
            rest = &rest[rest.find(' ')?..];
        }
        Some(rest.get(1..)?.to_owned()).filter(|name| !name.is_empty())
    };
    text.lines().skip(1).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn links_are_named_without_loopback() {
        let text = "Inter-|   Receive\n face |bytes\n    lo:  0 0\n  tap0: 1 2\nvethabcdef01:12 3\n";
        assert_eq!(links(text), ["tap0", "vethabcdef01"]);
    }

    #[test]
    fn only_bound_sockets_have_names_and_names_may_hold_spaces() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            00000000d1cb95e6: 00000003 00000000 00000000 0001 03  1078\n\
            00000000d1cb95e7: 00000002 00000000 00010000 0001 01  1079 /tmp/a b/s.sock\n\
            00000000d1cb95e8: 00000002 00000000 00010000 0001 01 10790 @abstract\n";
        assert_eq!(sockets(text), ["/tmp/a b/s.sock", "@abstract"]);
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in "(?s).{0,300}") {
            let _ = links(&text);
            let _ = sockets(&text);
        }
    }
}
