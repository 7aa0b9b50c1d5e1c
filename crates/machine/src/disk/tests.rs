//! Disks that are and are not what they should be: files in a scratch directory, no tool and no machine.

use super::*;

fn qcow2(bytes: u64) -> Vec<u8> {
    let mut head = vec![0; 104];
    head[..4].copy_from_slice(&QCOW2_MAGIC);
    head[QCOW2_SIZE_AT..QCOW2_SIZE_AT + 8].copy_from_slice(&bytes.to_be_bytes());
    head
}

#[test]
fn a_disk_has_the_size_that_its_guest_sees() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("disk");
    File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let found = check(&path, DiskFormat::Raw, 64 << 20).unwrap();
    assert_eq!((found.bytes, found.allocated), (64 << 20, 0));
    assert!(matches!(
        check(&path, DiskFormat::Raw, 65 << 20),
        Err(DiskError::Size { found, expected, .. }) if (found, expected) == (64 << 20, 65 << 20)
    ));
    assert!(matches!(check(&path, DiskFormat::Qcow2, 1), Err(DiskError::Format { .. })));
    fs::write(&path, qcow2(3 << 30)).unwrap();
    assert_eq!(check(&path, DiskFormat::Qcow2, 3 << 30).unwrap().bytes, 3 << 30);
    let scratch = Scratch { path, format: "qcow2".to_owned(), bytes: 3 << 30 };
    assert_eq!(open(&scratch).unwrap().bytes, 3 << 30);
    let error = open(&Scratch { bytes: 1, ..scratch }).unwrap_err();
    assert!(matches!(error, DiskError::Size { .. }), "{error}");
}

#[test]
fn what_is_no_disk_is_not_opened() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("disk");
    assert!(matches!(check(&path, DiskFormat::Raw, 1), Err(DiskError::Missing { .. })));
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    assert!(matches!(check(&path, DiskFormat::Raw, 1), Err(DiskError::Kind { .. })));
    assert!(matches!(check(root.path(), DiskFormat::Raw, 1), Err(DiskError::Kind { .. })));
    let scratch = Scratch { path, format: "vmdk".to_owned(), bytes: 1 };
    assert!(matches!(open(&scratch), Err(DiskError::UnknownFormat { .. })));
}

#[test]
fn a_disk_and_what_an_interrupted_maker_left_are_removed_and_twice_is_once() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("disk");
    for file in [&path, &beside(&path, "new"), &beside(&path, "new.qcow2")] {
        fs::write(file, "x").unwrap();
    }
    remove(&path).unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    remove(&path).unwrap();
}

#[test]
fn of_two_makers_one_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let raw = root.path().join(".disk.new");
    let _first = reserve(&raw).unwrap();
    assert!(matches!(reserve(&raw), Err(DiskError::Busy { .. })));
}

#[test]
fn a_disk_that_does_not_fit_is_refused_with_the_numbers_unless_asked_otherwise() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("disk");
    let wanted = Wanted { format: DiskFormat::Raw, bytes: u64::MAX, beyond_free: false };
    let error = check_space(&path, wanted).unwrap_err();
    assert!(matches!(error, DiskError::TooLittleSpace { needed: u64::MAX, .. }), "{error}");
    check_space(&path, Wanted { beyond_free: true, ..wanted }).unwrap();
}
