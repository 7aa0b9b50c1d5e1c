//! The runner's control socket: what a client may ask of a running incarnation.
//!
//! ```text
//!   frame  = length u32 BE · JSON[length]        length ≤ MAX_FRAME
//!   client → Greeting · Request*      runner → Greeting · Answer*     (one answer a request, in order)
//! ```
//!
//! A running runner survives an upgrade of the command line: both sides say their generation first, and a
//! client speaks the older one's. Unknown requests are answered, not hung up on.
//!
//! Generation 3 takes snapshots of VMs. Generation 2 is what runners of VMs speak. A connection on which a program was started in the guest
//! ([`Request::Exec`]) is that program's from then on: its input, its signals and the size of its terminal go up and are
//! not answered one by one, and [`Answer::ExecEnded`] comes once, when it is over. What the program writes never comes
//! this way: the runner appends it to the log that [`Answer::ExecStarted`] names, and the client follows that, so that
//! no client's slowness reaches the guest. A client that hangs up ends its program unless it was detached.

use crate::identity::ProcessIdentity;
use crate::record::OutcomeRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;

/// Longest JSON text in a frame, in bytes.
pub const MAX_FRAME: usize = 1024 * 1024;
/// The generation spoken by this build.
pub const GENERATION: u32 = 3;
/// The oldest generation whose runners do what is asked of VMs.
pub const GENERATION_OF_VMS: u32 = 2;
/// The oldest generation whose runners take snapshots.
pub const GENERATION_OF_SNAPSHOTS: u32 = 3;
/// So much input for a program at most in one request, in bytes: its text fits a frame.
pub const STDIN_CHUNK: usize = 256 * 1024;

/// First in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The sender's generation.
    pub generation: u32,
    /// The sender's version, for people.
    pub version: String,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum Request {
    /// Are you there?
    Ping,
    /// Is the agent in the guest there? The runner asks it, whatever else it does meanwhile.
    Probe,
    /// End the workload now; its outcome is `killed`, unless it ended first. A VM ends by the last rung of its ladder.
    Kill,
    /// How is the VM?
    Status,
    /// Stop the VM, rung by rung. Its end is seen in the store.
    Stop {
        /// Begin with the rung that cannot fail.
        force: bool,
        /// How long all rungs together may take, in milliseconds; the last begins at their end.
        timeout_ms: u64,
    },
    /// Let the VM's virtual CPUs stand still.
    Pause,
    /// Let them run again; answered once the guest is certified anew.
    Resume,
    /// Write the VM's devices, memory and disk into a directory. Answered by [`Answer::Snapshotted`] when they are synced
    /// there and the VM is what it was before, running and certified anew or paused; within
    /// [`outlast_model::timeout::of_state`] of the machine's memory and its disk's allocated bytes, and
    /// [`outlast_model::timeout::VM_REQUEST`]. Refused, the VM goes on as well, and what is in the directory is nothing.
    Snapshot {
        /// It exists, is absolute, nobody else's, and empty ([`crate::paths::VmDirectory::new_snapshot`]).
        directory: PathBuf,
    },
    /// Pass a command on to the VMM's monitor.
    Monitor {
        /// A QMP command: its name, or the whole JSON object.
        command: String,
    },
    /// Keys for the guest's serial console. What it says to them is in its log.
    Type {
        /// At most [`STDIN_CHUNK`] bytes.
        #[serde(with = "crate::base64")]
        data: Vec<u8>,
    },
    /// Run a program in the VM.
    Exec(ExecRequest),
    /// Input for the connection's program.
    Stdin {
        /// Its number.
        exec: u32,
        /// At most [`STDIN_CHUNK`] bytes.
        #[serde(with = "crate::base64")]
        data: Vec<u8>,
        /// Whether its input ends here.
        last: bool,
    },
    /// A signal for the connection's program.
    Signal {
        /// Its number.
        exec: u32,
        /// The signal's number.
        number: i32,
    },
    /// The client's terminal has another size now.
    Resize {
        /// The program's number.
        exec: u32,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
}

/// A program to be run in a VM. Values of its environment may be secrets and are not in its debug output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables beside those that every program has there, `KEY=VALUE`.
    pub env: Vec<String>,
    /// Working directory; the user's home when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// `USER` or `USER:GROUP`, names or numbers as the guest knows them; root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether input will come; otherwise it reads /dev/null.
    pub stdin: bool,
    /// Whether it gets a terminal, on which its two streams become one.
    pub pty: bool,
    /// Rows of that terminal.
    #[serde(default)]
    pub rows: u16,
    /// Columns of that terminal.
    #[serde(default)]
    pub columns: u16,
    /// How long it may run, in milliseconds; as long as it likes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether it goes on when the client hangs up.
    pub detach: bool,
    /// How much of its output is kept, in bytes; the limit of workloads when absent. Whoever asks for more takes what it
    /// has read out of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_limit: Option<u64>,
}

impl fmt::Debug for ExecRequest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |assignment: &String| format!("{}=…", assignment.split('=').next().unwrap_or_default());
        let Self { argv, env, cwd, user, stdin, pty, rows, columns, timeout_ms, detach, output_limit } = self;
        out.debug_struct("ExecRequest")
            .field("argv", argv)
            .field("env", &env.iter().map(name).collect::<Vec<_>>())
            .field("cwd", cwd)
            .field("user", user)
            .field("stdin", stdin)
            .field("pty", pty)
            .field("rows", rows)
            .field("columns", columns)
            .field("timeout_ms", timeout_ms)
            .field("detach", detach)
            .field("output_limit", output_limit)
            .finish()
    }
}

