//! Where a file that is bound into another mount namespace lies in ours, by mountinfo (proc(5)).

use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The file system: `major:minor`.
    device: String,
    /// What of that file system is mounted.
    root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
}

/// The mounts of a mountinfo file; lines that are not mounts are left out.
pub(crate) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(mount_of).collect()
}

fn mount_of(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ').skip(2);
    let mut next = || fields.next().map(unescaped);
    let (device, root, point) = (next()?, next()?, next()?);
    Some(Mount { device, root: root.into(), point: point.into() })
}

/// Blanks and backslashes are written as three octal digits.
fn unescaped(field: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The path, through the mounts of `ours`, of what `mount` shows.
pub(crate) fn path_of(mount: &Mount, ours: &[Mount]) -> Option<PathBuf> {
    let holds =
        |candidate: &&Mount| candidate.device == mount.device && mount.root.starts_with(&candidate.root);
    let nearest = ours.iter().filter(holds).max_by_key(|candidate| candidate.root.components().count())?;
    let below = mount.root.strip_prefix(&nearest.root).ok()?;
    Some(if below == Path::new("") { nearest.point.clone() } else { nearest.point.join(below) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /run rw - tmpfs tmpfs rw
31 22 254:9 /sub /mnt/a\\040b rw - ext4 /dev/vdb rw
";

    #[test]
    fn a_bound_file_is_found_through_the_mount_that_holds_its_file_system() {
        let ours = parse(OURS);
        let bound = parse("40 39 254:0 /var/lib/x /vm/rootfs ro - ext4 /dev/vda rw\n").remove(0);
        assert_eq!(
            (bound.point.as_path(), path_of(&bound, &ours)),
            (Path::new("/vm/rootfs"), Some("/var/lib/x".into()))
        );
        let bound = parse("40 39 254:9 /sub/y /vm/y ro - ext4 /dev/vdb rw\n").remove(0);
        assert_eq!(path_of(&bound, &ours), Some("/mnt/a b/y".into()));
    }

    #[test]
    fn what_we_do_not_mount_has_no_path() {
        let bound = parse("40 39 254:9 /other /vm/y ro - ext4 /dev/vdb rw\n").remove(0);
        assert_eq!(path_of(&bound, &parse(OURS)), None);
        assert!(parse("rubbish\n\n1 2").is_empty());
    }
}
