//! The VMM root: a small read-only tree that holds QEMU, its firmware, two tools that make disks for its machines, the
//! libraries that these need, and nothing else.
//!
//! The VMM's process gets this tree as its root directory, so one known version runs on every distribution and
//! the host needs no QEMU. It is made of Debian's packages by copying what QEMU needs out of them: the binary, what its
//! loader lists, the firmware of a direct kernel boot. There is no shell, no package database, no setuid file.
//!
//! ```text
//!   LIBRARY/vmm/qemu -> .store/DIGEST/      (see image::shelf)
//!       manifest.json                       version, digests, packages
//!       root/                               the tree: usr/bin usr/lib usr/lib64 usr/share, links as usual
//!       root/{vm,dev,proc,tmp}              empty; what an incarnation has is mounted there
//! ```
//!
//! Not here: entering the tree, mounting, starting the VMM.

use crate::image::build::{check_host, unix_seconds};
use crate::image::digest::Digest;
use crate::image::manifest::ManifestError;
use crate::image::packages::{Tree, TreeRequest, Variant, make_tree};
use crate::image::program::Program;
use crate::image::progress::{Phase, Progress, Report, begin};
use crate::image::shelf::{BuildLock, Lease, Shelf};
use crate::image::source::{Mirror, Suite};
use crate::image::{LibraryError, stamp, tree, trust};
use outlast_wire::image::{VMM_ROOT_FORMAT, VmmRootManifest};
use outlast_wire::paths::Library;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

/// The oldest QEMU that maps a template's memory from a read-only file (`memory-backend-file,readonly=on,rom=off`).
const OLDEST: (u32, u32) = (8, 2);
const OLDEST_TEXT: &str = "8.2";
/// Guests are Debian 12; its QEMU (7.2) is too old, so this comes from Debian 13 on every host.
const SUITE: Suite = Suite::Trixie;
const PACKAGES: &[&str] = &["qemu-system-x86", "qemu-utils", "e2fsprogs", "libc6"];
/// Unpacked packages, their archives and the result, generously.
const SCRATCH_BYTES: u64 = 400 << 20;
const NAME: &str = "qemu";
const MANIFEST: &str = "manifest.json";
const BINARY: &str = "/usr/bin/qemu-system-x86_64";
/// What makes a file system in a disk, and what makes a disk of QEMU's own format. Roots that were built before long-lived
/// machines had disks lack them.
const MKE2FS: &str = "/usr/sbin/mke2fs";
const QEMU_IMG: &str = "/usr/bin/qemu-img";
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// All that is executed of the tree.
const PROGRAMS: [&str; 3] = [BINARY, MKE2FS, QEMU_IMG];
/// Found by glibc itself when a thread ends, so no list of needed libraries names it.
const LATE_LIBRARIES: &[&str] = &["libgcc_s.so.1"];
/// What QEMU opens for `-machine q35` and `microvm` with `-kernel` and virtio devices: BIOS, the loaders for bzImage and
/// ELF (PVH) kernels, the APIC helper, and the option ROM that virtio-net asks for.
const FIRMWARE: &[&str] = &[
    "usr/share/seabios/bios-256k.bin",
    "usr/share/seabios/bios-microvm.bin",
    "usr/share/qemu/qboot.rom",
    "usr/share/qemu/pvh.bin",
    "usr/share/qemu/linuxboot.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/efi-virtio.rom",
];
/// Where an incarnation's files, devices and scratch space are mounted.
const MOUNT_POINTS: &[&str] = &["vm", "dev", "proc", "tmp"];

/// A VMM root that was opened; it cannot be removed while this, or a clone of its lease, lives.
#[derive(Debug, Clone)]
pub struct VmmRoot {
    path: PathBuf,
    manifest: VmmRootManifest,
    digest: Digest,
    binary_digest: Digest,
    lease: Lease,
}

impl VmmRoot {
    /// The directory that becomes the VMM's root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The VMM's path inside the root.
    pub fn qemu(&self) -> &Path {
        Path::new(BINARY)
    }

