//! How the product starts QEMU, seen from outside: the command line of a VMM that runs, with what it stands on.
//!
//! The floor is "the same command line, driven by a bare script". So the command line is not written down here
//! but read from the process, and what its descriptors are for is read from the command line itself. Nothing of
//! this knows how the product makes it.

use crate::mountinfo;
use anyhow::{Context as _, ensure};
use outlast_wire::guest::PORT_NAME;
use outlast_wire::image::VmmRootManifest;
use outlast_wire::paths::Library;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The device state's file beside a template's memory.
const STATE: &str = "state";
/// The directory in which a VMM sees the files of its incarnation.
const FILES: &str = "/vm";

/// Everything needed to start the same VMM again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    /// The tree that is the VMM's root.
    pub(crate) root: PathBuf,
    /// The program, in that tree.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Files shown to it.
    pub(crate) files: Vec<Shown>,
    /// Names of the devices shown to it.
    pub(crate) devices: Vec<String>,
}

/// A file of the host and what the VMM calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// On the host.
    pub(crate) source: PathBuf,
    /// In the jail.
    pub(crate) inside: PathBuf,
}

/// What a descriptor on the command line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The monitor.
    Monitor,
    /// The port of the agent.
    Agent,
    /// Any other character device: the console.
    Console,
    /// The device state, in the set of this number.
    State,
}

/// A descriptor that the VMM is to inherit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// The argument that names it, by its index.
    pub(crate) argument: usize,
    /// What it is for.
    pub(crate) purpose: Purpose,
    /// Whether the VMM accepts connections on it; otherwise it is connected already.
    pub(crate) listens: bool,
}

impl Recipe {
    /// Reads it from a running VMM, whose root was made from the library's.
    pub(crate) fn of_process(pid: u32, library: &Library) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        let command_line = read("cmdline")?;
        let mut words = command_line.split_terminator('\0').map(str::to_owned);
        let program = words.next().context("the VMM has a command line")?;
        let theirs = mountinfo::parse(&read("mountinfo")?);
        let ours = mountinfo::parse(&fs::read_to_string("/proc/self/mountinfo")?);
        let below = |directory: &'static str| {
            theirs.iter().filter(move |mount| mount.point.parent() == Some(Path::new(directory)))
        };
        let files = below(FILES).map(|mount| {
            let source = mountinfo::path_of(mount, &ours);
            let source = source.with_context(|| format!("{} is not ours to see", mount.point.display()))?;
            Ok(Shown { source, inside: mount.point.clone() })
        });
        let devices = below("/dev").filter_map(|mount| Some(mount.point.file_name()?.to_str()?.to_owned()));
        let root = fs::canonicalize(library.vmm().join("qemu")).context("find the VMM root")?.join("root");
        Ok(Self {
            root,
            program: program.into(),
            arguments: words.collect(),
            files: files.collect::<anyhow::Result<_>>()?,
            devices: devices.collect(),
        })
    }

    /// The value behind an option, the first time it stands there.
    pub(crate) fn option<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.options(name).next().map(|(_, value)| value)
    }

    fn options<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        let pairs = self.arguments.iter().zip(self.arguments.iter().skip(1)).enumerate();
        pairs
            .filter(move |(_, (option, _))| *option == name)
            .map(|(index, (_, value))| (index + 1, value.as_str()))
    }

    /// The descriptors it inherits, in the order of the command line.
    pub(crate) fn inherited(&self) -> Vec<Inherited> {
        let uses = |option: &'static str, id: &str, text: &str| {
            self.options(option).any(|(_, value)| part(value, "chardev") == Some(id) && value.contains(text))
        };
        let chardevs = self.options("-chardev").filter(|(_, value)| part(value, "fd").is_some()).map(
            |(argument, value)| {
                let id = part(value, "id").unwrap_or_default();
                let purpose = if uses("-mon", id, "") {
                    Purpose::Monitor
                } else if uses("-device", id, PORT_NAME) {
                    Purpose::Agent
                } else {
                    Purpose::Console
                };
                Inherited { argument, purpose, listens: part(value, "server") == Some("on") }
            },
        );
        let sets = self.options("-add-fd").map(|(argument, _)| Inherited {
            argument,
            purpose: Purpose::State,
            listens: false,
        });
        let mut all: Vec<Inherited> = chardevs.chain(sets).collect();
        all.sort_by_key(|inherited| inherited.argument);
        all
    }

    /// An argument that names a descriptor, with another number in its place.
    pub(crate) fn with_descriptor(&self, argument: usize, number: i32) -> String {
        let part =
            |part: &str| if part.starts_with("fd=") { format!("fd={number}") } else { part.to_owned() };
        self.arguments[argument].split(',').map(part).collect::<Vec<_>>().join(",")
    }

    /// Where the device state is loaded from, as the monitor is told.
    pub(crate) fn state_address(&self) -> Option<String> {
        let set = part(self.option("-add-fd")?, "set")?;
        Some(format!("file:/dev/fdset/{set}"))
    }

    /// The device state on the host: it lies beside the template's memory.
    pub(crate) fn state(&self) -> anyhow::Result<PathBuf> {
        let beside = self.files.iter().map(|file| file.source.with_file_name(STATE));
        let found = beside.into_iter().find(|path| path.is_file());
        found.context("no file shown to the VMM has a device state beside it")
    }

    /// The command line as a person would type it.
    pub(crate) fn text(&self) -> String {
        let quoted = |word: &String| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+@".contains(c);
            if word.chars().all(plain) { word.clone() } else { format!("'{word}'") }
        };
        let words = std::iter::once(self.program.display().to_string());
        words.chain(self.arguments.iter().map(quoted)).collect::<Vec<_>>().join(" ")
    }

    /// That it can be driven without the product.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let inherited = self.inherited();
        for wanted in [Purpose::Monitor, Purpose::Agent] {
            let found = inherited.iter().any(|one| one.purpose == wanted);
            ensure!(found, "the VMM's command line has no descriptor for {wanted:?}: {}", self.text());
        }
        Ok(())
    }
}

