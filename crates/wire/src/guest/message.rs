//! The messages of the guest link, as protobuf (proto3) messages derived by prost.
//!
//! Tags are never reused; a field that goes out of use keeps its tag reserved in a comment. What every message looks
//! like in bytes is frozen in `snapshots/`.

use prost::{Message, Oneof};

/// A frame from the host.
#[derive(Clone, PartialEq, Message)]
pub struct HostFrame {
    /// The stream this belongs to; 0 is the connection itself.
    #[prost(uint32, tag = "1")]
    pub stream: u32,
    /// What is said.
    #[prost(oneof = "HostMessage", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19")]
    pub message: Option<HostMessage>,
}

/// What the host may say.
#[derive(Clone, PartialEq, Oneof)]
pub enum HostMessage {
    /// First on every connection.
    #[prost(message, tag = "2")]
    Hello(Hello),
    /// Answered by [`Pong`] at once.
    #[prost(message, tag = "3")]
    Ping(Ping),
    /// Set the guest's real-time clock, or only read it.
    #[prost(message, tag = "4")]
    Clock(Clock),
    /// Mix entropy of the host into the guest's random pool and reseed it.
    #[prost(message, tag = "5")]
    Reseed(Reseed),
    /// Become this machine: host name, machine id.
    #[prost(message, tag = "6")]
    SetIdentity(SetIdentity),
    /// Make a file; its bytes follow as [`FileData`] on the same stream.
    #[prost(message, tag = "7")]
    PutFile(PutFile),
    /// Bytes of the file being put on this stream.
    #[prost(message, tag = "8")]
    FileData(FileData),
    /// Send back every regular file below a directory.
    #[prost(message, tag = "9")]
    GetTree(GetTree),
    /// Start a program.
    #[prost(message, tag = "10")]
    Exec(Exec),
    /// Bytes for the program's standard input.
    #[prost(message, tag = "11")]
    StdinData(StdinData),
    /// Send a signal to the program of this stream.
    #[prost(message, tag = "12")]
    Signal(Signal),
    /// Close everything that belongs to this conversation and wait for the next hello: a snapshot follows.
    #[prost(message, tag = "13")]
    Quiesce(Quiesce),
    /// End all programs, write everything to the disk and power the machine off.
    #[prost(message, tag = "14")]
    PowerOff(PowerOff),
    /// Make a directory.
    #[prost(message, tag = "15")]
    MakeDirectory(MakeDirectory),
    /// Move onto the machine's own disk.
    #[prost(message, tag = "16")]
    Settle(Settle),
    /// Another size for the terminal of this stream's program.
    #[prost(message, tag = "17")]
    Resize(Resize),
    /// Let every program stand still: the machine is paused, or a snapshot follows.
    #[prost(message, tag = "18")]
    Freeze(Freeze),
    /// Let them go on.
    #[prost(message, tag = "19")]
    Thaw(Thaw),
}

/// A frame from the guest.
#[derive(Clone, PartialEq, Message)]
pub struct GuestFrame {
    /// The stream this answers.
    #[prost(uint32, tag = "1")]
    pub stream: u32,
    /// What is said.
    #[prost(oneof = "GuestMessage", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16")]
    pub message: Option<GuestMessage>,
}

/// What the guest may say. All of it is a claim.
#[derive(Clone, PartialEq, Oneof)]
pub enum GuestMessage {
    /// Answer to [`Hello`].
    #[prost(message, tag = "2")]
    HelloAck(HelloAck),
    /// Answer to [`Ping`].
    #[prost(message, tag = "3")]
    Pong(Pong),
    /// Answer to [`Clock`].
    #[prost(message, tag = "4")]
    ClockRead(ClockRead),
    /// Answer to [`Reseed`]: entropy credited and the generator reseeded.
    #[prost(message, tag = "5")]
    Reseeded(Reseeded),
    /// Answer to [`SetIdentity`]: what the guest now is, read back.
    #[prost(message, tag = "6")]
    Identity(Identity),
    /// The request of this stream is done ([`PutFile`], [`MakeDirectory`], [`Signal`], [`Settle`], [`Resize`], [`Freeze`],
    /// [`Thaw`]),
    /// or, for [`PowerOff`], will be.
    #[prost(message, tag = "7")]
    Done(Done),
    /// The request of this stream failed; nothing more follows on it.
    #[prost(message, tag = "8")]
    Refused(Refused),
    /// More bytes may be sent on this stream.
    #[prost(message, tag = "9")]
    Credit(Credit),
    /// The program runs.
    #[prost(message, tag = "10")]
    Started(Started),
    /// Bytes the program wrote.
    #[prost(message, tag = "11")]
    Output(Output),
    /// The program ended and all its output was sent.
    #[prost(message, tag = "12")]
    Exited(Exited),
    /// A file of a [`GetTree`] begins.
    #[prost(message, tag = "13")]
    FileHeader(FileHeader),
    /// Bytes of the file that began last on this stream.
    #[prost(message, tag = "14")]
    FileData(FileData),
    /// A [`GetTree`] is complete.
    #[prost(message, tag = "15")]
    TreeDone(TreeDone),
    /// Answer to [`Quiesce`]: the last frame of this conversation.
    #[prost(message, tag = "16")]
    Quiesced(Quiesced),
}

