//! From what was asked for to files and a command: which runtime, which file name in the guest, which words.

use super::{RequestError, What};
use crate::archive::{Archive, ArchiveError, RefusedArchive};
use crate::error::Error;
use outlast_machine::image::recipe::{GUEST_GID, GUEST_HOME, GUEST_UID, GUEST_USER, GUEST_WORK, RECIPES};
use outlast_machine::image::{self, Image, LibraryError, Recipe, Runtime};
use outlast_model::limit::{GUEST_PIDS, SOURCE_BYTES};
use outlast_model::spec::{EnvVar, WorkloadSpec};
use outlast_wire::intent::Program;
use outlast_wire::paths::Library;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Where programs of a guest are looked for.
const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What will lie in the program's working directory.
#[derive(Debug)]
pub(crate) enum Files {
    /// Nothing.
    None,
    /// One file.
    One {
        /// Its name in the guest.
        name: String,
        /// Its content.
        content: Vec<u8>,
    },
    /// All that is in an archive.
    Archive(Box<Archive>),
}

impl Files {
    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::One { content, .. } => u64::try_from(content.len()).unwrap_or(u64::MAX),
            Self::Archive(archive) => archive.unpacked_bytes(),
        }
    }
}

/// What was read before anything was decided about it.
#[derive(Debug)]
pub(super) enum Material {
    /// Nothing.
    None,
    /// Source code.
    Source(Vec<u8>),
    /// A packed archive.
    Packed(Vec<u8>),
}

/// Reads the code. Needs neither image nor runtime: a file that is not there is the first thing to say.
pub(super) fn material(what: &What) -> Result<Material, Error> {
    match what {
        What::Command { .. } => Ok(Material::None),
        What::Inline { code, .. } => Ok(Material::Source(checked_source("on standard input", code.clone())?)),
        What::File { path, .. } => {
            let code = checked_source(&path.display().to_string(), read_source(path)?)?;
            Ok(Material::Source(code))
        }
        What::Archive { path, .. } => {
            Ok(Material::Packed(Archive::read(path).map_err(RefusedArchive::at(path))?))
        }
    }
}

/// The image that will run it, opened. Asks nothing of the disk but the image.
pub(super) fn image_for(libraries: &[Library], what: &What) -> Result<Image, Error> {
    match what {
        What::Command { image, .. } => image_of_command(libraries, image),
        What::Inline { runtime, .. } => image_of_runtime(libraries, runtime),
        What::File { path, runtime } => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            image_of_runtime(libraries, &runtime_or_told_by(libraries, runtime.as_deref(), &name)?)
        }
        What::Archive { path, entry, runtime } => {
            let name = match entry {
                Some(entry) => entry.clone(),
                None => path.display().to_string(),
            };
            image_of_runtime(libraries, &runtime_or_told_by(libraries, runtime.as_deref(), &name)?)
        }
    }
}

/// The image of a command, or of a VM.
pub(crate) fn image_of_command(libraries: &[Library], name: &str) -> Result<Image, Error> {
    match image::find(libraries, name) {
        // What could be built is said by the library's own error, with the command that builds it.
        Err(LibraryError::NoImage { built, .. }) if Recipe::named(name).is_none() => {
            Err(RequestError::UnknownImage { name: shorten(name), built, known: Recipe::names() }.into())
        }
        opened => Ok(opened?),
    }
}

/// A runtime's image has the runtime's name.
fn image_of_runtime(libraries: &[Library], runtime: &str) -> Result<Image, Error> {
    let unknown = || RequestError::UnknownRuntime { name: shorten(runtime), known: runtimes(libraries) };
    match image::find(libraries, runtime) {
        Ok(image) if image.manifest().runtime().is_some() => Ok(image),
        Ok(image) => Err(RequestError::NoRuntimeIn { image: image.name().to_owned() }.into()),
        // Known, but not built: the library's own error says how to build it.
        Err(error @ LibraryError::NoImage { .. }) if is_recipe(runtime) => Err(error.into()),
        Err(LibraryError::NoImage { .. } | LibraryError::BadName { .. }) => Err(unknown().into()),
        Err(error) => Err(error.into()),
    }
}

fn is_recipe(runtime: &str) -> bool {
    RECIPES.iter().any(|recipe| recipe.name == runtime && recipe.runtime.is_some())
}

