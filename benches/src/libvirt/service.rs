//! libvirt's service: the host's own where it runs, otherwise one that is started here, sees directories of its own, and
//! goes away again.

use super::{EMULATOR, one_line};
use anyhow::{Context as _, bail, ensure};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The host's.
const SYSTEM: &str = "qemu:///system";
/// Abilities that are remembered are told in milliseconds.
const KNOWS_WITHIN: Duration = Duration::from_secs(1);
/// One that is started answers within this.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What is done in a mount namespace of its own before libvirtd runs there: everything that it keeps lies in memory. With
/// `hide` it has devices of its own, without a KVM that is there and does not work: libvirt would ask QEMU for its
/// abilities anew before every start then, which takes seconds.
const BEGIN: &str = r#"set -e
for d in /run/libvirt /var/lib/libvirt /var/cache/libvirt /etc/libvirt/qemu /var/log/libvirt; do
  if [ -d "$d" ]; then mount -t tmpfs -o mode=755 own "$d"; fi
done
if [ "$2" = hide ]; then
  mkdir "$1/dev"; mount -t tmpfs -o mode=755 own "$1/dev"
  for n in null zero full random urandom tty; do touch "$1/dev/$n"; mount --bind "/dev/$n" "$1/dev/$n"; done
  mkdir "$1/dev/pts" "$1/dev/shm"; mount --bind /dev/pts "$1/dev/pts"; ln -s pts/ptmx "$1/dev/ptmx"
  mount --rbind "$1/dev" /dev
fi
exec libvirtd --config "$1/libvirtd.conf" --pid-file "$1/pid" --timeout 600
"#;

/// A libvirt that answers.
#[derive(Debug)]
pub(super) struct Service {
    uri: String,
    own: Option<Own>,
}

/// One of our own. Ends with this value.
#[derive(Debug)]
struct Own {
    child: Child,
    directory: PathBuf,
}

impl Service {
    /// Finds the host's, or starts one.
    pub(super) fn find(kvm: bool) -> anyhow::Result<Self> {
        let host = Self { uri: SYSTEM.to_owned(), own: None };
        let Err(missing) = host.versions() else { return Ok(host) };
        Self::start(kvm).with_context(|| format!("{missing:#}; and none of our own"))
    }

    fn start(kvm: bool) -> anyhow::Result<Self> {
        let directory = PathBuf::from(format!("/run/outlast-bench-libvirt-{}", std::process::id()));
        let sockets = directory.join("sockets");
        fs::create_dir_all(&sockets).with_context(|| format!("make {}", sockets.display()))?;
        let words = format!("unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\n", sockets.display());
        fs::write(directory.join("libvirtd.conf"), words)?;
        let log = fs::File::create(directory.join("log"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", BEGIN, "libvirtd"]);
        command.arg(&directory).arg(if kvm { "show" } else { "hide" });
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let uri = format!("qemu+unix:///system?socket={}", sockets.join("libvirt-sock").display());
        let mut service = Self { uri, own: Some(Own { child, directory }) };
        service.wait()?;
        service.versions()?;
        Ok(service)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + STARTS_WITHIN;
        while let Err(error) = self.virsh(["version"]) {
            let Some(own) = &mut self.own else { return Err(error) };
            if let Some(status) = own.child.try_wait()? {
                bail!("libvirtd ended with {status}");
            }
            ensure!(Instant::now() < deadline, "libvirtd does not answer: {error:#}");
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Why there is no comparison, or what is compared with.
    pub(super) fn versions(&self) -> anyhow::Result<String> {
        let output = Command::new("virsh").args(["-c", &self.uri, "version"]).stdin(Stdio::null()).output();
        let output = output.ok().context("libvirt is not installed (virsh: no such program)")?;
        ensure!(output.status.success(), "libvirt does not answer: {}", one_line(&output.stderr));
        ensure!(Path::new(EMULATOR).exists(), "libvirt has no QEMU ({EMULATOR})");
        self.knows_its_qemu()?;
        Ok(one_line(&output.stdout))
    }

    /// One that asks QEMU for its abilities before every start does so because of its host, and a comparison with it
    /// would flatter us.
    fn knows_its_qemu(&self) -> anyhow::Result<()> {
        let ask = || self.virsh(["domcapabilities", "--emulatorbin", EMULATOR]);
        ask()?;
        let began = Instant::now();
        ask()?;
        let took = began.elapsed();
        ensure!(
            took < KNOWS_WITHIN,
            "libvirt probes its QEMU anew every time ({took:?}): hide /dev/kvm from libvirtd"
        );
        Ok(())
    }

    /// A command of virsh that succeeds.
    pub(super) fn virsh<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<()> {
        let mut command = Command::new("virsh");
        command.args(["-q", "-c", &self.uri]).args(arguments);
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let line: Vec<_> = command.get_args().skip(3).map(OsStr::to_string_lossy).take(2).collect();
            bail!("virsh {}: {}", line.join(" "), one_line(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What was mounted there went with the mount namespace.
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("{} stays: {error}", self.directory.display());
        }
    }
}