/// Opens a connection.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// Random, 16 bytes, fresh on every connection; the answer repeats it.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
    /// The generation the host speaks ([`super::PROTOCOL`]).
    #[prost(uint32, tag = "2")]
    pub protocol: u32,
}

/// Answers [`Hello`].
#[derive(Clone, PartialEq, Message)]
pub struct HelloAck {
    /// The nonce of the hello this answers.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
    /// The generation the agent speaks.
    #[prost(uint32, tag = "2")]
    pub protocol: u32,
    /// The agent's version.
    #[prost(string, tag = "3")]
    pub agent_version: String,
    /// The guest's kernel boot id.
    #[prost(string, tag = "4")]
    pub boot_id: String,
    /// The guest's kernel release.
    #[prost(string, tag = "5")]
    pub kernel: String,
    /// Milliseconds since the guest's kernel started (CLOCK_BOOTTIME).
    #[prost(uint64, tag = "6")]
    pub uptime_ms: u64,
    /// The streams of programs that outlived the conversation before this one ([`Freeze`]). They stand still until
    /// [`Thaw`], and are streams of this conversation.
    #[prost(uint32, repeated, tag = "7")]
    pub kept: Vec<u32>,
    /// Streams up to this one were used in that conversation, and something may still be heard of them. The host opens
    /// none of them.
    #[prost(uint32, tag = "8")]
    pub last_stream: u32,
    /// What people call the programs in `kept`, in the same order, as [`Freeze`] said it; 0 is not known.
    #[prost(uint32, repeated, tag = "9")]
    pub numbers: Vec<u32>,
}

/// Asks for a [`Pong`].
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Ping {}

/// The agent's loop is alive.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Pong {}

/// Sets or reads the real-time clock.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Clock {
    /// Nanoseconds since the Unix epoch to set first; 0 reads only.
    #[prost(uint64, tag = "1")]
    pub set_unix_ns: u64,
}

/// The guest's clock after the request was carried out.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ClockRead {
    /// Nanoseconds since the Unix epoch, read just before the answer was sent.
    #[prost(uint64, tag = "1")]
    pub unix_ns: u64,
}

/// Entropy of the host.
#[derive(Clone, PartialEq, Message)]
pub struct Reseed {
    /// At least 32 and at most 512 bytes from the host's generator.
    #[prost(bytes = "vec", tag = "1")]
    pub entropy: Vec<u8>,
}

/// The pool took the entropy (RNDADDENTROPY) and the generator was reseeded (RNDRESEEDCRNG).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Reseeded {}

/// Who the guest is to be.
#[derive(Clone, PartialEq, Message)]
pub struct SetIdentity {
    /// The host name (RFC 1123 label).
    #[prost(string, tag = "1")]
    pub host_name: String,
    /// The machine id: 32 lower-case hexadecimal digits (machine-id(5)).
    #[prost(string, tag = "2")]
    pub machine_id: String,
}

/// Who the guest is, read back from its kernel and files.
#[derive(Clone, PartialEq, Message)]
pub struct Identity {
    /// The kernel's node name.
    #[prost(string, tag = "1")]
    pub host_name: String,
    /// The contents of /etc/machine-id.
    #[prost(string, tag = "2")]
    pub machine_id: String,
    /// Addresses of the guest's interfaces, in CIDR form, loopback left out.
    #[prost(string, repeated, tag = "3")]
    pub addresses: Vec<String>,
}

/// Begins a file.
#[derive(Clone, PartialEq, Message)]
pub struct PutFile {
    /// Absolute path in the guest; missing directories are made, owned like the file.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
}

