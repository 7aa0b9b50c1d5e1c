//! One owner's places on this host, with the programs that serve them: what every operation is given.
//!
//! Nothing is made before an operation that needs it has been checked; what is made is private (0700).

use crate::error::chain;
use outlast_machine::{host, namespace, process};
use outlast_model::{Age, Hold, IncarnationId, limit, timeout};
use outlast_store::{Store, StoreError};
use outlast_wire::guest::guest_path;
use outlast_wire::paths::{HOST_HOME, HOST_LIBRARY, Places};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use std::cell::OnceCell;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use thiserror::Error;

/// A socket's path may have so many bytes (unix(7): sun_path, less the zero byte at its end).
const SOCKET_PATH: usize = 107;

/// What may lie in a home or a library, beside databases, incarnations, templates and hidden files.
const PLACES: &[&str] = &[
    "proofs",
    "incarnations",
    "run",
    "library",
    "images",
    "kernels",
    "lean",
    "boot",
    "vmm",
    "templates",
    "canary",
    "verified",
    "lost+found",
];

/// Where things are and who serves them. One per process: it holds the one connection to the store.
#[derive(Debug)]
pub struct Site {
    places: Places,
    programs: PathBuf,
    hold: Option<Hold>,
    bounds: Bounds,
    store: OnceCell<Store>,
}

/// What is kept without being asked about: beyond it, what was not used for longest makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all templates of the library.
    pub templates_bytes: u64,
    /// Runs that are over whose evidence stays, the newest.
    pub evidence_runs: usize,
    /// How long evidence stays.
    pub evidence_age: Age,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            templates_bytes: limit::TEMPLATES_BYTES,
            evidence_runs: limit::EVIDENCE_RUNS,
            evidence_age: limit::EVIDENCE_AGE,
        }
    }
}

