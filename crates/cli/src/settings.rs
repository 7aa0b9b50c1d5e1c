//! Settings: as written in the environment, checked, resolved. Nothing below this reads the environment.

use crate::failure::Failure;
use outlast_control::Bounds;
use outlast_control::image::Mirror;
use outlast_model::{Age, Hold, Memory, limit};
use outlast_wire::exit_code::FailureKind;
use outlast_wire::paths::Places;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const ROOT_HOME: &str = "/var/lib/outlast";
const ROOT_RUN: &str = "/run/outlast";

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
        Self::resolve(|name| std::env::var_os(name), beside)
    }

    fn resolve(read: impl Fn(&str) -> Option<OsString>, beside: PathBuf) -> Result<Self, BadSetting> {
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
            None => (PathBuf::from(ROOT_HOME), PathBuf::from(ROOT_RUN)),
        };
        let library = directory("OUTLAST_LIBRARY")?.unwrap_or_else(|| home.join("library"));
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
        let bad_hold = |error: outlast_model::hold::HoldError| BadSetting {
            name: "OUTLAST_HOLD",
            problem: error.to_string(),
        };
        Ok(Self {
            places: Places::new(home, run, library),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(environment: &[(&str, &str)]) -> Result<Settings, BadSetting> {
        let read = |name: &str| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Settings::resolve(read, PathBuf::from("/usr/bin"))
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