/// A piece of a file.
#[derive(Clone, PartialEq, Message)]
pub struct FileData {
    /// At most [`super::MAX_CHUNK`] bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    /// True on the last piece (which may be empty).
    #[prost(bool, tag = "2")]
    pub last: bool,
}

/// Asks for all regular files below a directory.
#[derive(Clone, PartialEq, Message)]
pub struct GetTree {
    /// Absolute path in the guest. A missing directory counts as empty.
    #[prost(string, tag = "1")]
    pub path: String,
    /// The agent stops with `Refused` when the files together are larger, in bytes.
    #[prost(uint64, tag = "2")]
    pub max_bytes: u64,
    /// The agent stops with `Refused` when there are more files.
    #[prost(uint32, tag = "3")]
    pub max_files: u32,
}

/// A file of a tree begins.
#[derive(Clone, PartialEq, Message)]
pub struct FileHeader {
    /// Path relative to the directory that was asked for.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Size in bytes when it was opened.
    #[prost(uint64, tag = "3")]
    pub size: u64,
}

/// A tree is complete.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TreeDone {
    /// Files sent.
    #[prost(uint32, tag = "1")]
    pub files: u32,
    /// Bytes sent.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Entries left out because they are neither regular files nor directories, lie on another mount, or
    /// have a name that is not UTF-8.
    #[prost(uint32, tag = "3")]
    pub skipped: u32,
}

/// Makes a directory and its missing parents.
#[derive(Clone, PartialEq, Message)]
pub struct MakeDirectory {
    /// Absolute path in the guest.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
}

/// Starts a program in a cgroup of its own.
#[derive(Clone, PartialEq, Message)]
pub struct Exec {
    /// Program and arguments; the program is looked up in PATH of `env`.
    #[prost(string, repeated, tag = "1")]
    pub argv: Vec<String>,
    /// The whole environment, as KEY=VALUE.
    #[prost(string, repeated, tag = "2")]
    pub env: Vec<String>,
    /// Working directory.
    #[prost(string, tag = "3")]
    pub cwd: String,
    /// User.
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    /// `memory.max` of the cgroup, in bytes; 0 is refused: a guest out of memory livelocks without it.
    #[prost(uint64, tag = "6")]
    pub memory_max: u64,
    /// `pids.max` of the cgroup; 0 is refused.
    #[prost(uint32, tag = "7")]
    pub pids_max: u32,
    /// The agent kills the program's cgroup after this many milliseconds; 0 means no deadline.
    #[prost(uint64, tag = "8")]
    pub deadline_ms: u64,
    /// Whether [`StdinData`] will follow; without it standard input is /dev/null, or a terminal on which nobody
    /// types.
    #[prost(bool, tag = "9")]
    pub stdin: bool,
    /// Whether the program's standard streams are a terminal of its own, which is the controlling one of its
    /// session. All that is shown there is [`Output`] of descriptor 1.
    #[prost(bool, tag = "10")]
    pub pty: bool,
    /// Rows of that terminal, at most 65535; 0 means unknown. Without a terminal it means nothing.
    #[prost(uint32, tag = "11")]
    pub rows: u32,
    /// Columns of that terminal, as `rows`.
    #[prost(uint32, tag = "12")]
    pub columns: u32,
    /// A user as the guest knows it, in the place of `uid` and `gid`: `USER` or `USER:GROUP`, names of its /etc/passwd and
    /// /etc/group or numbers. The user's home becomes HOME unless `env` has one; without `GROUP` the program has the
    /// user's own group and all others that name the user. Where this is set, `uid` and `gid` are [`u32::MAX`], which an
    /// agent that does not know it refuses.
    #[prost(string, tag = "13")]
    pub user: String,
}

/// Bytes for standard input.
#[derive(Clone, PartialEq, Message)]
pub struct StdinData {
    /// At most [`super::MAX_CHUNK`] bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    /// True on the last piece: the pipe is closed after it. On a terminal, which has no end while the program
    /// lives, the end-of-file character (^D) is typed instead.
    #[prost(bool, tag = "2")]
    pub last: bool,
}

/// A signal for the program of this stream.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Signal {
    /// Linux signal number, 1 to 31; 9 kills the whole cgroup.
    #[prost(uint32, tag = "1")]
    pub number: u32,
}

/// Asks the agent to be still.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Quiesce {}

