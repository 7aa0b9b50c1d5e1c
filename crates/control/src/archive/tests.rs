//! Hostile archives, each of a kind that has hurt somebody, and random ones.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use tar::{Builder, EntryType, Header};

const ALLOWED: u64 = 1024 * 1024;

/// One entry as a test writes it; names go into the header raw, so that bad ones can be written at all.
#[derive(Debug)]
struct Entry {
    name: Vec<u8>,
    kind: EntryType,
    link: Vec<u8>,
    content: Vec<u8>,
    mode: u32,
}

fn file(name: &str, content: &str) -> Entry {
    let (name, content) = (name.as_bytes().to_vec(), content.as_bytes().to_vec());
    Entry { name, kind: EntryType::Regular, link: vec![], content, mode: 0o644 }
}

fn thing(name: &str, kind: EntryType, link: &str) -> Entry {
    Entry { kind, link: link.as_bytes().to_vec(), ..file(name, "") }
}

fn link(name: &str, target: &str) -> Entry {
    thing(name, EntryType::Symlink, target)
}

fn header(entry: &Entry) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(entry.kind);
    header.set_size(entry.content.len() as u64);
    header.set_mode(entry.mode);
    let raw = header.as_old_mut();
    raw.name[..entry.name.len()].copy_from_slice(&entry.name);
    raw.linkname[..entry.link.len()].copy_from_slice(&entry.link);
    header.set_cksum();
    header
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tarball(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        builder.append(&header(entry), entry.content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn judge(entries: &[Entry]) -> Result<Archive, ArchiveError> {
    Archive::inspect(gzip(&tarball(entries)), ALLOWED)
}

/// Every file below a directory with its content.
fn files_below(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            assert!(kind.is_dir() || kind.is_file(), "{:?} is neither file nor directory", entry.path());
            if kind.is_dir() {
                ahead.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(top).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    found
}

fn unpacked(entries: &[Entry]) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().unwrap();
    judge(entries).unwrap().unpack(directory.path()).unwrap();
    files_below(directory.path())
}

#[test]
fn an_honest_archive_is_unpacked_with_safe_modes() {
    let directory = tempfile::tempdir().unwrap();
    let script = Entry { mode: 0o4755, ..file("bin/run.sh", "#!/bin/sh\n") };
    let entries = [
        thing("./", EntryType::Directory, ""),
        file("./main.py", "print(1)"),
        script,
        file("a/b/c.txt", "c"),
    ];
    let archive = judge(&entries).unwrap();
    assert!(archive.has_file("main.py") && archive.has_file("bin/run.sh") && !archive.has_file("bin"));
    assert_eq!(archive.unpacked_bytes(), 8 + 10 + 1);
    archive.unpack(directory.path()).unwrap();
    let mode = |name: &str| directory.path().join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("main.py"), mode("bin/run.sh"), mode("a"), mode("a/b")), (0o600, 0o700, 0o700, 0o700));
    assert_eq!(files_below(directory.path())["a/b/c.txt"], "c");
}

#[test]
fn what_is_not_a_tar_gz_is_refused() {
    let plain = tarball(&[file("main.py", "x")]);
    assert!(matches!(Archive::inspect(plain, ALLOWED), Err(ArchiveError::NotGzip)));
    assert!(matches!(Archive::inspect(vec![], ALLOWED), Err(ArchiveError::NotGzip)));
    assert!(matches!(Archive::inspect(gzip(b"print(1)"), ALLOWED), Err(ArchiveError::Broken(_))));
    assert!(matches!(Archive::inspect(gzip(&[7; 2048]), ALLOWED), Err(ArchiveError::Broken(_))));
    assert!(matches!(Archive::inspect(gzip(&[0; 2048]), ALLOWED), Err(ArchiveError::Empty)));
}

#[test]
fn an_archive_cut_or_damaged_anywhere_is_refused() {
    let whole = gzip(&tarball(&[file("main.py", &"x = 1\n".repeat(500)), file("b", "b")]));
    for length in 0..whole.len() {
        assert!(Archive::inspect(whole[..length].to_vec(), ALLOWED).is_err(), "cut at {length}");
    }
    let mut damaged = whole.clone();
    let last = damaged.len() - 5; // The checksum of gzip.
    damaged[last] ^= 1;
    assert!(matches!(Archive::inspect(damaged, ALLOWED), Err(ArchiveError::Broken(_))));
}

