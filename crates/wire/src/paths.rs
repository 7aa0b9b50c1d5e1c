//! Where everything lies: pure joins of names, one function per place. Nothing here touches a disk.
//!
//! ```text
//!   HOME/outlast.db                      the store
//!   HOME/proofs                          marks a home in which fault points are honoured
//!   HOME/incarnations/INC/               evidence, kept
//!       journal.jsonl output.log console.log vmm.log runner.log
//!       exec-N.log                       what each program wrote that was run in a VM
//!       input/files/ input/stdin         what the program gets; gone at the end
//!       outputs/                         what the program handed back
//!       hold                             exists while the runner is held; removing it releases the runner
//!   HOME/vms/VM/                         what a VM keeps
//!       disk | disk-INC                  its disk: the one it was made with, or the one that INC restored
//!       snapshots/NAME/                  machine disk manifest.json
//!       snapshots/.new-SNAPSHOT/         one that is being taken
//!   RUN/INC/                             sockets and heartbeat, gone with the incarnation
//!   LIBRARY/images kernels lean boot vmm templates canary verified
//! ```
//!
//! Images and VMM roots are also looked for in libraries that are only read: the host's, which root has built. What holds
//! a guest's memory, or somebody's secrets, is in the owner's library alone.

use outlast_model::{IncarnationId, SnapshotId, SnapshotName, VmId};
use std::path::{Path, PathBuf};

/// The superuser's home.
pub const HOST_HOME: &str = "/var/lib/outlast";
/// The superuser's run directory.
pub const HOST_RUN: &str = "/run/outlast";
/// The library that the superuser's home brings along, and in which everybody looks for images.
pub const HOST_LIBRARY: &str = "/var/lib/outlast/library";

/// The places of one owner on one host: state, run directory, a library that several homes may share, and libraries
/// of others that are only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    home: PathBuf,
    run: PathBuf,
    library: PathBuf,
    only_read: Vec<PathBuf>,
}

impl Places {
    /// From three absolute directories.
    pub fn new(home: PathBuf, run: PathBuf, library: PathBuf) -> Self {
        Self { home, run, library, only_read: Vec::new() }
    }

    /// The same, with libraries of others in which images and VMM roots are looked for, after the own one.
    #[must_use]
    pub fn reading(self, libraries: Vec<PathBuf>) -> Self {
        let only_read = libraries.into_iter().filter(|path| *path != self.library).collect();
        Self { only_read, ..self }
    }

    /// The state directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The directory of run directories.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The owner's library: the only one that anything is written to.
    pub fn library(&self) -> Library {
        Library(self.library.clone())
    }

    /// The libraries of others, in the order in which they are looked at.
    pub fn only_read(&self) -> Vec<Library> {
        self.only_read.iter().cloned().map(Library).collect()
    }

    /// Every library, the owner's first.
    pub fn libraries(&self) -> Vec<Library> {
        std::iter::once(self.library()).chain(self.only_read()).collect()
    }

    /// The store's database.
    pub fn database(&self) -> PathBuf {
        self.home.join("outlast.db")
    }

    /// The file whose presence lets fault points be honoured.
    pub fn proofs_marker(&self) -> PathBuf {
        self.home.join("proofs")
    }

    /// The directory of all evidence directories.
    pub fn incarnations(&self) -> PathBuf {
        self.home.join("incarnations")
    }

    /// The evidence of one incarnation.
    pub fn evidence(&self, id: IncarnationId) -> Evidence {
        Evidence(self.incarnations().join(id.to_string()))
    }

    /// The directory of what all VMs keep.
    pub fn vms(&self) -> PathBuf {
        self.home.join("vms")
    }

    /// What one VM keeps from one incarnation to the next.
    pub fn vm(&self, id: VmId) -> VmDirectory {
        VmDirectory(self.vms().join(id.to_string()))
    }

    /// The run directory of one incarnation.
    pub fn run_directory(&self, id: IncarnationId) -> RunDirectory {
        RunDirectory(self.run.join(id.to_string()))
    }
}