/// The agent is still; it waits for a new hello, on this connection or another.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Quiesced {}

/// Asks the machine to power off. [`Done`] comes at once; then the programs are sent TERM, and what they still say and
/// how they end is told as ever, until the last has ended or `grace_ms` have passed. What is left is killed, the
/// machine's own disk is written out and made read-only, and the machine switched off.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PowerOff {
    /// How long programs may take to end after TERM, in milliseconds; 0 kills them without it. More than 60000 is
    /// taken for 60000.
    #[prost(uint32, tag = "1")]
    pub grace_ms: u32,
}

/// Moves the guest onto a disk of its own: the image stays below, what is written from now on goes to the disk, and
/// both together become the root of the agent and of all later programs. /proc, /sys, /dev, /run, /tmp and the
/// directories below /outlast stay what they are. What was written to the root before is left behind, but for the
/// machine's identity, which is written again.
///
/// Answered by [`Done`] or [`Refused`]; refused, everything is as before. Asked again for the same disk it is [`Done`];
/// for another one, or while a program runs, it is refused with EBUSY.
#[derive(Clone, PartialEq, Message)]
pub struct Settle {
    /// The block device (`/dev/vdb`). It holds an ext4 file system, which is neither made nor grown here.
    #[prost(string, tag = "1")]
    pub device: String,
    /// The device's size in bytes, which the guest may not have noticed yet: it is waited for.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// `memory.max` of a shell that is offered on the serial console from then on, in bytes; 0 offers none.
    #[prost(uint64, tag = "3")]
    pub console_memory_max: u64,
    /// `pids.max` of that shell.
    #[prost(uint32, tag = "4")]
    pub console_pids_max: u32,
}

/// Another size for the terminal of this stream's program, which hears of it (SIGWINCH). Answered on the same stream by
/// [`Done`] or [`Refused`]: ENOTTY when the program has no terminal, ESRCH when there is no program.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Resize {
    /// As [`Exec::rows`].
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// As [`Exec::columns`].
    #[prost(uint32, tag = "2")]
    pub columns: u32,
}

/// Asks that no program runs: their cgroup is frozen, and stays so in a snapshot that is taken then. [`Done`] says that
/// all stand still; [`Refused`], with ETIMEDOUT, that one did not, and that all go on.
///
/// If the next thing heard is another host's [`Hello`], because this is a snapshot of the guest, the programs of the
/// streams in `keep` are kept for that host; everything else of the conversation ends as ever.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Freeze {
    /// The streams of programs that nobody waits for.
    #[prost(uint32, repeated, tag = "1")]
    pub keep: Vec<u32>,
    /// What people call them, in the same order: the agent passes it on and understands nothing of it.
    #[prost(uint32, repeated, tag = "2")]
    pub numbers: Vec<u32>,
}

/// Asks that programs go on, if they stand still.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Thaw {}

/// Success without a value.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Done {}

/// A failure.
#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    /// What was attempted, in the agent's words.
    #[prost(string, tag = "1")]
    pub operation: String,
    /// The Linux error number, or 0 when there is none.
    #[prost(int32, tag = "2")]
    pub errno: i32,
    /// Why, in the agent's words.
    #[prost(string, tag = "3")]
    pub cause: String,
}

/// Permission to send more.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Credit {
    /// Bytes, added to what is left.
    #[prost(uint32, tag = "1")]
    pub bytes: u32,
}

/// A program runs.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Started {
    /// Its process id in the guest.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
}

/// Bytes a program wrote.
#[derive(Clone, PartialEq, Message)]
pub struct Output {
    /// 1 standard output, 2 standard error.
    #[prost(uint32, tag = "1")]
    pub descriptor: u32,
    /// At most [`super::MAX_CHUNK`] bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Exited {
    /// Exit code, when it exited.
    #[prost(int32, optional, tag = "1")]
    pub code: Option<i32>,
    /// Signal number, when a signal killed it.
    #[prost(int32, optional, tag = "2")]
    pub signal: Option<i32>,
    /// The kernel killed something in its cgroup for want of memory (memory.events, oom_kill).
    #[prost(bool, tag = "3")]
    pub out_of_memory: bool,
    /// The agent killed it at its deadline.
    #[prost(bool, tag = "4")]
    pub deadline_passed: bool,
    /// Microseconds from start to end on the guest's monotonic clock.
    #[prost(uint64, tag = "5")]
    pub wall_us: u64,
}
