//! Builds the lean kernel from the distribution's source package, in a tree of the distribution's own tools.
//!
//! ```text
//!   ask the archive -> already built? -> tree (mmdebstrap: source, gcc, make ...) -> configure -> compare options
//!                                        -> make vmlinux -> hash -> manifest -> publish
//! ```
//!
//! The compiler comes from the same archive as the source, so that one source and one configuration make the same
//! kernel on every host, and a host needs no compiler. What is there already is found by source, compiler and
//! configuration; nothing is compiled twice. As everywhere in the library nothing is visible before it is whole.

use super::super::build::{check_host, unix_seconds};
use super::super::digest::Digest;
use super::super::elf::Elf;
use super::super::error::LibraryError;
use super::super::manifest::PartKind;
use super::super::packages::{Tree, TreeRequest, Variant, make_tree, offered};
use super::super::program::Program;
use super::super::progress::{Phase, Progress, Report, begin};
use super::super::shelf::{BuildLock, Shelf};
use super::super::source::{Mirror, Suite};
use super::super::{stamp, tree};
use super::options::{WISHES, unfulfilled};
use super::{CONFIG, LeanKernel, MANIFEST, NAME, open};
use outlast_wire::image::{KernelVersion, LEAN_KERNEL_FORMAT, LeanKernelManifest, Package, Part};
use outlast_wire::paths::Library;
use std::fs;
use std::path::{Path, PathBuf};

/// Of the guests' own distribution, whose security updates reach the kernel so too.
const SUITE: Suite = Suite::Bookworm;
/// The source. Its series is fixed, because an option may have another name in another.
const SOURCE: &str = "linux-source-6.1";
/// What compiles and links it: other versions of these make another kernel of the same source.
const TOOLS: [&str; 2] = ["gcc-12", "binutils"];
/// What else it takes.
const OTHERS: [&str; 6] = ["gcc", "make", "flex", "bison", "bc", "libelf-dev"];

/// The source and objects, at their peak, and the tools.
const SCRATCH_BYTES: u64 = 4 << 30;
/// Steps that its make announces, for the progress bar alone.
const STEPS: u64 = 1900;

/// In the tree. `/usr/src/SOURCE.tar.xz` unpacks to a directory of the package's name.
const CONFIGURE: &str = "cd /usr/src && tar -xJf linux-source-6.1.tar.xz && cd linux-source-6.1 && make -s tinyconfig && \
                         cat /usr/src/wishes >> .config && make -s olddefconfig";
/// Nothing of the host and the hour is compiled in. `nice`: machines run beside this for minutes.
const MAKE: &str = "export TMPDIR=/tmp KBUILD_BUILD_USER=outlast KBUILD_BUILD_HOST=outlast KBUILD_BUILD_VERSION=1 \
                    KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970'; cd /usr/src/linux-source-6.1 && \
                    exec nice -n 10 make -j\"$1\" vmlinux";

/// What a build came to.
#[derive(Debug)]
pub struct Built {
    /// The kernel that is in the library now.
    pub kernel: LeanKernel,
    /// Whether it was there already.
    pub already: bool,
}

/// What decides which kernel comes out.
#[derive(Debug, PartialEq, Eq)]
struct Inputs {
    source: String,
    tools: Vec<Package>,
}

impl Inputs {
    /// Found among these packages; the error names what is not.
    fn among(packages: &[Package]) -> Result<Self, LibraryError> {
        let named = |name: &str| {
            let absent = || LibraryError::Unpacked { suite: SUITE.name(), what: name.to_owned() };
            packages.iter().find(|package| package.name == name).cloned().ok_or_else(absent)
        };
        let tools = TOOLS.iter().map(|name| named(name)).collect::<Result<_, _>>()?;
        Ok(Self { source: named(SOURCE)?.version, tools })
    }

    fn made(&self, record: &LeanKernelManifest) -> bool {
        record.kernel.version == self.source
            && record.tools == self.tools
            && record.options_sha256 == Digest::of(WISHES.as_bytes()).to_string()
    }
}

/// Builds the lean kernel, or finds that what would be built is there.
///
/// Blocks for about ten minutes on two cores, with low priority, and reports from this thread. To cancel, end the
/// thread or the process: programs that build die with it, and what was made stays invisible. A second build waits for
/// the first and finds its kernel.
///
/// # Errors
/// [`LibraryError`] names what is missing, full, slow or broken; the library is as before.
pub fn build(library: &Library, mirror: &Mirror, report: Report<'_>) -> Result<Built, LibraryError> {
    check_host(library, NAME, &[("chroot", "coreutils")], 0)?;
    let shelf = Shelf::at(library.lean());
    let lock = shelf.lock_build(NAME, report)?;
    let scratch = shelf.scratch(&lock)?;
    let made = build_in(library, mirror, (&shelf, &lock, &scratch), report);
    // A build that failed has one cause, and it is not that its scratch directory could not be removed: the next
    // build tries again.
    let cleared = tree::remove(&scratch);
    let already = made.and_then(|already| cleared.map(|()| already))?;
    shelf.sweep()?;
    let kernel = open(library)?.ok_or(LibraryError::NoLeanKernel)?;
    Ok(Built { kernel, already })
}

