//! The serial console: what is typed on it reaches the guest, several may sit there, and a terminal is left as it was.

use outlast_e2e::{Lab, on_lab, until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// Longer than a runner keeps a connection on which nothing is said.
const THINKS: Duration = Duration::from_secs(5);
const LEAVE: &[u8] = b"\x1d";

/// Somebody with a terminal of their own at a VM's console.
struct Seat {
    ours: File,
    theirs: File,
    child: Child,
    said: String,
}

impl Seat {
    fn take(lab: &Lab, name: &str) -> Self {
        let ours: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal of the test");
        grantpt(&ours).expect("a terminal of the test");
        unlockpt(&ours).expect("a terminal of the test");
        let path = ptsname(&ours, Vec::new()).expect("a terminal of the test");
        let theirs = File::options()
            .read(true)
            .write(true)
            .open(path.to_str().expect("a terminal of the test"))
            .expect("a terminal of the test");
        let stream = || Stdio::from(theirs.try_clone().expect("a terminal of the test"));
        let mut command = Command::new(lab.binaries().join("outlast"));
        command.args(["vm", "console", name]).stdin(stream()).stdout(stream()).stderr(stream());
        command.env("OUTLAST_HOME", lab.home()).env("OUTLAST_LIBRARY", lab.places().library().path());
        // A session of its own: signals of our terminal are none of its business.
        command.process_group(0);
        let child = command.spawn().expect("a terminal of the test");
        let mut seat = Self { ours: File::from(ours), theirs, child, said: String::new() };
        seat.until("leave with Ctrl-]");
        until("its terminal is raw", SOON, || (!seat.is_cooked()).then_some(()));
        seat
    }

    fn is_cooked(&self) -> bool {
        tcgetattr(&self.theirs)
            .expect("a terminal of the test")
            .local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.ours.write_all(keys).expect("a terminal of the test");
    }

    /// Reads on until this was said, and forgets what was.
    #[track_caller]
    fn until(&mut self, wanted: &str) -> String {
        let end = Instant::now() + SOON;
        loop {
            if let Some(at) = self.said.find(wanted) {
                let rest = self.said.split_off(at + wanted.len());
                return std::mem::replace(&mut self.said, rest);
            }
            assert!(Instant::now() < end, "'{wanted}' is not said: {:?}", self.said);
            let mut wait = [PollFd::new(&self.ours, PollFlags::IN)];
            if poll(&mut wait, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).expect("a terminal of the test") > 0
            {
                let mut piece = [0; 4096];
                let length = self.ours.read(&mut piece).unwrap_or(0);
                self.said.push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a terminal of the test"))
            .expect("a terminal of the test");
        kill_process(pid, signal).expect("a terminal of the test");
    }

    /// Its end; the terminal is as it was before.
    #[track_caller]
    fn ends(mut self) -> ExitStatus {
        let status = until("it has left", SOON, || self.child.try_wait().expect("a terminal of the test"));
        assert!(self.is_cooked(), "the terminal is raw no longer");
        status
    }
}

#[test]
fn what_is_typed_reaches_a_shell_of_root_and_ctrl_c_is_the_guests() {
    on_lab(|lab| {
        lab.running_vm("web");
        let mut seat = Seat::take(lab, "web");
        seat.until("press Enter for a shell");
        seat.type_in(b"\r");
        seat.type_in(b"echo $((40+2)) $(id -u) $HOME $(hostname) on $(tty)\r");
        seat.until("42 0 /root web on /dev/ttyS0");
        // The runner hangs up on whoever is silent for so long; what is typed then arrives all the same.
        std::thread::sleep(THINKS);
        seat.type_in(b"echo $((30+2)) after a while\r");
        seat.until("32 after a while");
        // Neither leaves nor ends the shell: it ends what runs in it.
        seat.type_in(b"sleep 1000\r");
        until("it runs", SOON, || {
            (lab.sh("web", "pgrep -x sleep || ps | grep -v grep | grep sleep").code() == Some(0))
                .then_some(())
        });
        seat.type_in(b"\x03");
        seat.type_in(b"echo $((50+2)) again\r");
        seat.until("52 again");
        // The end of the shell is not the end of the console.
        seat.type_in(b"exit\r");
        seat.until("press Enter for a shell");
        seat.type_in(b"\r");
        seat.type_in(b"echo $((60+2)) anew\r");
        seat.until("62 anew");
        seat.type_in(LEAVE);
        assert!(seat.ends().success());
        // Whoever comes next finds the shell where it was left, and what was said before.
        let mut seat = Seat::take(lab, "web");
        seat.until("62 anew");
        seat.type_in(b"echo $((70+2)) back\r");
        seat.until("72 back");
        lab.outlast(&["vm", "stop", "web"])
            .expect_code(0)
            .expect_stdout("web is stopped: its guest powered off\n");
        seat.until("is not running");
        assert!(seat.ends().success());
        let log = lab.outlast(&["vm", "logs", "web"]);
        assert!(log.stdout_text().contains("72 back"), "{log}");
    });
}

#[test]
fn several_sit_at_one_console_and_see_the_same() {
    on_lab(|lab| {
        lab.running_vm("web");
        let mut seats = [Seat::take(lab, "web"), Seat::take(lab, "web"), Seat::take(lab, "web")];
        seats[0].type_in(b"\r");
        for (index, word) in ["one", "two", "three"].iter().enumerate() {
            seats[index].type_in(format!("echo $((80+2)) {word}\r").as_bytes());
            for seat in &mut seats {
                seat.until(&format!("82 {word}"));
            }
        }
        for mut seat in seats {
            seat.type_in(LEAVE);
            assert!(seat.ends().success());
        }
        lab.outlast(&["vm", "ping", "web"]).expect_code(0);
    });
}

#[test]
fn a_terminal_is_as_it_was_however_the_seat_is_left() {
    on_lab(|lab| {
        lab.running_vm("web");
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let seat = Seat::take(lab, "web");
            seat.signal(signal);
            seat.ends();
        }
        let (_runner, vmm) = lab.processes_of("web");
        let mut seat = Seat::take(lab, "web");
        vmm.signal(Signal::KILL);
        seat.until("is not running");
        seat.ends();
        lab.outlast(&["vm", "console", "web"]).expect_code(4).expect_stderr(&["not running"]);
    });
}

#[test]
fn a_guest_that_takes_no_keys_holds_up_nobody() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.outlast(&["vm", "pause", "web"]).expect_code(0);
        let mut seat = Seat::take(lab, "web");
        // More than a serial line and everything before it holds.
        for _ in 0..64 {
            seat.type_in(&[b'x'; 1024]);
        }
        lab.outlast(&["vm", "resume", "web"]).expect_code(0);
        lab.outlast(&["vm", "ping", "web"]).expect_code(0);
        seat.type_in(LEAVE);
        seat.ends();
    });
}
