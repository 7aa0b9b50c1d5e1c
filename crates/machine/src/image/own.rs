//! Images from a user's own kernel and root file system: checked, copied, and published like built ones.
//!
//! ```text
//!   check what was given ─► lock NAME ─► copy, hash ─► manifest ─► stored, without a name ─► (test boot) ─► named
//! ```
//!
//! What is published is what was checked: kernel and modules are read once, and the root file system's copy is looked
//! at again. A stored image without a name is leased by who tries it; should that one die, the next build removes it.
//! The test boot itself is not made here.

use super::build::{MANIFEST, unix_seconds};
use super::bzimage::{self, BzImageError};
use super::digest::Digest;
use super::elf::{Elf, ElfError};
use super::error::LibraryError;
use super::filesystem::{self, FileSystem, FileSystemError, HEAD};
use super::library::{self, Image};
use super::manifest::{Manifest, PartKind, content_digest, is_image_name};
use super::progress::{Phase, Progress, Report, begin};
use super::recipe::Recipe;
use super::shelf::{BuildLock, Shelf};
use super::{tree, trust};
use outlast_model::Memory;
use outlast_wire::image as wire;
use outlast_wire::paths::Library;
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The largest kernel or archive of modules: ten times what distributions have.
const MEMORY_FILE: u64 = 512 << 20;
/// Names that `image build` gives to other things than images.
const RESERVED: &[&str] = &["vmm", "kernel"];
/// What stands for the package of a kernel that came with its image: such an image boots that and no other.
const OWN: &str = "own";

/// What the guest's own share of a machine is taken to be: measured with a distribution's kernel.
const RESERVE: u64 = 96 << 20;
const RESERVE_SHARE: u64 = 16;
/// The smallest limit a program of such an image may be given.
const MIN_LIMIT: u64 = 16 << 20;

/// What a user gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// The image's name.
    pub name: String,
    /// An ELF kernel or a bzImage.
    pub kernel: PathBuf,
    /// A squashfs or an ext4.
    pub root_fs: PathBuf,
    /// Modules that the agent loads: a cpio archive as in built images.
    pub modules: Option<PathBuf>,
    /// The smallest machine that boots it.
    pub min_machine: Memory,
    /// Whether an image of this name may be replaced.
    pub replace: bool,
}