/// The value of `name=` in a comma-separated option.
fn part<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// What the VMM root says about its VMM.
pub(crate) fn vmm_version(library: &Library) -> anyhow::Result<String> {
    let path = library.vmm().join("qemu/manifest.json");
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(serde_json::from_slice::<VmmRootManifest>(&text)?.version_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(line: &str) -> Recipe {
        let arguments = line.split(' ').map(str::to_owned).collect();
        Recipe {
            root: "/r".into(),
            program: "/usr/bin/qemu".into(),
            arguments,
            files: vec![],
            devices: vec![],
        }
    }

    const LINE: &str = "-chardev socket,id=q,fd=5,server=on,wait=off -mon chardev=q,mode=control \
        -chardev socket,id=a,fd=6,server=on,wait=off -device virtserialport,chardev=a,name=outlast.agent \
        -chardev socket,id=c,fd=7 -serial chardev:c -add-fd fd=8,set=3,opaque=state -append a=1,fd=9";

    #[test]
    fn what_descriptors_are_for_stands_on_the_command_line() {
        let found: Vec<(Purpose, bool)> =
            recipe(LINE).inherited().iter().map(|one| (one.purpose, one.listens)).collect();
        let wanted = [
            (Purpose::Monitor, true),
            (Purpose::Agent, true),
            (Purpose::Console, false),
            (Purpose::State, false),
        ];
        assert_eq!(found, wanted);
        assert!(recipe(LINE).check().is_ok() && recipe("-m 64").check().is_err());
    }

    #[test]
    fn only_the_number_of_a_descriptor_changes() {
        let recipe = recipe(LINE);
        let agent = recipe.inherited()[1].argument;
        assert_eq!(recipe.with_descriptor(agent, 12), "socket,id=a,fd=12,server=on,wait=off");
        assert_eq!(recipe.state_address().as_deref(), Some("file:/dev/fdset/3"));
    }

    #[test]
    fn a_command_line_can_be_typed() {
        let recipe = Recipe { arguments: vec!["-append".into(), "a b".into()], ..recipe("") };
        assert_eq!(recipe.text(), "/usr/bin/qemu -append 'a b'");
    }
}