fn build_in(
    library: &Library,
    mirror: &Mirror,
    (shelf, lock, scratch): (&Shelf, &BuildLock, &Path),
    report: Report<'_>,
) -> Result<bool, LibraryError> {
    begin(report, Phase::Packages, SOURCE);
    let include: Vec<_> = [SOURCE].into_iter().chain(TOOLS).chain(OTHERS).collect();
    let request = TreeRequest {
        suite: SUITE,
        mirror,
        variant: Variant::Essential,
        include: &include,
        scratch,
        phase: Phase::Packages,
    };
    let wanted = Inputs::among(&offered(&request, lock)?)?;
    // A damaged one counts as absent: it is made again and replaced.
    let there = open(library).ok().flatten().filter(|kernel| kernel.check(library).is_ok());
    if there.is_some_and(|kernel| wanted.made(kernel.record())) {
        return Ok(true);
    }
    check_host(library, NAME, &[], SCRATCH_BYTES)?;
    let made = make_tree(&request, lock, report)?;
    let digest = make(&made, mirror, (lock, scratch), report)?;
    begin(report, Phase::Publishing, NAME);
    let is_whole = |stored: &Path| is_whole(library, stored, (&wanted, digest));
    shelf.publish(lock, &scratch.join("out"), &digest.to_string(), &is_whole)?;
    Ok(false)
}

/// Whether what is stored under this digest is all that was made again: a kernel whose record cannot be read, or tells of
/// other sources, would be found wanting by the next who looks.
fn is_whole(library: &Library, stored: &Path, (wanted, digest): (&Inputs, Digest)) -> bool {
    super::read_manifest(stored).is_ok_and(|(manifest, found)| {
        found == digest && wanted.made(&manifest) && stamp::are_whole(library, stored, &manifest.parts)
    })
}

/// Makes the kernel's directory in `scratch/out`.
fn make(
    made: &Tree,
    mirror: &Mirror,
    (lock, scratch): (&BuildLock, &Path),
    report: Report<'_>,
) -> Result<Digest, LibraryError> {
    let inputs = Inputs::among(&made.installed()?)?;
    configure(made, (lock, scratch), report)?;
    compile(made, (lock, scratch), report)?;
    let release = read(&source_of(made).join("include/config/kernel.release"))?.trim().to_owned();
    let out = scratch.join("out");
    tree::make_private_directory(&out)?;
    let source = source_of(made);
    let kernel = take(&source.join("vmlinux"), &out, PartKind::Kernel.file_name())?;
    check_elf(&out.join(&kernel.name))?;
    let config = take(&source.join(".config"), &out, CONFIG)?;
    let manifest = LeanKernelManifest {
        format: LEAN_KERNEL_FORMAT,
        digest: kernel.sha256.clone(),
        created: unix_seconds(),
        distribution: mirror.distribution(SUITE),
        kernel: KernelVersion { release, package: SOURCE.to_owned(), version: inputs.source },
        options_sha256: Digest::of(WISHES.as_bytes()).to_string(),
        tools: inputs.tools,
        parts: vec![kernel, config],
    };
    let json = tree::to_json(&manifest);
    tree::write_new(&out.join(MANIFEST), &json, 0o444)?;
    // What we write must be what we would accept.
    let damaged = |source| LibraryError::Manifest { path: out.join(MANIFEST), source };
    Ok(super::parse(&json).map_err(damaged)?.1)
}

/// Unpacks and configures, and sees to it that every option is as asked for.
fn configure(
    made: &Tree,
    (lock, scratch): (&BuildLock, &Path),
    report: Report<'_>,
) -> Result<(), LibraryError> {
    begin(report, Phase::Kernel, "unpacking the source");
    tree::write_new(&made.root.join("usr/src/wishes"), WISHES.as_bytes(), 0o444)?;
    inside(made, scratch, CONFIGURE).run(lock, &mut |line| {
        report(Progress { phase: Phase::Kernel, done: 0, total: None, detail: line });
    })?;
    let missing = unfulfilled(WISHES, &read(&source_of(made).join(".config"))?);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(LibraryError::KernelOptions { source_package: SOURCE, missing })
    }
}

fn read(path: &Path) -> Result<String, LibraryError> {
    fs::read_to_string(path).map_err(LibraryError::io("read", path))
}