    /// The path inside the tree of the tool that makes file systems; an older tree has none.
    pub fn mke2fs(&self) -> &'static str {
        MKE2FS
    }

    /// The path inside the tree of the tool that makes disks of QEMU's own format; an older tree has none.
    pub fn qemu_img(&self) -> &'static str {
        QEMU_IMG
    }

    /// Whether disks can be made with it.
    pub fn makes_disks(&self) -> bool {
        [MKE2FS, QEMU_IMG].iter().all(|tool| host_path(&self.path, tool).is_file())
    }

    /// Its version, as `10.0.2`.
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// SHA-256 over every path of the tree with its kind, mode, size and content.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// SHA-256 of the VMM's binary.
    pub fn binary_digest(&self) -> Digest {
        self.binary_digest
    }

    /// As written: for what is only shown, such as packages and time of build.
    pub fn record(&self) -> &VmmRootManifest {
        &self.manifest
    }

    /// Keeps the tree from being removed: for whoever outlives this value.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Checks binary and tree against the manifest, by their stamps where those still hold: the libraries and the
    /// firmware run in the VMM's process as much as the binary does.
    ///
    /// # Errors
    /// [`LibraryError::Damaged`] when anything differs.
    pub fn check(&self, library: &Library) -> Result<(), LibraryError> {
        expect(&self.path, self.digest, stamp::digest_of_tree(library, &self.path, tree_digest)?)?;
        let path = host_path(&self.path, BINARY);
        let found = stamp::digest_of(library, &path)?;
        expect(&path, self.binary_digest, found)
    }
}

/// Builds QEMU's VMM root and gives it back, leased. Blocks for some seconds; cancelled as [`crate::image::build()`] is.
///
/// # Errors
/// [`LibraryError`] names what is missing, full, slow or broken; the library is as before.
pub fn build(library: &Library, mirror: &Mirror, report: Report<'_>) -> Result<VmmRoot, LibraryError> {
    check_host(library, "vmm", &[("chroot", "coreutils"), ("ldconfig", "libc-bin")], SCRATCH_BYTES)?;
    let shelf = Shelf::at(library.vmm());
    let lock = shelf.lock_build(NAME, report)?;
    let scratch = shelf.scratch(&lock)?;
    let made = make(mirror, &scratch, &lock, report).and_then(|digest| {
        begin(report, Phase::Publishing, NAME);
        let is_whole = |stored: &Path| is_whole(stored, digest);
        shelf.publish(&lock, &scratch.join("out"), &digest.to_string(), &is_whole)
    });
    let cleared = tree::remove(&scratch);
    made.and(cleared)?;
    crate::image::sweep(library)?;
    open(library)
}

/// Opens QEMU's VMM root. Reads the manifest and hashes nothing; [`VmmRoot::check`] does.
///
/// # Errors
/// [`LibraryError::NoVmmRoot`] says what to type; [`LibraryError::VmmTooOld`], [`LibraryError::Manifest`].
pub fn open(library: &Library) -> Result<VmmRoot, LibraryError> {
    let (directory, lease) = Shelf::at(library.vmm()).open(NAME)?.ok_or(LibraryError::NoVmmRoot)?;
    let (manifest, digest, binary_digest) = read_manifest(&directory)?;
    Ok(VmmRoot { path: directory.join("root"), manifest, digest, binary_digest, lease })
}

/// Whether the library has one, whole or not.
pub fn is_in(library: &Library) -> bool {
    Shelf::at(library.vmm()).has(NAME)
}

/// Removes it: no machine starts until one is built again.
///
/// # Errors
/// [`LibraryError::InUse`] while a VMM of it runs; [`LibraryError::NoVmmRoot`].
pub fn remove(library: &Library) -> Result<(), LibraryError> {
    match Shelf::at(library.vmm()).remove(NAME) {
        Ok(true) => Ok(()),
        Ok(false) => Err(LibraryError::NoVmmRoot),
        Err(LibraryError::InUse { by, .. }) => Err(LibraryError::InUse { name: "vmm".to_owned(), by }),
        Err(error) => Err(error),
    }
}

