//! What an inventory lists: typed names of things, and the kinds they belong to.

use std::fmt;
use std::path::PathBuf;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// A kind of thing that can be left behind.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $variant),+ }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The words used in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

kinds! {
    /// A living process, in our PID namespace or one nested in it.
    Process = "process",
    /// A process that is dead and that nobody has waited for.
    Zombie = "zombie",
    /// A network interface: tap, veth end, bridge, anything but loopback.
    Link = "network link",
    /// A network namespace: of a process, mounted somewhere, or held open.
    NetworkNamespace = "network namespace",
    /// A mount in any mount namespace of a visible process.
    Mount = "mount",
    /// A cgroup directory.
    Cgroup = "cgroup",
    /// A bound Unix socket in any network namespace we can reach.
    Socket = "socket",
    /// A file, with its size.
    File = "file",
    /// A directory.
    Directory = "directory",
    /// A socket file, symbolic link, pipe or device node.
    Special = "special file",
    /// A loop device over a file of ours.
    LoopDevice = "loop device",
    /// A line of an nftables rule set.
    NftRule = "nft rule",
    /// A file that a long-lived process holds open.
    OpenFile = "open file",
    /// Memory with a name: a file on a shared-memory mount, a System V segment.
    MemoryFile = "memory file",
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// One thing, by a name that no other thing has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the fields are the names of what the variant says")]
pub enum Item {
    /// The start time (clock ticks since boot) tells it from a later process with its pid.
    Process { pid: u32, start_time: u64, comm: String },
    /// See [`Kind::Zombie`].
    Zombie { pid: u32, start_time: u64, comm: String },
    /// In the network namespace with this inode.
    Link { namespace: u64, name: String },
    /// By its inode.
    NetworkNamespace { inode: u64 },
    /// In the mount namespace with this inode; `layer` counts equal mounts on top of each other.
    Mount { namespace: u64, point: String, root: String, fstype: String, source: String, layer: u32 },
    /// The hierarchy is named by its mount point.
    Cgroup { hierarchy: PathBuf, path: PathBuf },
    /// A path, or `@` and an abstract name, in the network namespace with this inode.
    Socket { namespace: u64, name: String },
    /// Bytes are the file's length.
    File { path: PathBuf, bytes: u64 },
    /// See [`Kind::Directory`].
    Directory { path: PathBuf },
    /// `what` is `socket`, `symlink`, `pipe` or `device`.
    Special { path: PathBuf, what: &'static str },
    /// The device's name and the file behind it.
    LoopDevice { device: String, backing: String },
    /// Table, chain and rule, in the network namespace with this inode.
    NftRule { namespace: u64, rule: String },
    /// `target` is a path, or a word for what has none (`socket`, `pipe`, …); `count` is how many times.
    OpenFile { pid: u32, start_time: u64, target: String, count: u32 },
    /// See [`Kind::MemoryFile`].
    MemoryFile { name: String, bytes: u64 },
}

impl Item {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Process { .. } => Kind::Process,
            Self::Zombie { .. } => Kind::Zombie,
            Self::Link { .. } => Kind::Link,
            Self::NetworkNamespace { .. } => Kind::NetworkNamespace,
            Self::Mount { .. } => Kind::Mount,
            Self::Cgroup { .. } => Kind::Cgroup,
            Self::Socket { .. } => Kind::Socket,
            Self::File { .. } => Kind::File,
            Self::Directory { .. } => Kind::Directory,
            Self::Special { .. } => Kind::Special,
            Self::LoopDevice { .. } => Kind::LoopDevice,
            Self::NftRule { .. } => Kind::NftRule,
            Self::OpenFile { .. } => Kind::OpenFile,
            Self::MemoryFile { .. } => Kind::MemoryFile,
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ", self.kind())?;
        match self {
            Self::Process { pid, start_time, comm } | Self::Zombie { pid, start_time, comm } => {
                write!(out, "{pid} ({comm}), started at tick {start_time}")
            }
            Self::Link { namespace, name } | Self::Socket { namespace, name } => {
                write!(out, "{name} in net:[{namespace}]")
            }
            Self::NetworkNamespace { inode } => write!(out, "net:[{inode}]"),
            Self::Mount { namespace, point, root, fstype, source, layer } => {
                write!(out, "{point} ({fstype} {source}, root {root}, layer {layer}) in mnt:[{namespace}]")
            }
            Self::Cgroup { hierarchy, path } => write!(out, "{} in {}", path.display(), hierarchy.display()),
            Self::File { path, bytes } => write!(out, "{} ({bytes} bytes)", path.display()),
            Self::Directory { path } => write!(out, "{}", path.display()),
            Self::Special { path, what } => write!(out, "{} ({what})", path.display()),
            Self::LoopDevice { device, backing } => write!(out, "{device} over {backing}"),
            Self::NftRule { namespace, rule } => write!(out, "{rule} in net:[{namespace}]"),
            Self::OpenFile { pid, target, count, .. } => write!(out, "{target} × {count} in process {pid}"),
            Self::MemoryFile { name, bytes } => write!(out, "{name} ({bytes} bytes)"),
        }
    }
}
