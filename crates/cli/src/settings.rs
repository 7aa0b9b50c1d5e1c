//! Settings: as written in the environment, checked, resolved. Nothing below this reads the environment.

use crate::failure::Failure;
use outlast_control::Bounds;
use outlast_control::image::Mirror;
use outlast_model::{Age, Hold, Memory, limit};
use outlast_wire::exit_code::FailureKind;
use outlast_wire::paths::{HOST_HOME, HOST_LIBRARY, HOST_RUN, Places};
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Whose settings these are, as far as defaults depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    uid: u32,
    /// Whether `/run/user/UID` is there and this user's own.
    has_runtime_directory: bool,
}

/// What everything else goes by.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Home, run directory, library.
    pub(crate) places: Places,
    /// Where runner and agent are.
    pub(crate) programs: PathBuf,
    /// Where packages come from.
    pub(crate) mirror: Mirror,
    /// A fault point, for proofs.
    pub(crate) hold: Option<Hold>,
    /// What is kept without being asked about.
    pub(crate) bounds: Bounds,
}

/// A setting makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadSetting {
    name: &'static str,
    problem: String,
}

impl From<BadSetting> for Failure {
    fn from(bad: BadSetting) -> Self {
        Failure::new(FailureKind::BadInput, format!("{}: {}", bad.name, bad.problem))
            .hint(format!("unset {}", bad.name))
    }
}

impl Settings {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub(crate) fn from_environment() -> Result<Self, BadSetting> {
        let executable = std::env::current_exe().unwrap_or_default();
        let beside = executable.parent().unwrap_or(Path::new("/")).to_owned();
        Self::resolve(|name| std::env::var_os(name), beside, User::of_this_process())
    }

    fn resolve(
        read: impl Fn(&str) -> Option<OsString>,
        beside: PathBuf,
        user: User,
    ) -> Result<Self, BadSetting> {
        let written = |name: &'static str| read(name).filter(|value| !value.is_empty());
        let directory = |name: &'static str| match written(name) {
            None => Ok(None),
            Some(value) => match std::path::absolute(&value) {
                Ok(path) => Ok(Some(path)),
                Err(error) => Err(BadSetting { name, problem: error.to_string() }),
            },
        };
        let text = |name: &'static str| match written(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(BadSetting { name, problem: "it is not UTF-8".to_owned() }),
        };
        let (home, run) = match directory("OUTLAST_HOME")? {
            Some(home) => (home.clone(), home.join("run")),
            None if user.uid == 0 => (PathBuf::from(HOST_HOME), PathBuf::from(HOST_RUN)),
            None => (home_of_user(&written)?, run_of_user(&written, user)),
        };
        let bounds = Bounds {
            templates_bytes: number(
                text("OUTLAST_KEEP_TEMPLATES")?,
                "OUTLAST_KEEP_TEMPLATES",
                |size: Memory| size.bytes(),
            )?
            .unwrap_or(limit::TEMPLATES_BYTES),
            evidence_runs: number(text("OUTLAST_KEEP_RUNS")?, "OUTLAST_KEEP_RUNS", |count: usize| count)?
                .unwrap_or(limit::EVIDENCE_RUNS),
            evidence_age: number(text("OUTLAST_KEEP_FOR")?, "OUTLAST_KEEP_FOR", |age: Age| age)?
                .unwrap_or(limit::EVIDENCE_AGE),
        };
        let mut libraries = match written("OUTLAST_LIBRARY") {
            Some(list) => libraries(&list)?,
            None => vec![home.join("library"), PathBuf::from(HOST_LIBRARY)],
        };
        let library = libraries.remove(0);
        let bad_hold = |error: outlast_model::hold::HoldError| BadSetting {
            name: "OUTLAST_HOLD",
            problem: error.to_string(),
        };
        Ok(Self {
            places: Places::new(home, run, library).reading(libraries),
            programs: directory("OUTLAST_LIBEXEC")?.unwrap_or(beside),
            mirror: text("OUTLAST_MIRROR")?.map_or_else(Mirror::default, |text| Mirror::parse(&text)),
            hold: text("OUTLAST_HOLD")?.map(|text| text.parse().map_err(bad_hold)).transpose()?,
            bounds,
        })
    }
}