/// What was given cannot become an image.
#[derive(Debug, Error)]
pub enum AdditionError {
    /// The name is taken.
    #[error("there is an image '{name}' already; replace it with --replace")]
    Taken {
        /// The name.
        name: String,
    },
    /// The name is that of something that is built.
    #[error("'{name}' is what 'outlast image build {name}' makes; choose another name")]
    Reserved {
        /// The name.
        name: String,
    },
    /// A file cannot be read.
    #[error("cannot read the {what} {}", .path.display())]
    Read {
        /// What it was given as.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is a directory, a device, a pipe.
    #[error("the {what} {} is no regular file", .path.display())]
    NotAFile {
        /// What it was given as.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// It is larger than anything sensible.
    #[error("the {what} {} has {} MiB, at most {} MiB are taken", .path.display(), .size >> 20, MEMORY_FILE >> 20)]
    TooLarge {
        /// What it was given as.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// The kernel is neither an ELF nor a bzImage that can be taken apart.
    #[error("{} is no kernel that can be started", .path.display())]
    BzImage {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BzImageError,
    },
    /// The kernel's ELF is broken.
    #[error("{} is no kernel that can be started", .path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ElfError,
    },
    /// The kernel is of another machine.
    #[error("the kernel {} is not for x86-64", .path.display())]
    Machine {
        /// The file.
        path: PathBuf,
    },
    /// The kernel cannot be started directly.
    #[error("the kernel {} has no PVH entry: build it with CONFIG_PVH=y", .path.display())]
    NoPvh {
        /// The file.
        path: PathBuf,
    },
    /// The root file system is none.
    #[error("{} cannot be a root file system", .path.display())]
    FileSystem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileSystemError,
    },
    /// The modules are none.
    #[error("{} holds no modules for the agent: {why}", .path.display())]
    Modules {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// Everything that was given, checked.
#[derive(Debug)]
struct Checked {
    kernel: Vec<u8>,
    release: String,
    modules: Vec<u8>,
    root_fs: File,
    size: u64,
    kind: FileSystem,
}

/// An image that is whole and stored and has no name yet: it goes when this is dropped.
#[derive(Debug)]
pub struct Unnamed {
    shelf: Shelf,
    lock: BuildLock,
    image: Image,
}

impl Unnamed {
    /// The image, to be tried.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Gives it its name; what had it before goes when nobody uses it any more.
    ///
    /// # Errors
    /// The library cannot be written.
    pub fn publish(self, library: &Library) -> Result<Image, LibraryError> {
        self.shelf.name(&self.lock, &self.image.manifest().digest().to_string())?;
        // It has its name: what had it before and cannot go now is swept by the next build.
        if let Err(error) = library::sweep(library) {
            tracing::warn!(%error, "what the image replaced stays for now");
        }
        Ok(self.image)
    }
}

/// Checks what was given and stores it as an image without a name.
///
/// # Errors
/// [`AdditionError`] says what is wrong with it; then nothing was made.
pub fn store(library: &Library, addition: &Addition, report: Report<'_>) -> Result<Unnamed, LibraryError> {
    trust::require_own(library.path())?;
    check_name(library, addition)?;
    begin(report, Phase::Hashing, "checking");
    let checked = check(addition).map_err(LibraryError::Addition)?;
    tree::make_private_directory(library.path())?;
    let needed = checked.size + checked.kernel.len() as u64 + checked.modules.len() as u64;
    check_space(library, &addition.name, needed)?;
    let shelf = Shelf::at(library.images());
    let lock = shelf.lock_build(&addition.name, report)?;
    // Somebody else may have taken it while we waited.
    check_name(library, addition)?;
    let scratch = shelf.scratch(&lock)?;
    let stored = make(addition, checked, &scratch, report).and_then(|digest| {
        begin(report, Phase::Publishing, &addition.name);
        let is_whole = |stored: &Path| library::is_whole(library, stored);
        shelf.store_made(&lock, &scratch.join("out"), &digest.to_string(), &is_whole)
    });
    let cleared = tree::remove(&scratch);
    let (directory, lease) = stored?;
    cleared?;
    let image = library::at(&addition.name, directory, lease)?;
    Ok(Unnamed { shelf, lock, image })
}

fn check_name(library: &Library, addition: &Addition) -> Result<(), LibraryError> {
    let name = || addition.name.chars().take(80).collect();
    if !is_image_name(&addition.name) {
        return Err(LibraryError::BadName { name: name() });
    }
    if RESERVED.contains(&addition.name.as_str()) || Recipe::named(&addition.name).is_some() {
        return Err(LibraryError::Addition(AdditionError::Reserved { name: name() }));
    }
    let taken = library.images().join(&addition.name).symlink_metadata().is_ok();
    if taken && !addition.replace {
        Err(LibraryError::Addition(AdditionError::Taken { name: name() }))
    } else {
        Ok(())
    }
}

fn check(addition: &Addition) -> Result<Checked, AdditionError> {
    let kernel = kernel(&addition.kernel, read_whole("kernel", &addition.kernel)?)?;
    let modules = match &addition.modules {
        Some(path) => modules(path, read_whole("modules", path)?)?,
        None => Vec::new(),
    };
    let (mut root_fs, size) = open("root file system", &addition.root_fs)?;
    let kind = file_system(&mut root_fs, size, &addition.root_fs)?;
    Ok(Checked { release: release(&kernel), kernel, modules, root_fs, size, kind })
}

fn open(what: &'static str, path: &Path) -> Result<(File, u64), AdditionError> {
    // Looked at before it is opened: opening alone may be an act of a device.
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => opened(what, path),
        Ok(_) => Err(AdditionError::NotAFile { what, path: path.to_owned() }),
        Err(source) => Err(AdditionError::Read { what, path: path.to_owned(), source }),
    }
}

/// Opens it, whatever it has become since it was looked at, and looks at what was opened: that is what is read. Nobody
/// is waited for, as opening a pipe would.
fn opened(what: &'static str, path: &Path) -> Result<(File, u64), AdditionError> {
    let failed = |source| AdditionError::Read { what, path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() {
        Ok((file, metadata.len()))
    } else {
        Err(AdditionError::NotAFile { what, path: path.to_owned() })
    }
}

fn read_whole(what: &'static str, path: &Path) -> Result<Vec<u8>, AdditionError> {
    let (file, size) = open(what, path)?;
    if size > MEMORY_FILE {
        return Err(AdditionError::TooLarge { what, path: path.to_owned(), size });
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    let read = file.take(MEMORY_FILE).read_to_end(&mut bytes);
    read.map_err(|source| AdditionError::Read { what, path: path.to_owned(), source })?;
    Ok(bytes)
}

/// The ELF kernel: as it was given, or taken out of a bzImage.
fn kernel(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, AdditionError> {
    if !bytes.starts_with(b"\x7fELF") {
        let taken = bzimage::vmlinux(&bytes);
        return taken.map_err(|source| AdditionError::BzImage { path: path.to_owned(), source });
    }
    let elf = Elf::parse(&bytes).map_err(|source| AdditionError::Elf { path: path.to_owned(), source })?;
    if !elf.is_x86_64() {
        return Err(AdditionError::Machine { path: path.to_owned() });
    }
    if !elf.offers_pvh() {
        return Err(AdditionError::NoPvh { path: path.to_owned() });
    }
    Ok(bytes)
}

/// What `uname -r` will say, from the kernel's banner (Linux `init/version.c`).
fn release(kernel: &[u8]) -> String {
    const BANNER: &[u8] = b"Linux version ";
    let places = kernel.windows(BANNER.len()).enumerate().filter(|(_, window)| *window == BANNER);
    let releases = places.filter_map(|(at, _)| {
        let rest = &kernel[at + BANNER.len()..];
        let end = rest.iter().take(64).position(|byte| !byte.is_ascii_graphic())?;
        // The banner's pattern stands in a kernel as well, with %s for the release.
        let release = std::str::from_utf8(&rest[..end]).ok()?;
        (release.starts_with(|c: char| c.is_ascii_digit())).then(|| release.to_owned())
    });
    releases.take(1).next().unwrap_or_else(|| "unknown".to_owned())
}

fn modules(path: &Path, mut bytes: Vec<u8>) -> Result<Vec<u8>, AdditionError> {
    const ORDER: &[u8] = b"modules/order\0";
    let refused = |why| AdditionError::Modules { path: path.to_owned(), why };
    if !bytes.starts_with(b"070701") {
        return Err(refused("it is no uncompressed cpio archive (newc)"));
    }
    if !bytes.windows(ORDER.len()).any(|window| window == ORDER) {
        return Err(refused("it has no file modules/order"));
    }
    // The agent's archive follows, and the kernel wants it at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}

fn file_system(file: &mut File, size: u64, path: &Path) -> Result<FileSystem, AdditionError> {
    let mut head = Vec::new();
    let read = file.rewind().and_then(|()| file.by_ref().take(HEAD as u64).read_to_end(&mut head));
    let failed = |source| AdditionError::Read { what: "root file system", path: path.to_owned(), source };
    read.and_then(|_| file.rewind()).map_err(failed)?;
    filesystem::identify(&head, size)
        .map_err(|source| AdditionError::FileSystem { path: path.to_owned(), source })
}

fn check_space(library: &Library, name: &str, needed: u64) -> Result<(), LibraryError> {
    let path = library.path();
    let disk = rustix::fs::statvfs(path).map_err(LibraryError::sys("ask for the free space of", path))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= needed {
        return Ok(());
    }
    Err(LibraryError::TooLittleSpace { what: name.to_owned(), path: path.to_owned(), needed, free })
}

/// Makes the image's directory in `scratch/out`.
fn make(
    addition: &Addition,
    checked: Checked,
    scratch: &Path,
    report: Report<'_>,
) -> Result<Digest, LibraryError> {
    let out = scratch.join("out");
    fs::create_dir(&out).map_err(LibraryError::io("make", &out))?;
    let mut parts = Vec::new();
    for (done, kind, content) in
        [(0, PartKind::Kernel, &checked.kernel), (1, PartKind::Modules, &checked.modules)]
    {
        report(Progress { phase: Phase::Hashing, done, total: Some(3), detail: kind.file_name() });
        tree::write_new(&out.join(kind.file_name()), content, 0o444)?;
        parts.push(part(kind.file_name(), Digest::of(content), content.len() as u64));
    }
    report(Progress { phase: Phase::Hashing, done: 2, total: Some(3), detail: checked.kind.file_name() });
    parts.push(copy_root_fs(addition, &checked, &out)?);
    let record = record(addition, checked.release, parts);
    let path = out.join(MANIFEST);
    let damaged = |source| LibraryError::Manifest { path: path.clone(), source };
    let digest = Manifest::try_from(record.clone()).map_err(damaged)?.digest();
    tree::write_new(&path, &tree::to_json(&record), 0o444)?;
    Ok(digest)
}

/// Copies it, as a shared extent where the file system can, and looks at the copy again.
fn copy_root_fs(addition: &Addition, checked: &Checked, out: &Path) -> Result<wire::Part, LibraryError> {
    let path = out.join(checked.kind.file_name());
    tree::write_new(&path, &[], 0o600)?;
    let mut copy =
        File::options().read(true).write(true).open(&path).map_err(LibraryError::io("open", &path))?;
    // One that grows meanwhile is refused below, and does not fill the disk until then.
    let mut checked_bytes = (&checked.root_fs).take(checked.size.saturating_add(1));
    std::io::copy(&mut checked_bytes, &mut copy).map_err(LibraryError::io("copy to", &path))?;
    let size = copy.metadata().map_err(LibraryError::io("stat", &path))?.len();
    let kind = file_system(&mut copy, size, &addition.root_fs).map_err(LibraryError::Addition)?;
    if kind != checked.kind || size != checked.size {
        return Err(LibraryError::Changing { path: addition.root_fs.clone() });
    }
    tree::set_mode(&path, 0o444)?;
    Ok(part(checked.kind.file_name(), Digest::of_file(&path)?, size))
}

fn record(addition: &Addition, release: String, parts: Vec<wire::Part>) -> wire::ImageManifest {
    let distribution = wire::Distribution { id: OWN.to_owned(), suite: String::new(), sources: Vec::new() };
    let memory = wire::MemoryNeeds {
        min_limit: MIN_LIMIT,
        min_machine: addition.min_machine.bytes(),
        reserve: RESERVE,
        reserve_share: RESERVE_SHARE,
    };
    let kernel = wire::KernelVersion { version: release.clone(), release, package: OWN.to_owned() };
    let mut record = wire::ImageManifest {
        format: wire::IMAGE_FORMAT,
        name: addition.name.clone(),
        digest: String::new(),
        created: unix_seconds(),
        distribution,
        kernel,
        parts,
        runtime: None,
        memory,
        memory_lean: None,
        packages: Vec::new(),
    };
    record.digest = content_digest(&record).to_string();
    record
}

fn part(name: &str, digest: Digest, size: u64) -> wire::Part {
    wire::Part { name: name.to_owned(), sha256: digest.to_string(), size }
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::{elf_with, pvh_note};
    use super::super::filesystem::tests::squashfs_head;
    use super::*;

    struct Stage {
        top: tempfile::TempDir,
        library: Library,
    }

    fn kernel_bytes() -> Vec<u8> {
        let mut bytes =
            elf_with(&[(".rodata", b"Linux version %s\0Linux version 6.6.1-mine (x) #1\0")], &pvh_note());
        bytes[0x12] = 62;
        bytes
    }

    impl Stage {
        fn new() -> Self {
            let top = tempfile::tempdir().unwrap();
            let library = Library::at(top.path().join("library"));
            fs::write(top.path().join("k"), kernel_bytes()).unwrap();
            fs::write(top.path().join("r"), squashfs_head(4096)).unwrap();
            Self { top, library }
        }

        fn addition(&self, name: &str) -> Addition {
            let at = |name: &str| self.top.path().join(name);
            let min_machine = Memory::from_mib(128).unwrap();
            Addition {
                name: name.into(),
                kernel: at("k"),
                root_fs: at("r"),
                modules: None,
                min_machine,
                replace: false,
            }
        }

        fn store(&self, addition: &Addition) -> Result<Unnamed, LibraryError> {
            store(&self.library, addition, &mut |_| {})
        }

        fn file(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.top.path().join(name);
            fs::write(&path, content).unwrap();
            path
        }
    }

    fn refused(result: Result<Unnamed, LibraryError>) -> AdditionError {
        match result {
            Err(LibraryError::Addition(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_has_its_name_only_when_it_was_tried() {
        let stage = Stage::new();
        let unnamed = stage.store(&stage.addition("mine")).unwrap();
        assert!(library::list(&stage.library).unwrap().is_empty());
        assert_eq!(unnamed.image().manifest().kernel_release(), "6.6.1-mine");
        library::sweep(&stage.library).unwrap();
        let image = unnamed.publish(&stage.library).unwrap();
        image.check(&stage.library).unwrap();
        assert_eq!(library::open(&stage.library, "mine").unwrap().manifest(), image.manifest());
    }

    #[test]
    fn one_that_is_given_up_leaves_nothing() {
        let stage = Stage::new();
        drop(stage.store(&stage.addition("mine")).unwrap());
        library::sweep(&stage.library).unwrap();
        assert_eq!(fs::read_dir(stage.library.images().join(".store")).unwrap().count(), 0);
    }

    #[test]
    fn a_name_is_taken_once_unless_it_is_to_be_replaced() {
        let stage = Stage::new();
        stage.store(&stage.addition("mine")).unwrap().publish(&stage.library).unwrap();
        assert!(matches!(refused(stage.store(&stage.addition("mine"))), AdditionError::Taken { .. }));
        let replace = Addition { replace: true, ..stage.addition("mine") };
        fs::write(&replace.root_fs, [squashfs_head(4096), vec![1; 4096]].concat()).unwrap();
        let image = stage.store(&replace).unwrap().publish(&stage.library).unwrap();
        assert_eq!(
            library::open(&stage.library, "mine").unwrap().manifest().digest(),
            image.manifest().digest()
        );
        for name in ["python", "vmm", "kernel"] {
            assert!(matches!(refused(stage.store(&stage.addition(name))), AdditionError::Reserved { .. }));
        }
        assert!(matches!(stage.store(&stage.addition("../x")), Err(LibraryError::BadName { .. })));
    }

    #[test]
    fn a_pipe_that_takes_a_files_place_after_it_was_looked_at_is_neither_waited_for_nor_read() {
        let stage = Stage::new();
        let pipe = stage.top.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let (sender, answer) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(opened("kernel", &pipe)));
        let answer = answer.recv_timeout(std::time::Duration::from_secs(60)).expect("nobody is waited for");
        assert!(matches!(answer, Err(AdditionError::NotAFile { .. })));
    }

    #[test]
    fn what_cannot_be_an_image_is_refused_and_nothing_is_made() {
        let stage = Stage::new();
        let mut other_machine = kernel_bytes();
        other_machine[0x12] = 183;
        let mut no_pvh = elf_with(&[], &[]);
        no_pvh[0x12] = 62;
        let with_kernel =
            |content: &[u8]| Addition { kernel: stage.file("x", content), ..stage.addition("mine") };
        assert!(matches!(refused(stage.store(&with_kernel(&other_machine))), AdditionError::Machine { .. }));
        assert!(matches!(refused(stage.store(&with_kernel(&no_pvh))), AdditionError::NoPvh { .. }));
        assert!(matches!(refused(stage.store(&with_kernel(b"\x7fELF"))), AdditionError::Elf { .. }));
        assert!(matches!(refused(stage.store(&with_kernel(b"#!/bin/sh"))), AdditionError::BzImage { .. }));
        let of_nothing = Addition { kernel: stage.top.path().join("none"), ..stage.addition("mine") };
        assert!(matches!(refused(stage.store(&of_nothing)), AdditionError::Read { .. }));
        let of_a_directory = Addition { root_fs: stage.top.path().into(), ..stage.addition("mine") };
        assert!(matches!(refused(stage.store(&of_a_directory)), AdditionError::NotAFile { .. }));
        let cut = Addition { root_fs: stage.file("y", &squashfs_head(5000)), ..stage.addition("mine") };
        assert!(matches!(refused(stage.store(&cut)), AdditionError::FileSystem { .. }));
        let modules =
            Addition { modules: Some(stage.file("z", b"070701 nothing")), ..stage.addition("mine") };
        assert!(matches!(refused(stage.store(&modules)), AdditionError::Modules { .. }));
        assert!(!stage.library.path().exists());
    }
}