macro_rules! directory {
    ($(#[$doc:meta])* $name:ident { $($(#[$entry_doc:meta])* $entry:ident = $file:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(PathBuf);

        impl $name {
            /// At this path.
            pub fn at(path: PathBuf) -> Self {
                Self(path)
            }
            /// The directory itself.
            pub fn path(&self) -> &Path {
                &self.0
            }
            $($(#[$entry_doc])* pub fn $entry(&self) -> PathBuf { self.0.join($file) })+
        }
    };
}

directory!(
    /// The evidence directory of one incarnation.
    Evidence {
        /// What the runner did, a JSON object a line.
        journal = "journal.jsonl",
        /// What the program wrote ([`crate::output_log`]).
        output_log = "output.log",
        /// What the guest's console said.
        console_log = "console.log",
        /// What the VMM said on standard error.
        vmm_log = "vmm.log",
        /// What the runner said on standard error.
        runner_log = "runner.log",
        /// Everything the program is given.
        input = "input",
        /// The files the program is given.
        input_files = "input/files",
        /// Its standard input.
        input_stdin = "input/stdin",
        /// The files the program handed back.
        outputs = "outputs",
        /// The same while they are fetched.
        partial_outputs = "outputs.partial",
        /// Exists while the runner is held.
        hold = "hold",
    }
);

impl Evidence {
    /// What the program with this number wrote that was run in a VM ([`crate::output_log`]).
    pub fn exec_log(&self, exec: u32) -> PathBuf {
        self.0.join(format!("exec-{exec}.log"))
    }

    /// How the detached program with this number ended ([`crate::exec_end`]); not there while that is not known.
    pub fn exec_end(&self, exec: u32) -> PathBuf {
        self.0.join(format!("exec-{exec}.end"))
    }
}

directory!(
    /// What a VM keeps.
    VmDirectory {
        /// The disk it was made with.
        disk = "disk",
        /// Its snapshots, by name.
        snapshots = "snapshots",
    }
);

/// Before the incarnation in the name of a disk that was restored.
const RESTORED_DISK: &str = "disk-";
/// Before the id in the name of a snapshot that is being taken. No snapshot's name begins with a dot.
const NEW_SNAPSHOT: &str = ".new-";

impl VmDirectory {
    /// Its disk: the one that this incarnation restored, or the one it was made with.
    pub fn disk_of(&self, restored_by: Option<IncarnationId>) -> PathBuf {
        restored_by.map_or_else(|| self.disk(), |id| self.0.join(format!("{RESTORED_DISK}{id}")))
    }

    /// Which disk a file of this name is: `Some(None)` the one it was made with, `Some(Some(…))` one that was restored.
    pub fn disk_named(name: &str) -> Option<Option<IncarnationId>> {
        match name.strip_prefix(RESTORED_DISK) {
            Some(id) => id.parse().ok().map(Some),
            None => (name == "disk").then_some(None),
        }
    }

    /// One of its snapshots.
    pub fn snapshot(&self, name: &SnapshotName) -> SnapshotDirectory {
        SnapshotDirectory::at(self.snapshots().join(name.as_str()))
    }

    /// A snapshot that is being taken, before it has its name.
    pub fn new_snapshot(&self, id: SnapshotId) -> SnapshotDirectory {
        SnapshotDirectory::at(self.snapshots().join(format!("{NEW_SNAPSHOT}{id}")))
    }

    /// Whose directory this name is, if it is that of a snapshot that is being taken.
    pub fn new_snapshot_named(name: &str) -> Option<SnapshotId> {
        name.strip_prefix(NEW_SNAPSHOT)?.parse().ok()
    }
}

directory!(
    /// One snapshot of a VM.
    SnapshotDirectory {
        /// Its devices and its memory, as its VMM writes them.
        machine = "machine",
        /// Its disk.
        disk = "disk",
        /// What it is ([`crate::snapshot`]); written last.
        manifest = "manifest.json",
    }
);

directory!(
    /// The run directory of one incarnation.
    RunDirectory {
        /// The runner's control socket.
        control_socket = "control.sock",
        /// The VMM's monitor.
        monitor_socket = "qmp.sock",
        /// The guest link.
        agent_socket = "agent.sock",
        /// Touched by the runner once a second.
        heartbeat = "heartbeat",
    }
);

directory!(
    /// The library: what several homes of one owner may share.
    Library {
        /// Images, by name.
        images = "images",
        /// Guest kernels with their modules, by package version; images share them.
        kernels = "kernels",
        /// The guest kernel that outlast builds itself.
        lean = "lean",
        /// Initial RAM file systems, by digest.
        boot = "boot",
        /// VMM roots, by backend.
        vmm = "vmm",
        /// Templates, by key.
        templates = "templates",
        /// Results of canary boots.
        canary = "canary",
        /// Stamps of files whose digests were verified.
        verified = "verified",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_vms_directory_is_told_by_its_name() {
        let directory = VmDirectory::at("/h/vms/v".into());
        let id = IncarnationId::from_parts(1, 2);
        for disk in [None, Some(id)] {
            let path = directory.disk_of(disk);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(VmDirectory::disk_named(name), Some(disk));
        }
        for other in ["disk-", "disk-x", "diskette", "snapshots", ".disk.new"] {
            assert_eq!(VmDirectory::disk_named(other), None, "{other}");
        }
        let snapshot = SnapshotId::from_parts(3, 4);
        let path = directory.new_snapshot(snapshot);
        let name = path.path().file_name().unwrap().to_str().unwrap();
        assert_eq!(VmDirectory::new_snapshot_named(name), Some(snapshot));
        assert_eq!(VmDirectory::new_snapshot_named("before-upgrade"), None);
        assert!(name.parse::<SnapshotName>().is_err(), "nobody can name one so");
    }
}