fn read_manifest(directory: &Path) -> Result<(VmmRootManifest, Digest, Digest), LibraryError> {
    let path = directory.join(MANIFEST);
    let json = fs::read(&path).map_err(LibraryError::io("read", &path))?;
    let read = parse_manifest(&json).map_err(|source| LibraryError::Manifest { path, source })?;
    check_version(&read.0.version)?;
    Ok(read)
}

/// Whether what is stored under this digest is all that was made again, its record too.
fn is_whole(stored: &Path, digest: Digest) -> bool {
    let root = stored.join("root");
    let is_binary = |binary| Digest::of_file(&host_path(&root, BINARY)).is_ok_and(|found| found == binary);
    read_manifest(stored).is_ok_and(|(_, named, binary)| named == digest && is_binary(binary))
        && tree_digest(&root).is_ok_and(|found| found == digest)
}

/// Opens the VMM root of the first of these libraries that has one, as [`crate::image::find`] does images.
///
/// # Errors
/// As [`open`]; [`LibraryError::Untrusted`].
pub fn find(libraries: &[Library]) -> Result<VmmRoot, LibraryError> {
    for (number, library) in libraries.iter().enumerate() {
        match open(library) {
            Ok(root) if number == 0 => return Ok(root),
            Ok(root) => return trust::check(&root.path).map(|()| root),
            Err(LibraryError::NoVmmRoot) => {}
            Err(error) if number > 0 && error.is_forbidden() => {}
            Err(error) => return Err(error),
        }
    }
    Err(LibraryError::NoVmmRoot)
}

/// What it lacks that one built today has; `None` when nothing.
pub fn staleness(root: &VmmRoot) -> Option<String> {
    (!root.makes_disks()).then(|| "it has no tools for the disks of VMs".to_owned())
}

/// Reads every byte of the tree and compares it with the manifest.
///
/// # Errors
/// [`LibraryError::Damaged`] when anything differs: content, modes, links, a file more or less.
pub fn verify(library: &Library, root: &VmmRoot, report: Report<'_>) -> Result<(), LibraryError> {
    report(Progress { phase: Phase::Hashing, done: 0, total: Some(1), detail: NAME });
    expect(&root.path, root.digest, tree_digest(&root.path)?)?;
    let binary = host_path(&root.path, BINARY);
    expect(&binary, root.binary_digest, stamp::rehash(library, &binary)?)
}

fn expect(path: &Path, expected: Digest, found: Digest) -> Result<(), LibraryError> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (expected.to_string(), found.to_string());
    Err(LibraryError::Damaged { name: "vmm".to_owned(), path: path.to_owned(), expected, found })
}

/// Reads the JSON of a VMM root's manifest: what it says, the digest of the tree and that of the VMM's binary.
///
/// # Errors
/// [`ManifestError`] says what is wrong with it; whether the version will do is asked elsewhere.
pub fn parse_manifest(json: &[u8]) -> Result<(VmmRootManifest, Digest, Digest), ManifestError> {
    /// Read first: a newer format need not parse as ours.
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(json)?;
    if format > VMM_ROOT_FORMAT {
        return Err(ManifestError::Format { found: format, known: VMM_ROOT_FORMAT });
    }
    let manifest: VmmRootManifest = serde_json::from_slice(json)?;
    let (digest, binary) = (manifest.digest.parse()?, manifest.binary_sha256.parse()?);
    Ok((manifest, digest, binary))
}

