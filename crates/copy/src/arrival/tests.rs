//! Copies of trees through a stream, honest and hostile; no guest is needed.

use super::*;
use crate::{FaultKind, Owners, name_of, pack};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use tempfile::TempDir;

fn top() -> (TempDir, PathBuf) {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().to_owned();
    (top, path)
}

fn packed(source: &Path) -> Vec<u8> {
    let mut stream = Vec::new();
    pack(source, Owners::Kept, &mut stream).unwrap();
    stream
}

fn expected(source: &Path) -> Expected {
    name_of(source).map_or(Expected::Contents, |name| Expected::One(name.to_owned()))
}

fn copy(source: &Path, destination: &Path) -> Result<Tally, CopyError> {
    receive(packed(source).as_slice(), destination, expected(source), Rules::HOSTILE, &Stop::default())?
        .publish(&Stop::default())
}

fn names(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// `src/{a, d/b, d/link -> ../a}`.
fn tree(top: &Path) -> PathBuf {
    let source = top.join("src");
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("a"), "a").unwrap();
    fs::write(source.join("d/b"), vec![b'b'; 300_000]).unwrap();
    symlink("../a", source.join("d/link")).unwrap();
    source
}

#[test]
fn a_destination_means_what_it_means_to_cp() {
    let (_top, top) = top();
    let source = tree(&top);
    let file = source.join("a");
    for made in ["there", "other"] {
        fs::create_dir(top.join(made)).unwrap();
    }
    copy(&file, &top.join("new")).unwrap();
    copy(&file, &top.join("there")).unwrap();
    copy(&source, &top.join("tree")).unwrap();
    copy(&source, &top.join("there/")).unwrap();
    copy(&source.join("."), &top.join("other")).unwrap();
    copy(&source.join("."), &top.join("named")).unwrap();
    assert_eq!(fs::read_to_string(top.join("new")).unwrap(), "a");
    assert_eq!(names(&top.join("there")), ["a", "src"]);
    for like_the_source in ["tree", "there/src", "other", "named"] {
        assert_eq!(names(&top.join(like_the_source)), ["a", "d"], "{like_the_source}");
        assert_eq!(fs::metadata(top.join(like_the_source).join("d/b")).unwrap().len(), 300_000);
        assert_eq!(fs::read_link(top.join(like_the_source).join("d/link")).unwrap(), Path::new("../a"));
    }
    assert_eq!(names(&top), ["named", "new", "other", "src", "there", "tree"], "and nothing else");
}

#[test]
fn what_does_not_go_together_is_refused_and_nothing_is_left() {
    let (_top, top) = top();
    let source = tree(&top);
    fs::write(top.join("file"), "kept").unwrap();
    fs::create_dir_all(top.join("there/src/a")).unwrap();
    let kind = |source: &Path, destination: &str| copy(source, &top.join(destination)).unwrap_err().kind();
    assert_eq!(kind(&source, "file"), FaultKind::Conflict);
    assert_eq!(kind(&source.join("a"), "file/"), FaultKind::Conflict);
    assert_eq!(kind(&source.join("a"), "absent/x"), FaultKind::Missing);
    assert_eq!(kind(&source.join("a"), "absent/"), FaultKind::Missing);
    assert_eq!(kind(&source, "there"), FaultKind::Conflict, "a directory is where a file comes");
    assert_eq!(names(&top.join("there/src")), ["a"], "nothing was moved");
    let stream = packed(&source);
    let anything = |name: &str| {
        receive(stream.as_slice(), &top.join(name), Expected::Anything, Rules::HOSTILE, &Stop::default())
    };
    assert_eq!(anything("absent").unwrap_err().kind(), FaultKind::Missing);
    assert_eq!(anything("file").unwrap_err().kind(), FaultKind::Conflict);
    assert_eq!(pack(&top.join("absent"), Owners::Kept, Vec::new()).unwrap_err().kind(), FaultKind::Missing);
    assert_eq!(
        pack(Path::new("/dev/null"), Owners::Kept, Vec::new()).unwrap_err().kind(),
        FaultKind::Conflict
    );
    assert_eq!(fs::read_to_string(top.join("file")).unwrap(), "kept");
    assert_eq!(names(&top), ["file", "src", "there"]);
}

