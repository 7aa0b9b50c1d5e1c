//! Somebody strange in a runner's place, whom the store calls the runner: one that answers nonsense, an older one, a newer
//! one. What it says is not believed, and whoever asks is told; with nonsense a stop does not wait for sense.

use outlast_e2e::{Lab, on_lab, until};
use outlast_wire::control::{GENERATION, Greeting, Request};
use outlast_wire::paths::RunDirectory;
use outlast_wire::vm_live_view::VmPingView;
use outlast_wire::vm_view::VmStoppedView;
use rusqlite::{Connection, params};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// Where it listens, and what it is like, with a line's end between.
const STAND_IN: &str = "OUTLAST_E2E_STAND_IN";

/// The program that stands in a runner's place, when it is started as such; otherwise nothing.
#[test]
#[ignore = "it is no test: those beside it start it"]
fn stand_in() {
    let Ok(order) = std::env::var(STAND_IN) else { return };
    let (path, manner) = order.split_once('\n').expect("a path and a manner");
    let listener = UnixListener::bind(path).expect("nobody listens there");
    for client in listener.incoming() {
        // A client that hangs up is as good as served.
        let _ = client.and_then(|client| serve(client, manner));
    }
}

fn serve(mut client: UnixStream, manner: &str) -> io::Result<()> {
    let _theirs = hear(&mut client)?;
    let generation = match manner {
        "older" => 1,
        "newer" => GENERATION + 7,
        _ => GENERATION,
    };
    say(&mut client, &serde_json::to_vec(&Greeting { generation, version: manner.to_owned() })?)?;
    loop {
        let request = hear(&mut client)?;
        let answer: &[u8] = match (manner, serde_json::from_slice(&request)) {
            ("nonsense", _) => b"\x00certainly!",
            (_, Ok(Request::Ping)) => {
                br#"{"answer":"pong","incarnation":"x","state":"running","mood":"good"}"#
            }
            (_, Ok(Request::Probe)) => br#"{"answer":"probed","round_trip_us":7,"mood":"good"}"#,
            _ => br#"{"answer":"danced","steps":3}"#,
        };
        say(&mut client, answer)?;
    }
}

fn hear(client: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?];
    client.read_exact(&mut body)?;
    Ok(body)
}

fn say(client: &mut UnixStream, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    client.write_all(&[&length.to_be_bytes(), body].concat())
}

/// It is killed when the test is over.
struct StandIn(Child);

impl StandIn {
    /// In the place of the runner of `web`, which is killed.
    fn of(lab: &Lab, manner: &str) -> Self {
        let started = lab.running_vm("web");
        let directory: RunDirectory = lab.places().run_directory(started.incarnation.parse().expect("an id"));
        let socket = directory.control_socket();
        let (runner, vmm) = lab.processes_of("web");
        runner.kill();
        until("the kernel has taken its VMM along", SOON, || vmm.is_dead().then_some(()));
        fs::remove_file(&socket).expect("it has left its socket");
        let this = std::env::current_exe().expect("a test knows its own program");
        let child = Command::new(this)
            .args(["--exact", "stand_in", "--ignored"])
            .env(STAND_IN, format!("{}\n{manner}", socket.display()))
            .stdout(Stdio::null())
            .spawn()
            .expect("it can be started");
        let stand_in = Self(child);
        until("it listens", SOON, || socket.exists().then_some(()));
        stand_in.is_the_runner(&lab.places().database());
        stand_in
    }

    fn is_the_runner(&self, database: &Path) {
        let pid = self.0.id();
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let (_, fields) = line.rsplit_once(')').expect("a name in brackets");
        let start: i64 =
            fields.split_whitespace().nth(19).and_then(|field| field.parse().ok()).expect("a start time");
        let namespace = fs::metadata(format!("/proc/{pid}/ns/pid")).expect("it lives").ino();
        let namespace = i64::try_from(namespace).expect("a number of an inode");
        let store = Connection::open(database).expect("the store can be opened");
        store.busy_timeout(SOON).expect("a timeout can be set");
        let forged = store.execute(
            "UPDATE incarnations SET runner_pid = ?1, runner_start_time = ?2, runner_pid_namespace = ?3 \
             WHERE state <> 'ended'",
            params![pid, start, namespace],
        );
        assert_eq!(forged.expect("the store can be written"), 1);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_runner_that_answers_nonsense_is_not_believed_and_a_stop_does_without_it() {
    on_lab(|lab| {
        let mut stand_in = StandIn::of(lab, "nonsense");
        for words in
            [&["vm", "ping", "web"][..], &["vm", "pause", "web"], &["vm", "monitor", "web", "query-status"]]
        {
            lab.outlast(words).expect_code(1).expect_stderr(&["runner of web", "answer is not one"]);
        }
        lab.sh("web", "true").expect_code(125).expect_stderr(&["answer is not one"]);
        let stopped: VmStoppedView = lab.outlast(&["vm", "stop", "--json", "web"]).expect_code(0).json();
        let death = stopped.death.expect("a death certificate");
        assert_eq!(death.cause, "runner_killed");
        assert!(death.evidence.join("; ").contains("made no sense"), "{death:?}");
        assert!(
            stand_in.0.try_wait().expect("it is our own child").is_some(),
            "the store called it the runner"
        );
        lab.start_vm("web");
    });
}

#[test]
fn an_older_runner_is_told_apart_from_one_that_does_not_answer() {
    on_lab(|lab| {
        let _stand_in = StandIn::of(lab, "older");
        for words in [&["vm", "ping", "web"], &["vm", "pause", "web"]] {
            lab.outlast(words).expect_code(1).expect_stderr(&["generation 1", "older version"]);
        }
    });
}

#[test]
fn a_newer_runner_is_understood_where_it_says_what_is_known() {
    on_lab(|lab| {
        let _stand_in = StandIn::of(lab, "newer");
        let view: VmPingView = lab.outlast(&["vm", "ping", "--json", "web"]).expect_code(0).json();
        assert_eq!((view.state.as_str(), view.guest_us), ("running", Some(7)));
        lab.outlast(&["vm", "pause", "web"]).expect_code(1).expect_stderr(&["runner of web"]);
    });
}