fn compile(
    made: &Tree,
    (lock, scratch): (&BuildLock, &Path),
    report: Report<'_>,
) -> Result<(), LibraryError> {
    begin(report, Phase::Compiling, SOURCE);
    let compilers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut done = 0;
    inside(made, scratch, MAKE).arg(compilers.to_string()).run(lock, &mut |line| {
        // `  CC      init/main.o`
        done += u64::from(line.starts_with("  "));
        report(Progress { phase: Phase::Compiling, done, total: Some(STEPS.max(done)), detail: line.trim() });
    })
}

/// A shell script with the tree as its root directory; arguments follow.
fn inside(made: &Tree, scratch: &Path, script: &str) -> Program {
    Program::new("chroot", scratch).arg(&made.root).args(["/bin/sh", "-ec", script, "sh"])
}

fn source_of(made: &Tree) -> PathBuf {
    made.root.join("usr/src").join(SOURCE)
}

fn take(from: &Path, out: &Path, name: &str) -> Result<Part, LibraryError> {
    let content = fs::read(from).map_err(LibraryError::io("read", from))?;
    tree::write_new(&out.join(name), &content, 0o444)?;
    Ok(Part { name: name.to_owned(), sha256: Digest::of(&content).to_string(), size: content.len() as u64 })
}

/// What guests are started from must be startable.
fn check_elf(path: &Path) -> Result<(), LibraryError> {
    let bytes = fs::read(path).map_err(LibraryError::io("read", path))?;
    let offers = Elf::parse(&bytes).is_ok_and(|elf| elf.offers_pvh());
    if offers { Ok(()) } else { Err(LibraryError::NotBootable { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn source_compiler_and_linker_decide_what_is_built() {
        let offered = vec![
            package("bc", "1"),
            package(SOURCE, "6.1.192-2"),
            package("binutils", "2.40-2"),
            package("gcc-12", "12.2.0-14"),
        ];
        let inputs = Inputs::among(&offered).unwrap();
        assert_eq!(inputs.source, "6.1.192-2");
        assert_eq!(inputs.tools, [package("gcc-12", "12.2.0-14"), package("binutils", "2.40-2")]);
        for index in 1..offered.len() {
            let mut fewer = offered.clone();
            let gone = fewer.remove(index).name;
            assert!(Inputs::among(&fewer).unwrap_err().to_string().contains(&gone));
        }
    }

    #[test]
    fn another_source_compiler_or_configuration_is_another_kernel() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        super::super::tests::put(&library, b"kernel");
        let mut kernel = open(&library).unwrap().unwrap();
        let inputs = Inputs { source: "6.1.1-1".into(), tools: vec![] };
        assert!(!inputs.made(kernel.record()), "the options differ");
        kernel.manifest.options_sha256 = Digest::of(WISHES.as_bytes()).to_string();
        assert!(inputs.made(kernel.record()));
        assert!(!Inputs { source: "6.1.1-2".into(), tools: vec![] }.made(kernel.record()));
        assert!(
            !Inputs { source: "6.1.1-1".into(), tools: vec![package("gcc-12", "1")] }.made(kernel.record())
        );
    }

    #[test]
    fn a_rebuild_mends_a_kernel_whose_record_is_damaged_or_tells_of_other_sources() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        let wanted = Inputs { source: "6.1.1-1".into(), tools: vec![] };
        let put = |change: fn(&mut LeanKernelManifest)| {
            super::super::tests::put_as(
                &library,
                b"kernel",
                |record| {
                    record.options_sha256 = Digest::of(WISHES.as_bytes()).to_string();
                    change(record);
                },
                &|stored| is_whole(&library, stored, (&wanted, Digest::of(b"kernel"))),
            );
        };
        put(|_| {});
        let manifest = library.lean().join(NAME).join(MANIFEST);
        let whole = fs::read(&manifest).unwrap();
        let damages: [&dyn Fn(); 4] = [
            &|| fs::write(&manifest, b"{").unwrap(),
            &|| fs::remove_file(&manifest).unwrap(),
            &|| fs::write(manifest.with_file_name(CONFIG), b"other").unwrap(),
            &|| {
                let text = String::from_utf8(whole.clone()).unwrap();
                fs::write(&manifest, text.replace("6.1.1-1", "6.1.1-0")).unwrap();
            },
        ];
        for damage in damages {
            damage();
            put(|_| {});
            assert_eq!(fs::read(&manifest).unwrap(), whole);
            open(&library).unwrap().unwrap().check(&library).unwrap();
        }
        // One that is whole stays as it is: machines run from it.
        put(|record| record.created = 7);
        assert_eq!(open(&library).unwrap().unwrap().record().created, 1);
    }

    #[test]
    fn the_scripts_name_the_source_that_is_fetched() {
        assert!(CONFIGURE.contains(SOURCE) && MAKE.contains(SOURCE));
    }
}
