//! A shell on the serial console, for whoever types there: Enter begins it, and again when it has ended.
//!
//! ```text
//!   waiting ── a line ──► shell (root's, a session and a cgroup of its own) ── its end ──► waiting
//! ```
//!
//! No guest of ours has an init that would put a getty there. Nobody is asked for a password: who reaches this console
//! can reach everything else of the machine, too. What limits such a shell has is the host's to say, as for every
//! program, and so is whether there is one.

use super::Site;
use super::cgroup::{Group, Limits};
use super::lookup;
use crate::console;
use crate::sys::spawn;
use crate::sys::watch::watch;
use outlast_wire::guest::Exec;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Which terminal the console is.
const ACTIVE: &str = "/sys/class/tty/console/active";

/// How long what a shell left behind may take to disappear.
const CLEAR_LIMIT: Duration = Duration::from_secs(5);

/// So many times in a row there may be an end of file: a terminal that has gone for good tells nothing else.
const MOST_ENDS: u32 = 256;

/// What is said when nothing but Enter is waited for.
const OFFER: &str = "press Enter for a shell on this console";

/// What a shell on the console has in its environment. Which terminal is at the other end is not known here.
const ENVIRONMENT: [&str; 5] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
    "HOME=/root",
    "USER=root",
    "TERM=vt100",
];

/// The terminal that the kernel's console is, if it is one.
pub(crate) fn console_device() -> Option<PathBuf> {
    let active = std::fs::read_to_string(ACTIVE).ok()?;
    // The last one is what /dev/console means.
    active.split_whitespace().next_back().map(|name| Path::new("/dev").join(name))
}

/// Offers a shell on `device` for as long as the guest lives.
pub(crate) async fn attend(site: &Site, device: &Path, memory_max: u64, pids_max: u32) {
    if let Err(error) = offer(site, device, &request(memory_max, pids_max)).await {
        console::say_error("offer a shell on the console", &error);
    }
}

fn request(memory_max: u64, pids_max: u32) -> Exec {
    Exec {
        argv: vec!["/bin/sh".to_owned(), "-l".to_owned()],
        env: ENVIRONMENT.iter().map(|&assignment| assignment.to_owned()).collect(),
        cwd: "/".to_owned(),
        uid: 0,
        gid: 0,
        memory_max,
        pids_max,
        deadline_ms: 0,
        stdin: true,
        pty: true,
        rows: 0,
        columns: 0,
        user: String::new(),
    }
}

async fn offer(site: &Site, device: &Path, request: &Exec) -> io::Result<()> {
    let usual = tcgetattr(open(device)?)?;
    let mut ends = 0;
    console::say(OFFER);
    while ends < MOST_ENDS {
        // Anew each time: the kernel hangs a terminal up for everybody when the session ends that it controlled.
        let terminal = watch(open(device)?, Interest::READABLE)?;
        // A program may have left it as it likes. What was typed ahead stays.
        let _ = tcsetattr(terminal.get_ref(), OptionalActions::Now, &usual);
        if !enter(&terminal).await? {
            ends += 1;
            continue;
        }
        ends = 0;
        if let Err(error) = shell(site, device, request).await {
            console::say_error("start a shell on the console", &error);
        }
        console::say(OFFER);
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Waits until a line was typed, whatever is in it; or until its end of file, which may be a hang-up.
async fn enter(terminal: &AsyncFd<OwnedFd>) -> io::Result<bool> {
    let mut line = [0; 256];
    loop {
        terminal.readable().await?.retain_ready();
        match terminal.try_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut line)?)) {
            Ok(0) => return Ok(false),
            Ok(length) if line[..length].contains(&b'\n') => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Runs one shell to its end, and ends what it left behind: nothing goes on unseen on a console.
async fn shell(site: &Site, device: &Path, request: &Exec) -> Result<(), super::StartError> {
    let plan = lookup::check(request, None)?;
    let limits = Limits { memory_max: request.memory_max, pids_max: request.pids_max };
    let group = Rc::new(site.groups.make(&limits)?);
    let ran = run(site, device, plan, &group).await;
    if let Err(error) = group.clear(CLEAR_LIMIT).await {
        console::say_error("end what a shell left behind", &error);
    }
    group.remove();
    site.groups.prepare_one();
    ran
}

async fn run(site: &Site, device: &Path, plan: spawn::Plan, group: &Group) -> Result<(), super::StartError> {
    let ends = ends(device).map_err(super::StartError::Streams)?;
    let child = spawn::spawn(plan, ends, group.directory()).map_err(super::StartError::Clone)?;
    group.has_leader(child.pid);
    let status = site.reaper.expect(child.pid);
    let begun = child.beginning.wait().await;
    // Whatever it was, it says the rest itself, on the same console.
    let _ = status.await;
    begun.map_err(|(stage, source)| super::StartError::Child { stage, source })
}

fn open(device: &Path) -> Result<OwnedFd, Errno> {
    // Without NONBLOCK an open may wait for somebody to lift the receiver.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(device, flags, Mode::empty())
}

/// Opened anew: whether reads wait is a matter of who has opened it, and programs expect that they do.
fn ends(device: &Path) -> Result<[OwnedFd; 3], Errno> {
    let input = open(device)?;
    fcntl_setfl(&input, fcntl_getfl(&input)? - OFlags::NONBLOCK)?;
    let (output, error) = (fcntl_dupfd_cloexec(&input, 0)?, fcntl_dupfd_cloexec(&input, 0)?);
    Ok([input, output, error])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Groups, Reaper, Scope};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::ffi::OsStrExt;
    use tokio::task::LocalSet;

    /// Reads until this was said.
    fn until(terminal: &mut File, wanted: &str) -> String {
        let (mut said, mut byte) = (Vec::new(), [0]);
        while !String::from_utf8_lossy(&said).contains(wanted) {
            terminal.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    #[tokio::test]
    async fn enter_begins_a_shell_and_its_end_is_the_beginning_of_the_next() {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let device = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).to_owned();
        // Held open, as the kernel holds a console.
        let _held = open(&device).unwrap();
        let typing = tokio::task::spawn_blocking(move || {
            let mut ours = File::from(ours);
            for word in ["one", "two"] {
                ours.write_all(b"\n").unwrap();
                ours.write_all(format!("echo $((40+2))-{word} $HOME; stty -echo; exit\n").as_bytes())
                    .unwrap();
                until(&mut ours, &format!("42-{word} /root"));
            }
        });
        let scene = async {
            let reaper = Rc::new(Reaper::new(Scope::Expected));
            let site = Site::new(Rc::clone(&reaper), Rc::new(Groups::for_tests())).unwrap();
            tokio::select! {
                () = attend(&site, &device, 1 << 30, 100) => panic!("it goes on for ever"),
                broken = reaper.run() => panic!("{broken:?}"),
                typed = typing => typed.unwrap(),
            }
        };
        let limit = Duration::from_secs(20);
        LocalSet::new().run_until(tokio::time::timeout(limit, scene)).await.expect("shells come and go");
    }
}