/// A place cannot be used. Names in a path may be a guest's, where its files are handed back.
#[derive(Debug, Error)]
pub enum SiteError {
    /// An ordinary user's runner needs a user namespace, and cannot have one here.
    #[error("ordinary users cannot run virtual machines here: {why}")]
    NoNamespaces {
        /// Why.
        why: String,
        /// What to change.
        fix: String,
    },
    /// Somebody else made a directory that must be ours.
    #[error("{} belongs to uid {owner} and is not used", .path.display())]
    Strangers {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// An image of a library that is only read.
    #[error("image '{name}' is in {}, which this user only reads", .library.display())]
    NotYours {
        /// The library.
        library: PathBuf,
        /// The image.
        name: String,
    },
    /// A program that belongs to outlast is not where it should be.
    #[error("{name} is not in {}", .directory.display())]
    ProgramMissing {
        /// The program.
        name: &'static str,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A directory could not be made.
    #[error("cannot make the directory {}", guest_path(.path))]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory could not be read.
    #[error("cannot read {}", guest_path(.path))]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", guest_path(.path))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something of others, or open to others, stands where a private directory must be.
    #[error("{} is not private: it must be a directory of this user's own (mode 0700), for nothing else", .path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
    },
    /// The run directory's path leaves no room for the names of sockets in it.
    #[error("the run directory {} is too long a path: sockets in it need names of at most {SOCKET_PATH} bytes", .path.display())]
    PathTooLong {
        /// The run directory.
        path: PathBuf,
    },
    /// The kernel gave no random bytes.
    #[error("cannot draw a random id")]
    Random(#[source] io::Error),
}

impl Site {
    /// From the places, and the directory in which `outlast-runner` and `outlast-agent` lie. Touches nothing.
    pub fn new(places: Places, programs: PathBuf) -> Self {
        Self { places, programs, hold: None, bounds: Bounds::default(), store: OnceCell::new() }
    }

    /// The same, with a fault point for the incarnations that will be made.
    #[must_use]
    pub fn with_hold(self, hold: Option<Hold>) -> Self {
        Self { hold, ..self }
    }

    /// The same, with other bounds than the usual ones.
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// What is kept without being asked about.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The places.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The fault point, if this home is marked for proofs; anywhere else none is honoured.
    pub(crate) fn honoured_hold(&self) -> Option<Hold> {
        self.hold.filter(|_| self.places.proofs_marker().exists())
    }

    /// Whether a fault point was asked for in a home in which none is honoured.
    pub fn ignores_hold(&self) -> bool {
        self.hold.is_some() && self.honoured_hold().is_none()
    }

    /// The runner's program.
    ///
    /// # Errors
    /// [`SiteError::ProgramMissing`].
    pub(crate) fn runner(&self) -> Result<PathBuf, SiteError> {
        self.program("outlast-runner")
    }

    /// The agent's program.
    ///
    /// # Errors
    /// [`SiteError::ProgramMissing`].
    pub(crate) fn agent(&self) -> Result<PathBuf, SiteError> {
        self.program("outlast-agent")
    }

    fn program(&self, name: &'static str) -> Result<PathBuf, SiteError> {
        let path = self.programs.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(SiteError::ProgramMissing { name, directory: self.programs.clone() })
    }

    /// Checks that a runner can have its namespaces, before anything is made. The superuser's always can.
    ///
    /// # Errors
    /// [`SiteError::NoNamespaces`] with what to change.
    pub(crate) fn require_namespaces(&self) -> Result<(), SiteError> {
        if host::is_root() {
            return Ok(());
        }
        let Err(why) = try_namespaces(&self.runner()?, timeout::ATTEMPT) else { return Ok(()) };
        let ban = namespace::ban();
        let because = ban.as_ref().map_or_else(String::new, |ban| format!("{ban} "));
        let fix = ban.map_or_else(|| "outlast doctor".to_owned(), |ban| ban.fix().to_owned());
        Err(SiteError::NoNamespaces { why: format!("{because}({why})"), fix })
    }

    /// Lets everybody use the images that the superuser has built. Not being able to concerns others alone.
    pub(crate) fn let_others_read(&self) {
        let library = self.places.library();
        if !host::is_root() {
            return;
        }
        let opened = outlast_machine::image::let_others_read(&library);
        if let Err(error) = opened {
            tracing::debug!(error = %chain(&error), "others cannot use the images of this library");
        }
        if library.path() == Path::new(HOST_LIBRARY) && Path::new(HOST_HOME).is_dir() {
            if let Err(error) = passable(Path::new(HOST_HOME)) {
                tracing::debug!(error = %chain(&error), "others cannot reach the images of this library");
            }
        }
    }

    /// The store; made when it is not there.
    ///
    /// # Errors
    /// Those of opening it.
    pub(crate) fn store(&self) -> Result<&Store, StoreError> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let store = Store::open(&self.places.database())?;
        Ok(self.store.get_or_init(|| store))
    }

    /// The store, unless there is none yet: for looking without making anything.
    ///
    /// # Errors
    /// Those of opening it.
    pub(crate) fn existing_store(&self) -> Result<Option<&Store>, StoreError> {
        let path = self.places.database();
        if self.store.get().is_none()
            && !path.try_exists().map_err(|source| StoreError::Examine { path, source })?
        {
            return Ok(None);
        }
        self.store().map(Some)
    }
}

/// Has the runner try; says why it could not.
fn try_namespaces(runner: &Path, within: Duration) -> Result<(), String> {
    match process::attempt(Command::new(runner).arg("try").env_clear(), within) {
        Ok(Some(ended)) if ended.status.success() => Ok(()),
        Ok(Some(ended)) if ended.said.is_empty() => Err(ended.status.to_string()),
        Ok(Some(ended)) => Err(ended.said.trim_start_matches("outlast-runner: ").to_owned()),
        Ok(None) => Err(format!("the attempt did not end within {} s", within.as_secs())),
        Err(error) => Err(error.to_string()),
    }
}

/// Refuses a run directory in which no socket could be made, or that somebody else has made. Makes nothing.
///
/// # Errors
/// [`SiteError::PathTooLong`], [`SiteError::Strangers`].
pub(crate) fn check_places(places: &Places) -> Result<(), SiteError> {
    match rustix::fs::lstat(places.run()) {
        Ok(stat) if stat.st_uid != our_uid() && is_everybodys(places.run().parent()) => {
            return Err(SiteError::Strangers { path: places.run().to_owned(), owner: stat.st_uid });
        }
        // What else is wrong with it is told when it is made or taken.
        Ok(_) | Err(_) => {}
    }
    check_socket_paths(places)
}

fn check_socket_paths(places: &Places) -> Result<(), SiteError> {
    let directory = places.run_directory(IncarnationId::from_parts(0, 0));
    let sockets = [directory.control_socket(), directory.monitor_socket(), directory.agent_socket()];
    match sockets.iter().find(|path| path.as_os_str().len() > SOCKET_PATH) {
        Some(_) => Err(SiteError::PathTooLong { path: places.run().to_owned() }),
        None => Ok(()),
    }
}

/// Who this process acts for.
pub fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Makes a directory and its missing parents, 0700, or checks that the one that is there is private. One of ours
/// into which others may look is made private; one in which others may write is refused.
pub(crate) fn private_directory(path: &Path) -> Result<(), SiteError> {
    let (directory, mode) = owned(path)?;
    if !mode.intersects(Mode::RWXG | Mode::RWXO) {
        return Ok(());
    }
    set_mode(path, &directory, Mode::RWXU)
}

/// As [`private_directory`], but it stays as open to others' looking as it is: for libraries, whose parts have modes of
/// their own.
pub(crate) fn owned_directory(path: &Path) -> Result<(), SiteError> {
    owned(path).map(drop)
}

/// Makes and checks the home. One that holds a library that everybody reads can be passed through, and not listed;
/// what is in it is private, each by its own mode.
pub(crate) fn home_directory(places: &Places) -> Result<(), SiteError> {
    let home = places.home();
    if host::is_root() && places.library().path() == home.join("library") {
        return passable(home);
    }
    private_directory(home)
}

/// Lets others pass through a directory, or leaves it closed when it holds something else too: it is not ours to open
/// a way to that, and who runs here needs no such way.
fn passable(path: &Path) -> Result<(), SiteError> {
    let (directory, mode) = owned(path)?;
    let wanted = Mode::RWXU | Mode::XGRP | Mode::XOTH;
    let is_closed = !mode.intersects(Mode::RWXG | Mode::RWXO);
    if mode == wanted || (is_closed && !holds_only_ours(path)) {
        return Ok(());
    }
    set_mode(path, &directory, wanted)
}

/// Why others cannot use the images of root's own home, when that is because something else lies in it.
pub(crate) fn closed_home(places: &Places) -> Option<String> {
    let home = places.home();
    let stat = rustix::fs::stat(home).ok()?;
    let is_closed = !Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO);
    let is_hosts = host::is_root() && places.library().path() == home.join("library");
    (is_hosts && is_closed && !holds_only_ours(home)).then(|| {
        format!(
            "others cannot use its images: {} stays closed, for not all in it is outlast's",
            home.display()
        )
    })
}

