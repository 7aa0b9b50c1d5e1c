//! Files that describe a VM: YAML (`.yaml`, `.yml`) or TOML (`.toml`), by the name's ending.
//!
//! ```text
//!   name: web                 name = "web"
//!   image: base               image = "base"
//!   memory: 256M              memory = "256M"
//!   disk:                     [disk]
//!     size: 1G                size = "1G"
//!     format: raw             format = "raw"
//! ```
//!
//! Only the shape is judged here: names of fields, one value each, said once. What the values mean is judged in
//! [`super::spec`]. Of YAML no more is understood than is needed: anchors, aliases, tags and lists are refused, so
//! there is nothing a small file could make large.

use super::spec::{Field, Said, SpecError, Words};
use outlast_model::limit::VM_FILE_BYTES;
use outlast_wire::exit_code::FailureKind;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a file says nothing of a VM.
#[derive(Debug, Error)]
pub enum SpecFileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is larger than any that describes a VM.
    #[error("{} is too large (at most {VM_FILE_BYTES} bytes)", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Its name does not say which language it is in.
    #[error("{} is neither .yaml nor .toml by its name", path.display())]
    Language {
        /// The file.
        path: PathBuf,
    },
    /// It is not YAML.
    #[error("{} is not YAML", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<ScanError>,
    },
    /// It is not TOML.
    #[error("{} is not TOML", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It is YAML or TOML of a shape that no description of a VM has.
    #[error("{origin}: {problem}")]
    Shape {
        /// The file, and the line where it is known.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field is none.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl SpecFileError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => FailureKind::NotFound,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                FailureKind::NotPermitted
            }
            Self::Read { .. }
            | Self::TooLarge { .. }
            | Self::Language { .. }
            | Self::Yaml { .. }
            | Self::Toml { .. }
            | Self::Shape { .. }
            | Self::Spec(_) => FailureKind::BadInput,
        }
    }
}

/// What the file at `path` says of a VM.
///
/// # Errors
/// [`SpecFileError`]; nothing in a file is passed over.
pub fn read(path: &Path) -> Result<Words, SpecFileError> {
    let failed = |source| SpecFileError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let length = file.take(VM_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(length).is_ok_and(|length| length > VM_FILE_BYTES) {
        return Err(SpecFileError::TooLarge { path: path.to_owned() });
    }
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("yaml" | "yml") => yaml(&text, path),
        Some("toml") => toml(&text, path),
        Some(_) | None => Err(SpecFileError::Language { path: path.to_owned() }),
    }
}

/// Collects values, each said once.
struct Collector<'a> {
    words: Words,
    path: &'a Path,
}

impl Collector<'_> {
    fn origin(&self, line: Option<usize>) -> String {
        match line {
            Some(line) => format!("{}:{line}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    fn shape<T>(&self, line: Option<usize>, problem: impl Into<String>) -> Result<T, SpecFileError> {
        Err(SpecFileError::Shape { origin: self.origin(line), problem: problem.into() })
    }

    fn add(&mut self, name: &str, line: Option<usize>, text: String) -> Result<(), SpecFileError> {
        let origin = self.origin(line);
        let Some(field) = Field::from_name(name) else {
            return Err(SpecError::unknown(name, origin).into());
        };
        match self.words.insert(field, Said { text, origin }) {
            None => Ok(()),
            Some(_) => self.shape(line, format!("'{}' is said twice", field.name())),
        }
    }
}

/// What stands before a value: `disk.` inside of `disk`, and nothing outside.
fn within(section: Option<&str>, key: &str) -> String {
    section.map_or_else(|| key.to_owned(), |section| format!("{section}.{key}"))
}

fn toml(text: &str, path: &Path) -> Result<Words, SpecFileError> {
    let not = |source| SpecFileError::Toml { path: path.to_owned(), source: Box::new(source) };
    let table: toml::Table = text.parse().map_err(not)?;
    let mut collector = Collector { words: Words::new(), path };
    for (key, value) in table {
        match value {
            toml::Value::Table(section) if key == "disk" => {
                for (inner, value) in section {
                    let name = within(Some(&key), &inner);
                    toml_value(&mut collector, &name, value)?;
                }
            }
            value => toml_value(&mut collector, &key, value)?,
        }
    }
    Ok(collector.words)
}

fn toml_value(collector: &mut Collector<'_>, name: &str, value: toml::Value) -> Result<(), SpecFileError> {
    match value {
        toml::Value::String(text) => collector.add(name, None, text),
        toml::Value::Integer(number) => collector.add(name, None, number.to_string()),
        value if Field::from_name(name).is_some() => {
            collector.shape(None, format!("'{name}' is {}, not a text or a number", value.type_str()))
        }
        // That there is no such field is said first.
        _ => collector.add(name, None, String::new()),
    }
}

/// Where in a YAML document we are.
enum Awaiting {
    /// A key, or the end of the mapping.
    Key,
    /// The value of this key, which was on this line.
    Value(String, usize),
}

fn yaml(text: &str, path: &Path) -> Result<Words, SpecFileError> {
    let mut collector = Collector { words: Words::new(), path };
    let (mut section, mut depth, mut awaiting) = (None, 0_u32, Awaiting::Key);
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|source| SpecFileError::Yaml { path: path.to_owned(), source: Box::new(source) })?;
        let line = span.start.line();
        awaiting = match (event, awaiting) {
            (Event::DocumentStart(_), awaiting) => {
                documents += 1;
                if documents > 1 {
                    return collector.shape(Some(line), "a second document; one file describes one VM");
                }
                awaiting
            }
            (Event::MappingStart(0, None), Awaiting::Key) if depth == 0 => {
                depth = 1;
                Awaiting::Key
            }
            (Event::MappingStart(0, None), Awaiting::Value(key, _)) if depth == 1 && key == "disk" => {
                (depth, section) = (2, Some(key));
                Awaiting::Key
            }
            (Event::MappingEnd, Awaiting::Key) => {
                (depth, section) = (depth.saturating_sub(1), None);
                Awaiting::Key
            }
            (Event::Scalar(key, _, 0, None), Awaiting::Key) if depth > 0 => {
                Awaiting::Value(within(section.as_deref(), &key), line)
            }
            (Event::Scalar(value, style, 0, None), Awaiting::Value(name, line)) => {
                let empty = value.is_empty() && style == ScalarStyle::Plain;
                if empty && Field::from_name(&name).is_some() {
                    return collector.shape(Some(line), format!("'{name}' has no value"));
                }
                collector.add(&name, Some(line), value.into_owned())?;
                Awaiting::Key
            }
            (Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd, awaiting) => {
                awaiting
            }
            // That there is no such field is said first.
            (_, Awaiting::Value(name, line)) if name != "disk" && Field::from_name(&name).is_none() => {
                return Err(SpecError::unknown(&name, collector.origin(Some(line))).into());
            }
            (_, _) => {
                let problem = "a text or a number is expected here (no list, anchor, alias or tag)";
                return collector.shape(Some(line), problem);
            }
        };
    }
    Ok(collector.words)
}