#[test]
fn modes_and_times_are_kept_and_special_bits_only_where_they_are_believed() {
    let (_top, top) = top();
    let source = tree(&top);
    fs::set_permissions(source.join("a"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(source.join("d"), fs::Permissions::from_mode(0o2710)).unwrap();
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for old in ["a", "d", "."] {
        fs::File::open(source.join(old)).unwrap().set_modified(long_ago).unwrap();
    }
    let look = |path: &Path| {
        let status = fs::metadata(path).unwrap();
        (status.mode() & 0o7777, status.mtime())
    };
    copy(&source, &top.join("hostile")).unwrap();
    assert_eq!(look(&top.join("hostile/a")), (0o751, 1_000_000_000));
    assert_eq!(look(&top.join("hostile/d")), (0o710, 1_000_000_000));
    assert_eq!(look(&top.join("hostile")).1, 1_000_000_000);
    let trusted = Rules { owners: false, ..Rules::TRUSTED };
    let arrival = receive(
        packed(&source).as_slice(),
        &top.join("trusted"),
        expected(&source),
        trusted,
        &Stop::default(),
    );
    arrival.unwrap().publish(&Stop::default()).unwrap();
    assert_eq!(look(&top.join("trusted/a")), (0o4751, 1_000_000_000));
    assert_eq!(look(&top.join("trusted/d")), (0o2710, 1_000_000_000));
}

#[test]
fn half_a_stream_is_never_published() {
    let (_top, top) = top();
    let source = tree(&top);
    let whole = packed(&source);
    for length in (0..whole.len()).step_by(19 * 512).filter(|length| *length + 1024 <= whole.len()) {
        let cut = &whole[..length];
        let error =
            receive(cut, &top.join("copy"), expected(&source), Rules::HOSTILE, &Stop::default()).unwrap_err();
        assert!(matches!(error, CopyError::CutOff), "{length}: {error}");
    }
    // Nor is what has arrived whole and was then let go.
    drop(
        receive(whole.as_slice(), &top.join("copy"), expected(&source), Rules::HOSTILE, &Stop::default())
            .unwrap(),
    );
    assert_eq!(names(&top), ["src"]);
}

#[test]
fn links_of_others_are_neither_followed_nor_lead_out() {
    let (_top, top) = top();
    let (_outside, outside) = self::top();
    fs::write(outside.join("secret"), "secret").unwrap();
    let source = tree(&top);
    symlink(&outside, source.join("out")).unwrap();
    symlink("../../x", source.join("d/up")).unwrap();
    let tally = copy(&source, &top.join("copy")).unwrap();
    assert_eq!((tally.left_out_count, tally.files), (2, 2), "{tally:?}");
    assert!(fs::symlink_metadata(top.join("copy/out")).is_err());
    // What an earlier copy left must not be walked through by the next one.
    symlink(&outside, top.join("copy/trap")).unwrap();
    fs::create_dir(source.join("trap")).unwrap();
    fs::write(source.join("trap/secret"), "overwritten").unwrap();
    let error = copy(&source.join("."), &top.join("copy")).unwrap_err();
    assert!(matches!(error, CopyError::InTheWay { .. }), "{error}");
    // A link in the place of a file is replaced, and what it leads to left alone.
    symlink(outside.join("secret"), top.join("copy/file")).unwrap();
    fs::remove_dir_all(source.join("trap")).unwrap();
    fs::write(source.join("file"), "mine").unwrap();
    copy(&source.join("."), &top.join("copy")).unwrap();
    copy(&source.join("a"), &top.join("copy/file")).unwrap();
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_eq!(fs::read_to_string(top.join("copy/file")).unwrap(), "a");
    assert_eq!(names(&outside), ["secret"]);
}

/// One raw member after another.
fn stream(members: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, target, content) in members {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
            set(&mut header, 0);
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_hostile_stream_changes_nothing_outside_its_place() {
    use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
    let (_top, top) = top();
    let (_outside, outside) = self::top();
    fs::write(outside.join("secret"), "secret").unwrap();
    let out = outside.to_str().unwrap();
    let secret = format!("{out}/secret");
    let refused = |members: &[(&str, tar::EntryType, &str, &[u8])]| {
        let one = Expected::One("one".into());
        let received =
            receive(stream(members).as_slice(), &top.join("copy"), one, Rules::HOSTILE, &Stop::default());
        received.and_then(|arrival| arrival.publish(&Stop::default())).expect_err("it is hostile")
    };
    refused(&[("../x", Regular, "", b"x")]);
    refused(&[("/one", Regular, "", b"x")]);
    refused(&[("one/../../x", Regular, "", b"x")]);
    refused(&[("other", Regular, "", b"x")]);
    refused(&[("./", Directory, "", b"")]);
    refused(&[]);
    let nothing =
        receive(stream(&[]).as_slice(), &top, Expected::One("one".into()), Rules::HOSTILE, &Stop::default());
    assert!(nothing.is_err(), "nothing is no copy of something");
    refused(&[("one", Symlink, out, b"")]);
    refused(&[("one", Symlink, "within", b"")]);
    refused(&[("one", Regular, "", b"x"), ("one/x", Regular, "", b"x")]);
    refused(&[("one/l", Link, "../secret", b"")]);
    refused(&[("one/l", Link, &secret, b"")]);
    refused(&[("one/l", Link, "one/absent", b"")]);
    // A link and then something below it: the link is not there when that is made.
    refused(&[("one/l", Symlink, ".", b""), ("one/l/x", Regular, "", b"x")]);
    assert_eq!(names(&top), Vec::<String>::new());
    let devices =
        [("one/d", Char, "", b"".as_slice()), ("one/p", Fifo, "", b""), ("one/f", Regular, "", b"f")];
    let one = Expected::One("one".into());
    let arrival =
        receive(stream(&devices).as_slice(), &top.join("copy"), one, Rules::HOSTILE, &Stop::default())
            .unwrap();
    assert_eq!(arrival.publish(&Stop::default()).unwrap().left_out_count, 2);
    assert_eq!(names(&top.join("copy")), ["f"]);
    assert_eq!(names(&outside), ["secret"]);
}

#[test]
fn names_longer_than_a_header_and_names_that_are_no_text_are_kept() {
    use std::os::unix::ffi::OsStrExt;
    let (_top, top) = top();
    let source = top.join("src");
    let deep = source.join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join(std::ffi::OsStr::from_bytes(b"od\xffd")), "odd").unwrap();
    symlink("t".repeat(150), deep.join("link")).unwrap();
    copy(&source, &top.join("copy")).unwrap();
    let copied = top.join("copy").join("d".repeat(120)).join("e".repeat(120));
    assert_eq!(fs::read(copied.join(std::ffi::OsStr::from_bytes(b"od\xffd"))).unwrap(), b"odd");
    assert_eq!(fs::read_link(copied.join("link")).unwrap(), Path::new(&"t".repeat(150)));
}

#[test]
fn what_could_not_be_packed_to_its_end_never_looks_whole() {
    let (_top, top) = top();
    let source = tree(&top);
    fs::create_dir_all(source.join("d/".repeat(crate::name::MAX_DEPTH + 1))).unwrap();
    // The kernel says that it has a page, and it has not: what a file is that becomes shorter while it is read.
    let shorter = Path::new("/sys/kernel/uevent_seqnum");
    for (source, wanted) in [(source.as_path(), Expected::One("src".into())), (shorter, Expected::Contents)] {
        let mut stream = Vec::new();
        let error = pack(source, Owners::Kept, &mut stream).unwrap_err();
        assert!(matches!(error, CopyError::TooDeep { .. } | CopyError::Changed { .. }), "{error}");
        let error = receive(stream.as_slice(), &top.join("copy"), wanted, Rules::HOSTILE, &Stop::default())
            .unwrap_err();
        assert!(matches!(error, CopyError::CutOff), "{error}");
    }
    assert_eq!(names(&top), ["src"]);
}

/// A stream that is made while it is read: a member for every number.
struct Endless {
    member: Box<dyn Fn(u32) -> Vec<u8>>,
    next: u32,
    rest: std::io::Cursor<Vec<u8>>,
}

impl Endless {
    fn of(member: impl Fn(u32) -> Vec<u8> + 'static) -> Self {
        Self { member: Box::new(member), next: 0, rest: std::io::Cursor::default() }
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.rest.position() == self.rest.get_ref().len() as u64 {
            self.rest = std::io::Cursor::new((self.member)(self.next));
            self.next += 1;
        }
        self.rest.read(buffer)
    }
}

/// Members without the end of their stream.
fn members(members: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut stream = stream(members);
    stream.truncate(stream.len() - 1024);
    stream
}

#[test]
fn what_a_stream_makes_us_remember_is_bounded() {
    let (_top, top) = top();
    let target = "t".repeat(4000);
    let links = Endless::of(move |number| {
        let long = members(&[("././@LongLink", tar::EntryType::GNULongLink, "", target.as_bytes())]);
        let link = members(&[(&format!("l{number}"), tar::EntryType::Symlink, "t", b"")]);
        [long, link].concat()
    });
    // Without a bound the end of this one comes, and is no end.
    let links = links.take(100 << 20);
    let error =
        receive(links, &top.join("copy"), Expected::Contents, Rules::HOSTILE, &Stop::default()).unwrap_err();
    assert!(matches!(error, CopyError::TooMuch(_)), "{error}");
    assert_eq!(names(&top), Vec::<String>::new());
}

#[test]
fn a_guest_lets_nobody_else_write_on_its_host_nor_read_before_it_is_published() {
    use tar::EntryType::{Directory, Regular};
    let (_top, top) = top();
    let mut stream =
        stream(&[("./", Directory, "", b""), ("d", Directory, "", b""), ("f", Regular, "", b"f")]);
    for header in stream.chunks_mut(512).filter(|chunk| chunk[257..262] == *b"ustar") {
        let mut changed = tar::Header::from_byte_slice(header).clone();
        changed.set_mode(0o777);
        changed.set_cksum();
        header.copy_from_slice(changed.as_bytes());
    }
    let arrival =
        receive(stream.as_slice(), &top.join("copy"), Expected::Contents, Rules::HOSTILE, &Stop::default())
            .unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let partial = names(&top).pop().unwrap();
    assert_eq!(mode(&top.join(partial)), 0o700, "nobody has said yet that it is whole");
    arrival.publish(&Stop::default()).unwrap();
    for name in ["copy", "copy/d", "copy/f"] {
        assert_eq!(mode(&top.join(name)) & 0o022, 0, "{name}");
        assert_eq!(mode(&top.join(name)) & 0o700, 0o700, "{name}");
    }
}

#[test]
fn what_a_host_took_in_is_on_its_disk_when_it_says_so() {
    let Rules { owners, special_bits, links_out, follow, sync, reserve } = Rules::HOSTILE;
    assert_eq!((owners, special_bits, links_out, follow, sync), (false, false, false, false, true));
    assert!(reserve > 0, "and some of that disk is left to others");
}

/// A stop is told by another thread; this one tells it as soon as a copy of it is as far as it says.
#[test]
fn a_copy_that_is_stopped_leaves_nothing() {
    let (_top, top) = top();
    let source = tree(&top);
    let whole = packed(&source);
    for told_after in (0..whole.len()).step_by(8 * 512) {
        let stop = std::rc::Rc::new(Stop::default());
        let (ours, rest) = (std::rc::Rc::clone(&stop), whole.clone());
        let pieces = Endless::of(move |number| {
            let from = (number as usize * 512).min(rest.len());
            if from >= told_after {
                ours.tell();
            }
            rest[from..(from + 512).min(rest.len())].to_vec()
        });
        let received = receive(pieces, &top.join("copy"), expected(&source), Rules::HOSTILE, &stop);
        let stopped = received.and_then(|arrival| arrival.publish(&stop)).unwrap_err();
        assert!(matches!(stopped, CopyError::Stopped), "{told_after}: {stopped}");
    }
    let arrival =
        receive(whole.as_slice(), &top, expected(&source.join(".")), Rules::HOSTILE, &Stop::default());
    let stop = Stop::default();
    stop.tell();
    assert!(matches!(arrival.unwrap().publish(&stop), Err(CopyError::Stopped)));
    assert_eq!(names(&top), ["src"]);
}

proptest::proptest! {
    #[test]
    fn rubbish_never_panics_and_leaves_nothing(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2048)) {
        let (_top, top) = top();
        let received = receive(bytes.as_slice(), &top.join("copy"), Expected::Contents, Rules::HOSTILE, &Stop::default());
        drop(received);
        assert_eq!(names(&top), Vec::<String>::new());
    }
}