/// What the runner answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// I am.
    Pong {
        /// The incarnation.
        incarnation: String,
        /// The workload's state as the runner knows it.
        state: String,
    },
    /// The guest's agent answered.
    Probed {
        /// How long the round trip through the guest took, in microseconds.
        round_trip_us: u64,
    },
    /// The request was taken; its effect follows, and is seen in the store.
    Accepted,
    /// How the VM is.
    Status {
        /// The incarnation.
        incarnation: String,
        /// The VM's state as the runner knows it.
        state: String,
        /// Since when, in nanoseconds since the Unix epoch.
        since_unix_ns: u64,
        /// The VMM's process, its pid as the host sees it.
        vmm: Option<ProcessIdentity>,
        /// How many programs run in it that were asked for here.
        execs: u32,
    },
    /// The snapshot's files are there, synced. Nobody has named or hashed them yet.
    Snapshotted {
        /// For so long the vCPUs stood still because of it, in microseconds; zero when the VM was paused.
        paused_us: u64,
        /// The length of the devices and the memory, in bytes.
        machine_bytes: u64,
        /// The length of the disk's file, in bytes; holes count.
        disk_bytes: u64,
    },
    /// What the VMM's monitor said.
    Monitor {
        /// Its answer, or its error, as it came.
        said: Value,
    },
    /// The program runs.
    ExecStarted {
        /// Its number, within the incarnation.
        exec: u32,
        /// Where what it writes is appended ([`crate::output_log`]).
        log: PathBuf,
    },
    /// The program's log has grown. Only the newest length is told, so that whoever reads slowly is told less.
    ExecOutput {
        /// The program's number.
        exec: u32,
        /// The length of its log, in bytes.
        log_bytes: u64,
    },
    /// The program is over.
    ExecEnded {
        /// Its number.
        exec: u32,
        /// How it ended.
        outcome: OutcomeRecord,
        /// The length of its log, of which nothing more will be written, in bytes.
        log_bytes: u64,
    },
    /// The request was not taken.
    Refused {
        /// Why.
        cause: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> ExecRequest {
        ExecRequest {
            argv: vec!["sh".to_owned()],
            env: vec!["TOKEN=hunter2".to_owned()],
            cwd: None,
            user: Some("1000:1000".to_owned()),
            stdin: true,
            pty: true,
            rows: 24,
            columns: 80,
            timeout_ms: None,
            detach: false,
            output_limit: None,
        }
    }

    fn requests() -> Vec<Request> {
        vec![
            Request::Ping,
            Request::Probe,
            Request::Kill,
            Request::Status,
            Request::Stop { force: false, timeout_ms: 10_000 },
            Request::Pause,
            Request::Resume,
            Request::Snapshot { directory: "/h/vms/v/snapshots/.new-s".into() },
            Request::Monitor { command: "query-status".to_owned() },
            Request::Type { data: b"\r".to_vec() },
            Request::Exec(exec()),
            Request::Stdin { exec: 1, data: b"ls\n".to_vec(), last: false },
            Request::Signal { exec: 1, number: 2 },
            Request::Resize { exec: 1, rows: 25, columns: 132 },
        ]
    }

    fn answers() -> Vec<Answer> {
        let outcome = OutcomeRecord::from(&outlast_model::Outcome::Exited { code: 3 });
        vec![
            Answer::Pong { incarnation: "i".to_owned(), state: "running".to_owned() },
            Answer::Probed { round_trip_us: 5 },
            Answer::Accepted,
            Answer::Status {
                incarnation: "i".to_owned(),
                state: "running".to_owned(),
                since_unix_ns: 1,
                vmm: None,
                execs: 2,
            },
            Answer::Snapshotted { paused_us: 7, machine_bytes: 1, disk_bytes: 2 },
            Answer::Monitor { said: serde_json::json!({ "return": {} }) },
            Answer::ExecStarted { exec: 1, log: "/e/exec-1.log".into() },
            Answer::ExecOutput { exec: 1, log_bytes: 98 },
            Answer::ExecEnded { exec: 1, outcome, log_bytes: 99 },
            Answer::Refused { cause: "no".to_owned() },
        ]
    }

    /// Runners live long: what is written here today is read by another version tomorrow.
    #[test]
    fn what_is_said_stays_readable() {
        let lines = |values: Vec<String>| values.join("\n");
        let asked = lines(requests().iter().map(|r| serde_json::to_string(r).unwrap()).collect());
        let answered = lines(answers().iter().map(|a| serde_json::to_string(a).unwrap()).collect());
        insta::assert_snapshot!(format!("{asked}\n\n{answered}\n"));
        for (line, request) in asked.lines().zip(requests()) {
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        for (line, answer) in answered.lines().zip(answers()) {
            assert_eq!(serde_json::from_str::<Answer>(line).unwrap(), answer);
        }
    }

    #[test]
    fn debug_output_keeps_the_environment_to_itself() {
        let shown = format!("{:?}", Request::Exec(exec()));
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn the_largest_chunk_of_input_fits_a_frame() {
        let chunk = Request::Stdin { exec: u32::MAX, data: vec![0xff; STDIN_CHUNK], last: false };
        assert!(serde_json::to_vec(&chunk).unwrap().len() < MAX_FRAME);
    }
}