/// The names of all runtimes: those that can be built, and those of images that are there.
fn runtimes(libraries: &[Library]) -> Vec<String> {
    let recipes =
        RECIPES.iter().filter(|recipe| recipe.runtime.is_some()).map(|recipe| recipe.name.to_owned());
    let mut names: Vec<String> = recipes.collect();
    for (name, _) in built_runtimes(libraries) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Images of the library with a runtime, and the endings they claim. What cannot be read claims nothing.
fn built_runtimes(libraries: &[Library]) -> Vec<(String, Vec<String>)> {
    let listed = image::list_all(libraries).unwrap_or_default();
    let with_runtime = listed.into_iter().filter_map(|image| {
        let manifest = image.manifest.ok()?;
        Some((image.name, manifest.runtime()?.extensions.clone()))
    });
    with_runtime.collect()
}

fn runtime_or_told_by(
    libraries: &[Library],
    asked: Option<&str>,
    name: &str,
) -> Result<String, RequestError> {
    if let Some(asked) = asked {
        return Ok(asked.to_owned());
    }
    let ending = Path::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let endings =
        RECIPES.iter().filter_map(|recipe| Some((recipe.name, recipe.runtime.as_ref()?.extensions)));
    if let Some((name, _)) = endings.clone().find(|(_, endings)| endings.contains(&ending)) {
        return Ok(name.to_owned());
    }
    let built = built_runtimes(libraries);
    if let Some((name, _)) = built.iter().find(|(_, endings)| endings.iter().any(|known| known == ending)) {
        return Ok(name.clone());
    }
    let known = endings.map(|(name, endings)| format!(".{} {name}", endings.join(" .")));
    let mut known: Vec<String> = known.collect();
    known.extend(
        built
            .iter()
            .filter(|(name, _)| !is_recipe(name))
            .map(|(name, endings)| format!(".{} {name}", endings.join(" ."))),
    );
    Err(RequestError::NoRuntimeFor { name: shorten(name), known })
}

/// The files of the working directory, and what the guest will be told to start. `allowed` is what an archive may
/// unpack to.
pub(super) fn files_and_command(
    image: &Image,
    what: &What,
    material: Material,
    allowed: u64,
) -> Result<(Files, Vec<String>), Error> {
    if let What::Command { image, argv } = what {
        let none = || RequestError::NoCommand { image: image.clone() };
        argv.first().filter(|program| !program.is_empty()).ok_or_else(none)?;
        return Ok((Files::None, argv.clone()));
    }
    let none = || RequestError::NoRuntimeIn { image: image.name().to_owned() };
    let runtime = image.manifest().runtime().ok_or_else(none)?;
    let name = match what {
        What::File { path, .. } => name_in_guest(runtime, path),
        What::Inline { .. } | What::Archive { .. } | What::Command { .. } => runtime.file_name.clone(),
    };
    match material {
        Material::None => Ok((Files::None, command(runtime, &name))),
        Material::Source(content) => {
            Ok((Files::One { name: name.clone(), content }, command(runtime, &name)))
        }
        Material::Packed(packed) => {
            let (path, asked) = match what {
                What::Archive { path, entry, .. } => (path.as_path(), entry.as_deref()),
                What::File { .. } | What::Inline { .. } | What::Command { .. } => (Path::new("-"), None),
            };
            let opened = Archive::inspect(packed, allowed).and_then(|archive| {
                let entry = entry_of(&archive, runtime, asked)?;
                Ok((archive, entry))
            });
            let (archive, entry) = opened.map_err(RefusedArchive::at(path))?;
            Ok((Files::Archive(Box::new(archive)), command(runtime, &entry)))
        }
    }
}

fn command(runtime: &Runtime, file: &str) -> Vec<String> {
    // A name that begins with a dash would be taken for an option.
    let file = if file.starts_with('-') { format!("./{file}") } else { file.to_owned() };
    runtime.command.iter().cloned().chain([file]).collect()
}

/// The runtime's usual name, with the ending that the file had: `.mjs` means something else than `.js`.
fn name_in_guest(runtime: &Runtime, path: &Path) -> String {
    let usual = Path::new(&runtime.file_name);
    let ending = path.extension().and_then(|ending| ending.to_str());
    match ending.filter(|ending| runtime.extensions.iter().any(|known| known == ending)) {
        Some(ending) => usual.with_extension(ending).to_string_lossy().into_owned(),
        None => runtime.file_name.clone(),
    }
}

fn entry_of(archive: &Archive, runtime: &Runtime, asked: Option<&str>) -> Result<String, ArchiveError> {
    let tried: Vec<String> = match asked {
        Some(entry) => vec![entry.trim_start_matches("./").to_owned()],
        None if runtime.name == "node" => vec!["index.js".to_owned(), runtime.file_name.clone()],
        None => vec![runtime.file_name.clone()],
    };
    let found = tried.iter().find(|name| archive.has_file(name));
    found.cloned().ok_or_else(|| ArchiveError::NoEntry { entry: shorten(&tried.join("' or '")) })
}

fn read_source(path: &Path) -> Result<Vec<u8>, RequestError> {
    let what = "source";
    let failed = |source| RequestError::Read { what, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(RequestError::NotAFile { what, path: path.to_owned() });
    }
    let mut content = Vec::new();
    file.take(SOURCE_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

fn checked_source(name: &str, content: Vec<u8>) -> Result<Vec<u8>, RequestError> {
    let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
    if size > SOURCE_BYTES {
        return Err(RequestError::SourceTooLarge { name: name.to_owned(), size });
    }
    if content.iter().all(u8::is_ascii_whitespace) {
        return Err(RequestError::EmptySource { name: name.to_owned() });
    }
    Ok(content)
}

/// The program as the runner is told of it: the guest's user and directory, the whole environment.
pub(crate) fn wire_program(spec: &WorkloadSpec, runtime: Option<&Runtime>, stdin: bool) -> Program {
    Program {
        argv: spec.argv.clone(),
        env: environment(runtime, &spec.env),
        cwd: GUEST_WORK.to_owned(),
        uid: GUEST_UID,
        gid: GUEST_GID,
        memory_max: spec.memory.bytes(),
        pids_max: GUEST_PIDS,
        timeout_ms: spec.timeout.millis(),
        output_limit: spec.output_limit,
        stdin,
    }
}

/// Ours, then the runtime's, then the user's: a later one of a name wins.
pub(crate) fn environment(runtime: Option<&Runtime>, asked: &[EnvVar]) -> Vec<String> {
    let ours = [
        ("HOME", GUEST_HOME),
        ("LANG", "C.UTF-8"),
        ("LOGNAME", GUEST_USER),
        ("PATH", GUEST_PATH),
        ("USER", GUEST_USER),
    ];
    let mut environment: BTreeMap<String, String> =
        ours.iter().map(|(name, value)| ((*name).to_owned(), format!("{name}={value}"))).collect();
    let runtimes = runtime.map(|runtime| runtime.env.as_slice()).unwrap_or_default();
    for variable in runtimes.iter().chain(asked) {
        environment.insert(variable.name().to_owned(), variable.assignment());
    }
    environment.into_values().collect()
}

fn shorten(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