/// Makes `scratch/out` with manifest and tree; gives back the tree's digest.
fn make(
    mirror: &Mirror,
    scratch: &Path,
    lock: &BuildLock,
    report: Report<'_>,
) -> Result<Digest, LibraryError> {
    let request = TreeRequest {
        suite: SUITE,
        mirror,
        variant: Variant::Extract,
        include: PACKAGES,
        scratch,
        phase: Phase::Packages,
    };
    let unpacked = make_tree(&request, lock, report)?;
    begin(report, Phase::Trimming, "");
    usual_links(&unpacked.root)?;
    let root = scratch.join("out/root");
    fs::create_dir_all(&root).map_err(LibraryError::io("make", &root))?;
    fill(&unpacked.root, &root, scratch, lock)?;
    let version_line = version_line(&root, scratch, lock)?;
    let version = version_in(&version_line).ok_or(LibraryError::VmmVersion { line: version_line.clone() })?;
    check_version(&version)?;
    begin(report, Phase::Hashing, "");
    let digest = tree_digest(&root)?;
    let manifest = record(mirror, &unpacked, &root, version_line, version, digest)?;
    let json = tree::to_json(&manifest);
    tree::write_new(&scratch.join("out").join(MANIFEST), &json, 0o444)?;
    Ok(digest)
}

fn record(
    mirror: &Mirror,
    unpacked: &Tree,
    root: &Path,
    version_line: String,
    version: String,
    digest: Digest,
) -> Result<VmmRootManifest, LibraryError> {
    let mut size = 0;
    tree::walk(root, &mut |_, metadata| {
        size += if metadata.is_file() { metadata.len() } else { 0 };
        Ok(())
    })?;
    Ok(VmmRootManifest {
        format: VMM_ROOT_FORMAT,
        vmm: NAME.to_owned(),
        version_line,
        version,
        binary: BINARY.to_owned(),
        binary_sha256: Digest::of_file(&host_path(root, BINARY))?.to_string(),
        digest: digest.to_string(),
        size,
        created: unix_seconds(),
        distribution: mirror.distribution(SUITE),
        packages: unpacked.packages(),
    })
}

