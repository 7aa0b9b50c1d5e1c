//! The options of the agent on the kernel's command line. There is one:
//!
//! * `outlast.root=DEVICE`: this block device holds the root file system, and the boot fails without it;
//!   `outlast.root=none`: stay in the initramfs. Without the option a first virtio disk is used if there is one.

use std::path::PathBuf;

/// Every option of ours begins so.
const PREFIX: &str = "outlast.";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// Which root disk.
    pub(super) root: RootDisk,
}

/// Which disk becomes the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RootDisk {
    /// None: everything stays in the initramfs.
    None,
    /// The usual one, if it is there.
    IfPresent,
    /// This one.
    Required(PathBuf),
}

/// Reads the options, and says what it did not understand. The last of several wins, as with the kernel's own.
pub(super) fn parse(text: &str) -> (Options, Vec<String>) {
    let mut options = Options { root: RootDisk::IfPresent };
    let mut complaints = Vec::new();
    for word in text.split_ascii_whitespace().filter(|word| word.starts_with(PREFIX)) {
        match word.split_once('=') {
            Some(("outlast.root", "none")) => options.root = RootDisk::None,
            Some(("outlast.root", device)) if is_device(device) => {
                options.root = RootDisk::Required(PathBuf::from(device));
            }
            _ => complaints.push(format!("option {word:?} on the kernel command line is not understood")),
        }
    }
    (options, complaints)
}

fn is_device(path: &str) -> bool {
    path.strip_prefix("/dev/")
        .is_some_and(|name| !name.is_empty() && !name.split('/').any(|part| part == ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> RootDisk {
        let (options, complaints) = parse(text);
        assert_eq!(complaints, Vec::<String>::new());
        options.root
    }

    #[test]
    fn the_root_disk_is_named_or_none_or_whatever_is_there() {
        assert_eq!(root("console=ttyS0 quiet\n"), RootDisk::IfPresent);
        assert_eq!(root("outlast.root=/dev/vdb quiet"), RootDisk::Required("/dev/vdb".into()));
        assert_eq!(root("outlast.root=none"), RootDisk::None);
        assert_eq!(root("outlast.root=none outlast.root=/dev/vda"), RootDisk::Required("/dev/vda".into()));
    }

    #[test]
    fn what_is_not_understood_is_said_and_changes_nothing() {
        for text in
            ["outlast.root", "outlast.root=", "outlast.root=vda", "outlast.root=/dev/../etc", "outlast.x=1"]
        {
            let (options, complaints) = parse(text);
            assert_eq!((options.root, complaints.len()), (RootDisk::IfPresent, 1), "{text}");
        }
    }
}