/// A setting that is a quantity.
fn number<T: FromStr<Err: Display>, N>(
    text: Option<String>,
    name: &'static str,
    convert: impl FnOnce(T) -> N,
) -> Result<Option<N>, BadSetting> {
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        Ok(value) => Ok(Some(convert(value))),
        Err(error) => Err(BadSetting { name, problem: format!("'{text}': {error}") }),
    }
}

impl User {
    fn of_this_process() -> Self {
        let uid = outlast_control::our_uid();
        let metadata = std::fs::symlink_metadata(runtime_directory(uid));
        let has_runtime_directory = metadata.is_ok_and(|found| found.is_dir() && found.uid() == uid);
        Self { uid, has_runtime_directory }
    }
}

/// Where systemd puts what `XDG_RUNTIME_DIR` names.
fn runtime_directory(uid: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{uid}"))
}

/// The XDG base directory specification has relative paths ignored.
fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home_of_user(written: &impl Fn(&'static str) -> Option<OsString>) -> Result<PathBuf, BadSetting> {
    let states = || Some(absolute(written("HOME"))?.join(".local/state"));
    let states = absolute(written("XDG_STATE_HOME")).or_else(states);
    states.map(|path| path.join("outlast")).ok_or_else(|| BadSetting {
        name: "HOME",
        problem: "it is not set: say where state is kept with OUTLAST_HOME or XDG_STATE_HOME".to_owned(),
    })
}

/// Every command of a user must come to the same answer, in a terminal as in a cron table: so the directory that
/// the variable usually names is also used when nobody has set it.
fn run_of_user(written: &impl Fn(&'static str) -> Option<OsString>, user: User) -> PathBuf {
    let usual = || user.has_runtime_directory.then(|| runtime_directory(user.uid));
    match absolute(written("XDG_RUNTIME_DIR")).or_else(usual) {
        Some(path) => path.join("outlast"),
        None => PathBuf::from(format!("/tmp/outlast-{}", user.uid)),
    }
}

/// `OWN` or `OWN:READ:READ`: the first is written to, the others are only read.
fn libraries(list: &OsStr) -> Result<Vec<PathBuf>, BadSetting> {
    let bad = |problem: String| BadSetting { name: "OUTLAST_LIBRARY", problem };
    let resolved = |path: PathBuf| {
        if path.as_os_str().is_empty() {
            return Err(bad("there is an empty path in it".to_owned()));
        }
        std::path::absolute(&path).map_err(|error| bad(error.to_string()))
    };
    std::env::split_paths(list).map(resolved).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: User = User { uid: 0, has_runtime_directory: false };
    const ALICE: User = User { uid: 1000, has_runtime_directory: false };

    fn resolve(environment: &[(&str, &str)]) -> Result<Settings, BadSetting> {
        resolve_for(ROOT, environment)
    }

    fn resolve_for(user: User, environment: &[(&str, &str)]) -> Result<Settings, BadSetting> {
        let read = |name: &str| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Settings::resolve(read, PathBuf::from("/usr/bin"), user)
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let settings = resolve(&[]).unwrap();
        assert_eq!(settings.places.home(), Path::new("/var/lib/outlast"));
        assert_eq!(settings.places.run(), Path::new("/run/outlast"));
        assert_eq!(settings.places.library().path(), Path::new("/var/lib/outlast/library"));
        assert_eq!(settings.programs, Path::new("/usr/bin"));
        assert_eq!(resolve(&[("OUTLAST_HOME", "")]).unwrap().places, settings.places);
    }

    #[test]
    fn an_ordinary_user_has_the_directories_of_the_base_directory_specification() {
        let places = |user, environment: &[(&str, &str)]| resolve_for(user, environment).unwrap().places;
        let plain = places(ALICE, &[("HOME", "/home/alice")]);
        assert_eq!(plain.home(), Path::new("/home/alice/.local/state/outlast"));
        assert_eq!(plain.run(), Path::new("/tmp/outlast-1000"));
        assert_eq!(plain.library().path(), Path::new("/home/alice/.local/state/outlast/library"));
        let read: Vec<_> = plain.only_read().iter().map(|library| library.path().to_owned()).collect();
        assert_eq!(read, [Path::new("/var/lib/outlast/library")]);
        let with_runtime = User { has_runtime_directory: true, ..ALICE };
        assert_eq!(places(with_runtime, &[("HOME", "/h")]).run(), Path::new("/run/user/1000/outlast"));
        let named = places(ALICE, &[("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/r")]);
        assert_eq!((named.home(), named.run()), (Path::new("/s/outlast"), Path::new("/r/outlast")));
        let relative = places(ALICE, &[("HOME", "/h"), ("XDG_STATE_HOME", "s"), ("XDG_RUNTIME_DIR", "r")]);
        assert_eq!(relative, places(ALICE, &[("HOME", "/h")]));
        assert_eq!(resolve_for(ALICE, &[]).unwrap_err().name, "HOME");
    }

    #[test]
    fn libraries_behind_the_first_are_only_read() {
        let settings = resolve(&[("OUTLAST_LIBRARY", "/own:/a:/own:/b")]).unwrap();
        assert_eq!(settings.places.library().path(), Path::new("/own"));
        let read: Vec<_> = settings.places.only_read().iter().map(|l| l.path().to_owned()).collect();
        assert_eq!(read, [Path::new("/a"), Path::new("/b")]);
        assert!(resolve(&[("OUTLAST_LIBRARY", "/own")]).unwrap().places.only_read().is_empty());
        assert!(resolve(&[]).unwrap().places.only_read().is_empty(), "root's own is the host's");
        assert!(resolve(&[("OUTLAST_LIBRARY", "/own::/b")]).is_err());
    }

    #[test]
    fn a_home_of_ones_own_brings_its_run_directory_and_library_along() {
        let settings = resolve(&[("OUTLAST_HOME", "/h"), ("OUTLAST_LIBEXEC", "/x")]).unwrap();
        assert_eq!(settings.places.run(), Path::new("/h/run"));
        assert_eq!(settings.places.library().path(), Path::new("/h/library"));
        assert_eq!(settings.programs, Path::new("/x"));
        let shared = resolve(&[("OUTLAST_HOME", "/h"), ("OUTLAST_LIBRARY", "/l")]).unwrap();
        assert_eq!(shared.places.library().path(), Path::new("/l"));
        assert!(resolve(&[("OUTLAST_HOME", "relative")]).unwrap().places.home().is_absolute());
    }

    #[test]
    fn what_is_kept_can_be_set_and_is_checked() {
        assert_eq!(resolve(&[]).unwrap().bounds, Bounds::default());
        let set = [("OUTLAST_KEEP_TEMPLATES", "1G"), ("OUTLAST_KEEP_RUNS", "7"), ("OUTLAST_KEEP_FOR", "2d")];
        let bounds = resolve(&set).unwrap().bounds;
        assert_eq!((bounds.templates_bytes, bounds.evidence_runs), (1 << 30, 7));
        assert_eq!(bounds.evidence_age, Age::from_days(2));
        for (name, value) in [("OUTLAST_KEEP_TEMPLATES", "much"), ("OUTLAST_KEEP_RUNS", "-1")] {
            assert_eq!(resolve(&[(name, value)]).unwrap_err().name, name);
        }
    }

    #[test]
    fn a_fault_point_is_checked_at_once() {
        assert!(resolve(&[("OUTLAST_HOLD", "disks:after")]).unwrap().hold.is_some());
        let bad = resolve(&[("OUTLAST_HOLD", "lunch:after")]).unwrap_err();
        assert!(bad.problem.contains("lunch"), "{}", bad.problem);
    }
}