/// Makes a directory unless it is there, and checks that it is ours and that nobody else may write in it.
fn owned(path: &Path) -> Result<(OwnedFd, Mode), SiteError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|source| SiteError::MakeDirectory { path: path.to_owned(), source })?;
    let not_private = || SiteError::NotPrivate { path: path.to_owned() };
    let mut flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    if is_everybodys(path.parent()) {
        // Where everybody may make names, a link could lead to a directory of ours that is for something else.
        flags |= OFlags::NOFOLLOW;
    }
    let stat = |result: rustix::io::Result<Stat>| result.map_err(|_| not_private());
    let named = stat(rustix::fs::lstat(path))?;
    if FileType::from_raw_mode(named.st_mode) == FileType::Directory && named.st_uid != our_uid() {
        return Err(SiteError::Strangers { path: path.to_owned(), owner: named.st_uid });
    }
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|_| not_private())?;
    let found = stat(rustix::fs::fstat(&directory))?;
    let mode = Mode::from_raw_mode(found.st_mode);
    if found.st_uid != our_uid() || mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Err(not_private());
    }
    Ok((directory, mode))
}

/// Whether everybody may make things in this directory.
fn is_everybodys(directory: Option<&Path>) -> bool {
    let mode = directory.and_then(|path| rustix::fs::stat(path).ok()).map(|stat| stat.st_mode);
    mode.is_some_and(|mode| Mode::from_raw_mode(mode).contains(Mode::WOTH))
}

/// Of a directory that holds anything else it is not ours to say who may look into it.
fn set_mode(path: &Path, directory: &OwnedFd, mode: Mode) -> Result<(), SiteError> {
    let not_private = || SiteError::NotPrivate { path: path.to_owned() };
    if !holds_only_ours(path) {
        return Err(not_private());
    }
    rustix::fs::fchmod(directory, mode).map_err(|_| not_private())
}