#[test]
fn names_that_leave_the_tree_are_refused() {
    assert!(matches!(judge(&[file("/etc/passwd", "x")]), Err(ArchiveError::Absolute { .. })));
    assert!(matches!(judge(&[file("../x", "x")]), Err(ArchiveError::ParentPath { .. })));
    assert!(matches!(judge(&[file("a/../../x", "x")]), Err(ArchiveError::ParentPath { .. })));
    assert!(matches!(judge(&[thing("..", EntryType::Directory, "")]), Err(ArchiveError::ParentPath { .. })));
    let bytes = Entry { name: vec![b'a', 0xff], ..file("", "x") };
    assert!(matches!(judge(&[bytes]), Err(ArchiveError::BadName { .. })));
    assert!(matches!(judge(&[file("", "x")]), Err(ArchiveError::Malformed { .. })));
}

#[test]
fn names_are_shown_without_control_characters() {
    let error = judge(&[file("/\u{1b}[31mred\n", "x")]).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}') && !error.contains('\n'), "{error:?}");
}

#[test]
fn links_out_of_the_tree_are_refused() {
    for target in ["/etc/passwd", "../x", "a/../../x", ".."] {
        let entries = [file("a/f", "x"), link("l", target)];
        assert!(matches!(judge(&entries), Err(ArchiveError::LinkOut { .. })), "{target}");
    }
    // Each alone stays inside; together they leave.
    let entries = [file("d/e/f", "x"), link("up", "d/e"), link("out", "up/../../../x")];
    assert!(matches!(judge(&entries), Err(ArchiveError::LinkOut { .. })));
    let hard = thing("h", EntryType::Link, "../../etc/shadow");
    assert!(matches!(judge(&[hard]), Err(ArchiveError::LinkOut { name, .. }) if name == "h"));
    let hard = thing("h", EntryType::Link, "/etc/shadow");
    assert!(matches!(judge(&[hard]), Err(ArchiveError::LinkOut { .. })));
}

#[test]
fn a_path_through_a_link_is_refused() {
    let entries = [thing("d", EntryType::Directory, ""), link("l", "d"), file("l/x", "x")];
    assert!(matches!(judge(&entries), Err(ArchiveError::Conflict { .. })));
    let entries = [file("f", "x"), file("f/x", "x")];
    assert!(matches!(judge(&entries), Err(ArchiveError::Conflict { .. })));
}

#[test]
fn links_to_nothing_and_links_to_themselves_are_refused() {
    assert!(matches!(judge(&[link("l", "missing")]), Err(ArchiveError::LinkDangling { .. })));
    assert!(matches!(judge(&[file("f", "x"), link("l", "f/x")]), Err(ArchiveError::LinkDangling { .. })));
    assert!(matches!(judge(&[link("a", "b"), link("b", "a")]), Err(ArchiveError::LinkLoop { .. })));
    assert!(matches!(judge(&[link("a", "a")]), Err(ArchiveError::LinkLoop { .. })));
    assert!(matches!(judge(&[file("f", "x"), link("here", ".")]), Err(ArchiveError::LinkLoop { .. })));
    let mutual = [file("a/f", "x"), file("b/f", "x"), link("a/b", "../b"), link("b/a", "../a")];
    assert!(matches!(judge(&mutual), Err(ArchiveError::LinkLoop { .. })));
}

#[test]
fn links_inside_the_tree_become_copies() {
    let hard = thing("hard", EntryType::Link, "lib/a.py");
    let entries = [
        file("lib/a.py", "A"),
        link("b.py", "lib/a.py"),
        link("lib2", "./lib"),
        link("c.py", "lib2/a.py"),
        hard,
    ];
    let files = unpacked(&entries);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["b.py", "c.py", "hard", "lib/a.py", "lib2/a.py"]);
    assert!(files.values().all(|content| content == "A"));
}

#[test]
fn links_that_multiply_are_stopped_by_the_limits() {
    // Each level doubles: two to the fortieth files.
    let mut entries = vec![file("d0/f", "x")];
    for level in 1..40 {
        for copy in ["a", "b"] {
            entries.push(link(&format!("d{level}/{copy}"), &format!("../d{}", level - 1)));
        }
    }
    let error = judge(&entries).unwrap_err();
    assert!(matches!(error, ArchiveError::TooManyEntries | ArchiveError::TooLarge { .. }), "{error}");
    // Ten copies of 200 kB are two megabytes.
    let mut entries = vec![file("f", &"x".repeat(200_000))];
    entries.extend((0..9).map(|n| link(&format!("l{n}"), "f")));
    assert!(matches!(judge(&entries), Err(ArchiveError::TooLarge { .. })));
}