/// What base-files would have made, had anything been set up.
fn usual_links(root: &Path) -> Result<(), LibraryError> {
    for name in ["bin", "lib", "lib64"] {
        let link = root.join(name);
        match symlink(format!("usr/{name}"), &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(LibraryError::io("link", &link)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Copies what QEMU and the tools need from the unpacked packages into the new tree.
fn fill(from: &Path, root: &Path, scratch: &Path, lock: &BuildLock) -> Result<(), LibraryError> {
    usual_links(root)?;
    for program in PROGRAMS {
        // Extracted and not set up: what usr-merge moves may still lie where its package has it.
        let unmerged = Path::new(program.strip_prefix("/usr").unwrap_or(program));
        let source = [host_path(from, program), host_path(from, unmerged)];
        let source = source.iter().find(|path| path.exists()).unwrap_or(&source[0]);
        copy(source, &host_path(root, program), 0o555)?;
    }
    copy(&from.join(LOADER), &root.join("usr").join(LOADER), 0o555)?;
    for file in FIRMWARE {
        copy(&from.join(file), &root.join(file), 0o444)?;
    }
    for library in needed_libraries(from, scratch, lock)? {
        let name = library.file_name().unwrap_or_default();
        copy(&host_path(from, &library), &root.join(LIBRARIES).join(name), 0o444)?;
    }
    for library in LATE_LIBRARIES {
        copy(&from.join(LIBRARIES).join(library), &root.join(LIBRARIES).join(library), 0o444)?;
    }
    for directory in MOUNT_POINTS {
        let path = root.join(directory);
        fs::create_dir(&path).map_err(LibraryError::io("make", &path))?;
    }
    make_loader_cache(root, scratch, lock)?;
    tree::walk(root, &mut |path, metadata| {
        if metadata.is_dir() { tree::set_mode(path, 0o755) } else { Ok(()) }
    })?;
    tree::set_mode(root, 0o755)
}

/// The libraries as the tree's own loader finds them: `\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x...)`.
fn needed_libraries(
    from: &Path,
    scratch: &Path,
    lock: &BuildLock,
) -> Result<BTreeSet<PathBuf>, LibraryError> {
    let mut found = BTreeSet::new();
    for program in PROGRAMS {
        let lines = inside(from, scratch).arg(format!("/{LOADER}")).args(["--list", program]).lines(lock)?;
        let paths = lines.iter().filter_map(|line| line.split_once(" => ")?.1.split(" (").next());
        found.extend(paths.filter(|path| path.starts_with('/')).map(PathBuf::from));
    }
    Ok(found)
}

/// Saves the loader looking for fifty libraries in eight directories each, at every start of a VMM.
fn make_loader_cache(root: &Path, scratch: &Path, lock: &BuildLock) -> Result<(), LibraryError> {
    let etc = root.join("etc");
    fs::create_dir(&etc).map_err(LibraryError::io("make", &etc))?;
    tree::write_new(&etc.join("ld.so.conf"), b"/usr/lib/x86_64-linux-gnu\n", 0o444)?;
    // -X: no links are made; the files have the names by which they are looked for.
    Program::new("ldconfig", scratch).args(["-X", "-r"]).arg(root).run(lock, &mut |_| {})?;
    tree::set_mode(&etc.join("ld.so.cache"), 0o444)?;
    tree::remove(&root.join("var"))
}

fn version_line(root: &Path, scratch: &Path, lock: &BuildLock) -> Result<String, LibraryError> {
    let lines = inside(root, scratch).arg(BINARY).arg("-version").lines(lock)?;
    Ok(lines.into_iter().next().unwrap_or_default())
}

/// A program of the tree, with the tree as its root directory.
fn inside(root: &Path, scratch: &Path) -> Program {
    Program::new("chroot", scratch).arg(root)
}

/// `QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)` → `10.0.2`.
fn version_in(line: &str) -> Option<String> {
    let version = line.strip_prefix("QEMU emulator version ")?.split_whitespace().next()?;
    numbers(version).map(|_| version.to_owned())
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn check_version(version: &str) -> Result<(), LibraryError> {
    let found = numbers(version).ok_or_else(|| LibraryError::VmmVersion { line: version.to_owned() })?;
    if found < OLDEST {
        return Err(LibraryError::VmmTooOld { found: version.to_owned(), wanted: OLDEST_TEXT });
    }
    Ok(())
}

/// A path inside the tree as the host sees it.
fn host_path(root: &Path, inside: impl AsRef<Path>) -> PathBuf {
    let inside = inside.as_ref();
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

/// Copies content, following links within one directory as packages have them, and sets the mode.
fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), LibraryError> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(LibraryError::io("make", parent))?;
    }
    fs::copy(from, to).map_err(LibraryError::io("copy", from))?;
    tree::set_mode(to, mode)
}

/// One line per path, in the order of the walk; times are left out, so that the same packages make the same digest.
fn tree_digest(root: &Path) -> Result<Digest, LibraryError> {
    let mut text = String::from("outlast vmm root 1\n");
    tree::walk(root, &mut |path, metadata| {
        let (kind, content) = if metadata.is_dir() {
            ("directory", String::new())
        } else if metadata.is_symlink() {
            let target = fs::read_link(path).map_err(LibraryError::io("read", path))?;
            ("link", Digest::of(target.as_os_str().as_encoded_bytes()).to_string())
        } else {
            ("file", Digest::of_file(path)?.to_string())
        };
        let name = path.strip_prefix(root).unwrap_or(path);
        let name = Digest::of(name.as_os_str().as_encoded_bytes());
        let owner = (metadata.uid(), metadata.gid());
        let _ = writeln!(text, "{name} {kind} {:o} {owner:?} {content}", metadata.mode());
        Ok(())
    })?;
    Ok(Digest::of(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_old_ones_refused() {
        let line = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)";
        assert_eq!(version_in(line).as_deref(), Some("10.0.13"));
        assert_eq!(version_in("QEMU emulator version unknown"), None);
        check_version("8.2.0").unwrap();
        check_version("10.0.13").unwrap();
        assert!(matches!(check_version("7.2.22"), Err(LibraryError::VmmTooOld { .. })));
        assert!(matches!(check_version("ten"), Err(LibraryError::VmmVersion { .. })));
    }

    #[test]
    fn the_tree_digest_sees_content_modes_links_and_names() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/f"), "x").unwrap();
        symlink("d", at("l")).unwrap();
        let first = tree_digest(root.path()).unwrap();
        assert_eq!(tree_digest(root.path()).unwrap(), first);
        let mut seen = vec![first];
        let mut differs = |what: &str| {
            let digest = tree_digest(root.path()).unwrap();
            assert!(!seen.contains(&digest), "{what}");
            seen.push(digest);
        };
        fs::write(at("d/f"), "y").unwrap();
        differs("content");
        tree::set_mode(&at("d/f"), 0o600).unwrap();
        differs("mode");
        fs::remove_file(at("l")).unwrap();
        symlink("e", at("l")).unwrap();
        differs("link");
        fs::rename(at("d/f"), at("d/g")).unwrap();
        differs("name");
    }

    #[test]
    fn a_library_without_qemu_says_what_to_type() {
        let root = tempfile::tempdir().unwrap();
        let error = open(&Library::at(root.path().join("library"))).unwrap_err();
        assert!(error.to_string().contains("outlast image build vmm"), "{error}");
    }

    /// Puts a VMM root with this program into a library, unless what is there under its digest is whole.
    fn put(library: &Library, program: &str) -> Digest {
        let shelf = Shelf::at(library.vmm());
        let lock = shelf.lock_build(NAME, &mut |_| {}).unwrap();
        let out = shelf.scratch(&lock).unwrap().join("out");
        let binary = host_path(&out.join("root"), BINARY);
        fs::create_dir_all(binary.parent().unwrap()).unwrap();
        fs::write(&binary, program).unwrap();
        let digest = tree_digest(&out.join("root")).unwrap();
        let record = VmmRootManifest {
            format: VMM_ROOT_FORMAT,
            vmm: NAME.into(),
            version_line: "QEMU emulator version 10.0.2".into(),
            version: "10.0.2".into(),
            binary: BINARY.into(),
            binary_sha256: Digest::of(program.as_bytes()).to_string(),
            digest: digest.to_string(),
            size: 1,
            created: 1,
            distribution: Mirror::default().distribution(SUITE),
            packages: vec![],
        };
        fs::write(out.join(MANIFEST), tree::to_json(&record)).unwrap();
        shelf.publish(&lock, &out, &digest.to_string(), &|stored| is_whole(stored, digest)).unwrap();
        digest
    }

    #[test]
    fn a_rebuild_mends_a_vmm_root_whose_record_is_damaged_and_it_can_be_removed() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        let digest = put(&library, "vmm");
        let manifest = library.vmm().join(NAME).join(MANIFEST);
        let whole = fs::read(&manifest).unwrap();
        let forged = String::from_utf8(whole.clone()).unwrap().replace(&digest.to_string(), &"0".repeat(64));
        let write = |content: &[u8]| fs::write(&manifest, content).unwrap();
        let damages: [&dyn Fn(); 3] =
            [&|| write(b"{"), &|| write(forged.as_bytes()), &|| fs::remove_file(&manifest).unwrap()];
        for damage in damages {
            damage();
            put(&library, "vmm");
            assert_eq!(fs::read(&manifest).unwrap(), whole);
            verify(&library, &open(&library).unwrap(), &mut |_| {}).unwrap();
        }
        let running = open(&library).unwrap();
        assert!(matches!(remove(&library), Err(LibraryError::InUse { name, .. }) if name == "vmm"));
        drop(running);
        fs::write(&manifest, b"{").unwrap();
        assert!(matches!(open(&library), Err(LibraryError::Manifest { .. })) && is_in(&library));
        remove(&library).unwrap();
        assert!(!is_in(&library) && matches!(remove(&library), Err(LibraryError::NoVmmRoot)));
    }
}