fn holds_only_ours(path: &Path) -> bool {
    let is_ours = |name: &str| {
        name.starts_with('.')
            || name.starts_with("outlast.db")
            || PLACES.contains(&name)
            || name.parse::<IncarnationId>().is_ok()
            || Path::new(name).extension().is_some_and(|ending| ending == "json")
            || (name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let Ok(entries) = std::fs::read_dir(path) else { return false };
    entries.flatten().all(|entry| entry.file_name().to_str().is_some_and(is_ours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn directories_are_made_private_and_open_ones_refused() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/b");
        private_directory(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(private_directory(&path), Err(SiteError::NotPrivate { .. })));
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o755);
        std::fs::write(path.join("outlast.db"), "").unwrap();
        private_directory(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700, "tightened");
        set(0o755);
        std::fs::write(path.join("etc"), "").unwrap();
        assert!(matches!(private_directory(&path), Err(SiteError::NotPrivate { .. })), "not ours to tighten");
        let file = top.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(private_directory(&file), Err(SiteError::MakeDirectory { .. })));
    }

    #[test]
    fn an_attempt_at_namespaces_tells_why_it_failed_and_ends_at_its_deadline() {
        let top = tempfile::tempdir().unwrap();
        let runner = top.path().join("outlast-runner");
        let tried = |script: &str, within| {
            std::fs::write(&runner, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&runner, std::fs::Permissions::from_mode(0o755)).unwrap();
            try_namespaces(&runner, within)
        };
        let minute = Duration::from_secs(60);
        tried("exit 0", minute).unwrap();
        assert_eq!(
            tried("echo outlast-runner: no such luck >&2; exit 1", minute).unwrap_err(),
            "no such luck"
        );
        assert!(tried("exit 3", minute).unwrap_err().contains('3'));
        assert!(tried("exec sleep 600", Duration::from_millis(50)).unwrap_err().contains("did not end"));
    }

    #[test]
    fn a_stray_file_in_a_closed_home_stops_nothing_and_nothing_is_opened() {
        let top = tempfile::tempdir().unwrap();
        let home = top.path().join("home");
        let mode = || home.metadata().unwrap().permissions().mode() & 0o777;
        passable(&home).unwrap();
        assert_eq!(mode(), 0o711);
        std::fs::write(home.join("notes"), "").unwrap();
        passable(&home).unwrap();
        assert_eq!(mode(), 0o711, "who opened it meant it");
        let set = |mode| std::fs::set_permissions(&home, std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o700);
        passable(&home).unwrap();
        assert_eq!(mode(), 0o700);
        let places = Places::new(home.clone(), top.path().join("run"), home.join("library"));
        assert_eq!(closed_home(&places).is_some(), host::is_root());
        set(0o755);
        assert!(matches!(passable(&home), Err(SiteError::NotPrivate { .. })), "not ours to say who looks in");
        set(0o700);
        std::fs::remove_file(home.join("notes")).unwrap();
        passable(&home).unwrap();
        assert_eq!((mode(), closed_home(&places)), (0o711, None));
    }

    #[test]
    fn a_run_directory_without_room_for_sockets_is_refused() {
        let places = |run: &str| Places::new("/h".into(), run.into(), "/l".into());
        check_socket_paths(&places("/run/outlast")).unwrap();
        check_socket_paths(&places(&format!("/{}", "x".repeat(66)))).unwrap();
        assert!(check_socket_paths(&places(&format!("/{}", "x".repeat(67)))).is_err());
    }

    #[test]
    fn a_hold_is_honoured_only_in_a_home_marked_for_proofs() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        let places = Places::new(at("home"), at("run"), at("library"));
        let site = Site::new(places, at("bin")).with_hold("disks:after".parse().ok());
        assert!(site.honoured_hold().is_none() && site.ignores_hold());
        assert!(!at("home").exists(), "looking makes nothing");
        std::fs::create_dir(at("home")).unwrap();
        std::fs::write(site.places().proofs_marker(), "").unwrap();
        assert!(site.honoured_hold().is_some() && !site.ignores_hold());
    }
}