#[cfg(test)]
mod tests {
    use super::super::spec::resolve;
    use super::*;
    use proptest::prelude::*;

    fn read_text(name: &str, text: &str) -> Result<Words, SpecFileError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn refused(name: &str, text: &str) -> String {
        crate::error::chain(&read_text(name, text).unwrap_err())
    }

    const YAML: &str =
        "# a web server\nname: web\nimage: base\nvcpus: 2\nmemory: 256M\ndisk:\n  size: 2G\n  format: raw\n";
    const TOML: &str = "name = \"web\"\nimage = \"base\"\nvcpus = 2\nmemory = \"256M\"\n[disk]\nsize = \"2G\"\nformat = \"raw\"\n";

    #[test]
    fn both_languages_say_the_same() {
        let (from_yaml, from_toml) = (read_text("a.yaml", YAML).unwrap(), read_text("a.toml", TOML).unwrap());
        let (a, b) = (resolve(&[&from_yaml]).unwrap(), resolve(&[&from_toml]).unwrap());
        assert_eq!((&a.name, &a.spec), (&b.name, &b.spec));
        assert_eq!((a.spec.vcpus().get(), a.spec.disk().size().mib()), (2, 2048));
        assert!(a.origins["disk.size"].ends_with("a.yaml:7"), "{:?}", a.origins);
        let json = read_text("a.yml", "{name: web, image: base, disk: 3G, memory: 268435456}").unwrap();
        let spec = resolve(&[&json]).unwrap().spec;
        assert_eq!((spec.disk().size().mib(), spec.memory().mib()), (3072, 256));
    }

    #[test]
    fn unknown_fields_are_refused_by_place_and_name() {
        assert!(refused("a.yaml", "name: web\nmemroy: 1G\n").contains("a.yaml:2: there is no 'memroy'"));
        assert!(refused("a.yaml", "disk:\n  colour: red\n").contains("a.yaml:2: there is no 'disk.colour'"));
        assert!(refused("a.yaml", "volumes:\n  - a\n").contains("there is no 'volumes'"));
        assert!(refused("a.toml", "memroy = \"1G\"\n").contains("there is no 'memroy'"));
        assert!(refused("a.toml", "[disk]\ncolour = 1\n").contains("there is no 'disk.colour'"));
        assert!(refused("a.toml", "[net]\na = 1\n").contains("there is no 'net'"));
    }

    #[test]
    fn shapes_that_say_nothing_are_refused() {
        for text in [
            "name: [a]\n",
            "- name\n",
            "web\n",
            "name: &a web\n",
            "name: !!str web\n",
            "name: &a web\nimage: *a\n",
            "name: web\n---\nname: two\n",
            "name:\n",
            "disk: {size: {a: b}}\n",
            "? {a: b}\n: c\n",
        ] {
            let refused = read_text("a.yaml", text);
            assert!(
                matches!(refused, Err(SpecFileError::Shape { .. } | SpecFileError::Spec(_))),
                "{text}: {refused:?}"
            );
        }
        assert!(refused("a.yaml", "name: web\nname: two\n").contains("a.yaml:2: 'name' is said twice"));
        assert!(refused("a.yaml", "disk: 1G\ndisk:\n  size: 2G\n").contains("'disk.size' is said twice"));
        assert!(refused("a.toml", "name = 1.5\n").contains("not a text or a number"));
        assert!(matches!(read_text("a.toml", "name = "), Err(SpecFileError::Toml { .. })));
        assert!(matches!(read_text("a.yaml", "name: 'web"), Err(SpecFileError::Yaml { .. })));
        assert!(matches!(read_text("a.json", "{}"), Err(SpecFileError::Language { .. })));
        let large = "#".repeat(70_000);
        assert!(matches!(read_text("a.yaml", &large), Err(SpecFileError::TooLarge { .. })));
        let missing = read(Path::new("/nowhere/web.yaml")).unwrap_err();
        assert_eq!(missing.kind(), FailureKind::NotFound);
    }

    #[test]
    fn an_empty_file_says_nothing() {
        for name in ["a.yaml", "a.toml"] {
            assert_eq!(read_text(name, "").unwrap(), Words::new());
            assert_eq!(read_text(name, "# nothing\n").unwrap(), Words::new());
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}|([a-z{}\\[\\]:&*!|>\"' \n-]{0,60})") {
            let _ = yaml(&text, Path::new("a.yaml"));
            let _ = toml(&text, Path::new("a.toml"));
        }
    }
}