#[test]
fn devices_pipes_and_sparse_files_are_refused() {
    for kind in
        [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse, EntryType::new(b'Z')]
    {
        assert!(matches!(judge(&[thing("x", kind, "")]), Err(ArchiveError::Kind { .. })), "{kind:?}");
    }
}

#[test]
fn a_bomb_is_stopped_by_its_header_or_by_the_ceiling() {
    let mut lying = header(&file("huge", ""));
    lying.set_size(1 << 40);
    lying.set_cksum();
    let error = Archive::inspect(gzip(lying.as_bytes()), ALLOWED).unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge { allowed: ALLOWED, .. }), "{error}");
    // Zeros behind the end of the tar, far more than are allowed.
    let mut bytes = tarball(&[file("f", "x")]);
    bytes.resize(60 << 20, 0);
    assert!(matches!(Archive::inspect(gzip(&bytes), ALLOWED), Err(ArchiveError::TooLarge { .. })));
    // A long name that is a hundred kilobytes long.
    let name = Entry { content: vec![b'n'; 100_000], ..thing("x", EntryType::GNULongName, "") };
    assert!(matches!(judge(&[name]), Err(ArchiveError::Malformed { .. })));
}

#[test]
fn too_many_entries_are_refused() {
    let entries: Vec<Entry> = (0..=ARCHIVE_ENTRIES).map(|n| file(&format!("f{n}"), "")).collect();
    assert!(matches!(judge(&entries), Err(ArchiveError::TooManyEntries)));
}

#[test]
fn long_names_and_pax_headers_are_understood() {
    let long = format!("{}/main.py", "d".repeat(150));
    let mut builder = Builder::new(Vec::new());
    let mut header = header(&file("x", "1"));
    builder.append_data(&mut header, &long, b"1".as_slice()).unwrap();
    builder.append_pax_extensions([("path", "from/pax.py".as_bytes()), ("size", b"2".as_slice())]).unwrap();
    let mut second = super::tests::header(&file("y", "22"));
    builder
        .append(
            &{
                second.set_cksum();
                second
            },
            b"22".as_slice(),
        )
        .unwrap();
    let archive = Archive::inspect(gzip(&builder.into_inner().unwrap()), ALLOWED).unwrap();
    assert!(archive.has_file(&long) && archive.has_file("from/pax.py"));
}

#[test]
fn two_sizes_that_differ_are_refused() {
    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions([("size", b"512".as_slice())]).unwrap();
    builder.append(&header(&file("y", "22")), b"22".as_slice()).unwrap();
    let bytes = gzip(&builder.into_inner().unwrap());
    assert!(matches!(Archive::inspect(bytes, ALLOWED), Err(ArchiveError::Malformed { .. })));
}

#[test]
fn a_packed_archive_over_the_limit_is_refused_with_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("big.tar.gz");
    File::create(&path).unwrap().set_len(ARCHIVE_BYTES + 1).unwrap();
    assert!(
        matches!(Archive::read(&path), Err(ArchiveError::PackedTooLarge { size }) if size == ARCHIVE_BYTES + 1)
    );
    assert!(matches!(Archive::read(directory.path()), Err(ArchiveError::NotAFile)));
    assert!(matches!(Archive::read(&directory.path().join("no")), Err(ArchiveError::Read(_))));
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let part = prop::sample::select(&["a", "b", "..", ".", "", "c"][..]);
    let path = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    let kind = prop::sample::select(
        &[EntryType::Regular, EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link]
            [..],
    );
    (path.clone(), kind, path, 0usize..2000).prop_map(|(name, kind, target, size)| {
        let content = if kind == EntryType::Regular { "x".repeat(size) } else { String::new() };
        Entry { kind, link: target.into_bytes(), ..file(&name, &content) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is accepted is unpacked, into plain files below the directory, of the size that was said.
    #[test]
    fn what_is_accepted_stays_inside(entries in prop::collection::vec(any_entry(), 1..8)) {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("in");
        std::fs::create_dir(&inner).unwrap();
        if let Ok(archive) = judge(&entries) {
            archive.unpack(&inner).unwrap();
            let bytes: u64 = files_below(&inner).values().map(|content| content.len() as u64).sum();
            prop_assert_eq!(bytes, archive.unpacked_bytes());
        }
        prop_assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
    }

    #[test]
    fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Archive::inspect(gzip(&bytes), ALLOWED);
        let _ = Archive::inspect([&[0x1f, 0x8b], bytes.as_slice()].concat(), ALLOWED);
    }
}
