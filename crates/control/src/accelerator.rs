//! Which accelerator: KVM where it really works, emulation where it does not.
//!
//! A `/dev/kvm` that opens proves nothing: there are hosts on which it creates VMs and then hangs every stock
//! kernel. So a canary boots on it, once per (boot of the host, host kernel, VMM), under a deadline; like every
//! VMM it is a runner's. Only what a guest on KVM did, or did not do in time, speaks against KVM; a full disk, a
//! lock or a killed runner decides nothing and is not remembered. A deadline that passed may have been the host's
//! fault: it is remembered for an hour.

use crate::error::{Error, chain};
use crate::incarnation::{Ground, Made};
use crate::lock::Lock;
use crate::notice::{Notice, Notify};
use crate::prune::{Findings, Found, How};
use crate::reconcile::{journal_of, step_reached};
use crate::site::{Site, private_directory};
use crate::{clock, incarnation};
use outlast_machine::host::{self, KvmDevice};
use outlast_machine::image::{Digest, leftover};
use outlast_machine::process::{self, ProcessError};
use outlast_model::{BootStep, DeathCause, VcpuCount, Walker, timeout};
use outlast_store::IncarnationRow;
use outlast_wire::canary::{CanaryRecord, VERSION};
use outlast_wire::exit_code::FailureKind;
use outlast_wire::intent::{Purpose, Start};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Who asks for a canary waits for another's this much longer than one may take.
const CANARY_SLACK: Duration = Duration::from_secs(20);

/// A canary that was too slow is tried again after this.
const RETRY: Duration = Duration::from_secs(3600);

/// The number of the signal that nothing catches.
const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM if the canary says so, emulation if not.
    Auto,
    /// KVM, whatever a canary says.
    Kvm,
    /// Emulation.
    Tcg,
}

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl Accelerator {
    /// The word in intents and views.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// No accelerator could be chosen.
#[derive(Debug, Error)]
pub enum AcceleratorError {
    /// KVM was asked for and is not there.
    #[error("KVM was asked for, and this host has no /dev/kvm")]
    NoKvm,
    /// KVM was asked for and may not be used.
    #[error("KVM was asked for, and this user may not open /dev/kvm")]
    KvmNotPermitted,
    /// The boot id of the host cannot be read.
    #[error("cannot tell this boot of the host from others")]
    BootId(#[source] ProcessError),
    /// The canary's lock cannot be had.
    #[error("cannot lock {}", .path.display())]
    Lock {
        /// The lock.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl AcceleratorError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::KvmNotPermitted => FailureKind::NotPermitted,
            Self::NoKvm | Self::BootId(_) => FailureKind::Host,
            Self::Lock { .. } => FailureKind::Failed,
        }
    }

    /// The next command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoKvm | Self::KvmNotPermitted => Some("use emulation with --accel tcg".to_owned()),
            Self::BootId(_) | Self::Lock { .. } => None,
        }
    }
}

/// What a canary found, or why none was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KvmVerdict {
    /// A guest booted on it.
    Usable,
    /// It is there and does not work, and why.
    Unusable(String),
    /// A guest on it did not come up in time, and how.
    TooSlow(String),
    /// It is not there, or may not be used, and why.
    Absent(String),
    /// It could not be found out, and why.
    Unknown(String),
}

/// Chooses the accelerator.
///
/// # Errors
/// KVM was asked for and cannot be.
pub(crate) fn choose(
    site: &Site,
    choice: AcceleratorChoice,
    ground: &Ground,
    notify: Notify<'_>,
) -> Result<Accelerator, Error> {
    match (choice, host::kvm_device()) {
        (AcceleratorChoice::Tcg, _) => Ok(Accelerator::Tcg),
        (AcceleratorChoice::Kvm, KvmDevice::Present) => Ok(Accelerator::Kvm),
        (AcceleratorChoice::Kvm, KvmDevice::Absent) => Err(AcceleratorError::NoKvm.into()),
        (AcceleratorChoice::Kvm, KvmDevice::NoPermission) => Err(AcceleratorError::KvmNotPermitted.into()),
        (AcceleratorChoice::Auto, _) => match verdict(site, ground, notify)? {
            KvmVerdict::Usable => Ok(Accelerator::Kvm),
            KvmVerdict::Unusable(_) | KvmVerdict::TooSlow(_) | KvmVerdict::Absent(_) => Ok(Accelerator::Tcg),
            KvmVerdict::Unknown(why) => {
                notify(Notice::Warning(&format!("KVM could not be tried ({why}); this run is emulated")));
                Ok(Accelerator::Tcg)
            }
        },
    }
}

/// Whether KVM is usable: remembered, or found out by a canary.
pub(crate) fn verdict(site: &Site, ground: &Ground, notify: Notify<'_>) -> Result<KvmVerdict, Error> {
    match host::kvm_device() {
        KvmDevice::Absent => return Ok(KvmVerdict::Absent("there is no /dev/kvm".to_owned())),
        KvmDevice::NoPermission => {
            return Ok(KvmVerdict::Absent("/dev/kvm may not be opened by this user".to_owned()));
        }
        KvmDevice::Present => {}
    }
    let key = Key::of(ground)?;
    let directory = site.places().library().canary();
    let path = directory.join(format!("{}.json", key.name()));
    if let Some(known) = key.read(&path) {
        return Ok(known);
    }
    private_directory(&directory)?;
    let lock_path = directory.join(format!(".lock-{}", key.name()));
    let failed = |source| AcceleratorError::Lock { path: lock_path.clone(), source };
    let Some(_lock) = Lock::take(&lock_path, timeout::CANARY + CANARY_SLACK).map_err(failed)? else {
        return Ok(KvmVerdict::Unknown("another process tries it and does not come to an end".to_owned()));
    };
    if let Some(known) = key.read(&path) {
        return Ok(known);
    }
    notify(Notice::TryingKvm);
    let row = boot_canary(site, ground);
    notify(Notice::Done);
    let (verdict, incarnation) = match row {
        Ok(row) => (verdict_of(&row, &trace_of(site, &row)), row.id.to_string()),
        Err(error) => (KvmVerdict::Unknown(chain(&error)), String::new()),
    };
    key.write(&path, &verdict, incarnation);
    Ok(verdict)
}

/// Forgets what speaks against KVM, so that it is tried again. Not being able to is told in the log.
pub(crate) fn pardon(site: &Site, ground: &Ground) {
    let Ok(key) = Key::of(ground) else { return };
    let path = site.places().library().canary().join(format!("{}.json", key.name()));
    if matches!(key.read(&path), Some(KvmVerdict::Unusable(_) | KvmVerdict::TooSlow(_))) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot forget a canary");
        }
    }
}

/// Results of earlier boots of the host, and locks without a result.
pub(crate) fn prune(site: &Site, how: How, findings: &mut Findings) {
    let directory = site.places().library().canary();
    let Ok(boot_id) = process::boot_id() else { return };
    if !leftover::is_own(&directory) {
        return;
    }
    for path in std::fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_result = path.extension().is_some_and(|ending| ending == "json");
        let record = || serde_json::from_slice::<CanaryRecord>(&std::fs::read(&path).ok()?).ok();
        let is_old = match name.strip_prefix(".lock-") {
            Some(key) => !directory.join(format!("{key}.json")).exists() && !Lock::is_held(&path),
            None => is_result && record().is_none_or(|record| record.boot_id != boot_id),
        };
        if !is_old {
            continue;
        }
        let mut found = Found::new("canary", &name, 0, "of an earlier boot of this host");
        if how == How::Remove {
            let removed = if is_result { std::fs::remove_file(&path) } else { retire(&path) };
            match removed {
                Ok(()) => found.removed(),
                Err(error) => found.failed(&error),
            }
        }
        findings.add(found);
    }
}

fn retire(lock: &Path) -> io::Result<()> {
    let taken = Lock::try_take(lock)?.ok_or_else(|| io::Error::from(io::ErrorKind::ResourceBusy))?;
    taken.retire(lock);
    Ok(())
}

fn boot_canary(site: &Site, ground: &Ground) -> Result<IncarnationRow, Error> {
    let memory = ground.needs().machine_for(ground.needs().min_limit);
    let machine = ground.canary_machine(VcpuCount::ONE, memory);
    let made = Made {
        purpose: Purpose::Canary,
        machine,
        start: Start::Boot,
        boot_timeout: timeout::CANARY,
        fell_back: None,
        ingredients: None,
    };
    incarnation::live_through(site, incarnation::new_id()?, made, &ground.locks(), timeout::CANARY)
}

/// How far a canary came, and what its VMM said.
struct Trace {
    step: BootStep,
    vmm_said: String,
}

fn trace_of(site: &Site, row: &IncarnationRow) -> Trace {
    let log = std::fs::read(site.places().evidence(row.id).vmm_log()).unwrap_or_default();
    Trace {
        step: step_reached(&journal_of(site, row.id), Walker::Bare),
        vmm_said: String::from_utf8_lossy(&log).to_lowercase(),
    }
}

impl Trace {
    /// Whether what ended it can be KVM's doing: a guest ran on it, or the VMM could not make one and says so.
    fn is_about_kvm(&self) -> bool {
        self.step >= BootStep::StartGuest
            || (self.step == BootStep::LaunchVmm
                && ["kvm", "msr"].iter().any(|word| self.vmm_said.contains(word)))
    }
}

/// A canary that booted and was stopped has sung. What cannot be the accelerator's fault decides nothing.
fn verdict_of(row: &IncarnationRow, trace: &Trace) -> KvmVerdict {
    let Some(death) = &row.death else { return KvmVerdict::Unknown("it left no certificate".to_owned()) };
    let said = death.evidence.first().cloned().unwrap_or_default();
    let is = |cause: DeathCause| death.cause == cause.name();
    if is(DeathCause::Stopped) && row.running_unix_ns.is_some() {
        return KvmVerdict::Usable;
    }
    let cause = death.cause.replace('_', " ");
    // The last is a death by a hand from outside: the host, short of memory, or a person.
    let undecided = is(DeathCause::Stopped)
        || is(DeathCause::NeverClaimed)
        || is(DeathCause::RunnerKilled)
        || is(DeathCause::HostRebooted)
        || is(DeathCause::HostOutOfMemory)
        || is(DeathCause::Unknown)
        || death.signal == Some(SIGKILL);
    if undecided || !trace.is_about_kvm() {
        return KvmVerdict::Unknown(format!("{cause}: {said}"));
    }
    let why = format!("a canary boot on it ended as {cause}: {said}");
    if is(DeathCause::TimedOut) { KvmVerdict::TooSlow(why) } else { KvmVerdict::Unusable(why) }
}

/// What a canary's result depends on.
struct Key {
    boot_id: String,
    kernel: String,
    vmm: String,
    /// The guest kernel, unless it is the distribution's.
    guest: Option<String>,
}

impl Key {
    fn of(ground: &Ground) -> Result<Self, AcceleratorError> {
        let boot_id = process::boot_id().map_err(AcceleratorError::BootId)?;
        Ok(Self {
            boot_id,
            kernel: host::kernel_release(),
            vmm: ground.vmm_digest(),
            guest: ground.other_kernel(),
        })
    }

    fn name(&self) -> String {
        let guest = self.guest.as_ref().map(|digest| format!("{digest}\n")).unwrap_or_default();
        Digest::of(format!("canary 1\n{}\n{}\n{}\n{guest}", self.boot_id, self.kernel, self.vmm).as_bytes())
            .to_string()
    }

    /// A record that cannot be read, or is of something else, is as good as none.
    fn read(&self, path: &Path) -> Option<KvmVerdict> {
        let record: CanaryRecord = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let ours =
            (&record.boot_id, &record.kernel, &record.vmm_digest) == (&self.boot_id, &self.kernel, &self.vmm);
        if record.version != VERSION || !ours {
            return None;
        }
        let now = now_monotonic_ns();
        match (record.usable, record.until_monotonic_ns) {
            (true, _) => Some(KvmVerdict::Usable),
            (false, None) => Some(KvmVerdict::Unusable(record.reason)),
            (false, Some(until)) => (now < until).then_some(KvmVerdict::TooSlow(record.reason)),
        }
    }

    /// Remembers a decision. Not being able to is no failure: the next run tries again.
    fn write(&self, path: &Path, verdict: &KvmVerdict, incarnation: String) {
        let a_while = u64::try_from(RETRY.as_nanos()).unwrap_or(u64::MAX);
        let (usable, reason, until) = match verdict {
            KvmVerdict::Usable => (true, String::new(), None),
            KvmVerdict::Unusable(reason) => (false, reason.clone(), None),
            KvmVerdict::TooSlow(reason) => {
                (false, reason.clone(), Some(now_monotonic_ns().saturating_add(a_while)))
            }
            KvmVerdict::Absent(_) | KvmVerdict::Unknown(_) => return,
        };
        let record = CanaryRecord {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            kernel: self.kernel.clone(),
            vmm_digest: self.vmm.clone(),
            usable,
            reason,
            incarnation,
            unix_ns: clock::unix_ns(),
            until_monotonic_ns: until,
        };
        if let Err(error) = write_aside(path, &record) {
            tracing::debug!(%error, path = %path.display(), "the canary's result is not remembered");
        }
    }
}

fn now_monotonic_ns() -> u64 {
    u64::try_from(clock::since_boot().as_nanos()).unwrap_or(u64::MAX)
}

fn write_aside(path: &Path, record: &CanaryRecord) -> io::Result<()> {
    // Its writer holds the lock, so one name for what is being written is enough.
    let aside = path.with_extension("new");
    let mut file = std::fs::File::create(&aside)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    std::fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::accept;
    use outlast_wire::record::DeathRecord;

    fn verdict(cause: &DeathCause, step: BootStep, vmm_said: &str) -> KvmVerdict {
        let stage = accept(Duration::ZERO);
        let mut row = stage.site.store().unwrap().incarnation(stage.incarnation).unwrap().unwrap();
        row.death = Some(DeathRecord::new(cause, vec!["evidence".to_owned()], 1, "runner"));
        verdict_of(&row, &Trace { step, vmm_said: vmm_said.to_owned() })
    }

    #[test]
    fn only_what_can_be_kvms_fault_condemns_it() {
        let unusable = |verdict| matches!(verdict, KvmVerdict::Unusable(_));
        let unknown = |verdict| matches!(verdict, KvmVerdict::Unknown(_));
        assert!(unusable(verdict(&DeathCause::GuestPanic, BootStep::AgentHello, "")));
        assert!(unusable(verdict(&DeathCause::BootFailed, BootStep::StartGuest, "")));
        let abort = "error: failed to set msr 0x48f; kvm_buf_set_msrs: assertion failed";
        assert!(unusable(verdict(&DeathCause::BootFailed, BootStep::LaunchVmm, abort)));
        assert!(unknown(verdict(&DeathCause::BootFailed, BootStep::LaunchVmm, "cannot allocate memory")));
        assert!(unknown(verdict(&DeathCause::BootFailed, BootStep::Disks, "")));
        assert!(unknown(verdict(&DeathCause::TimedOut, BootStep::Claim, "")));
        assert!(unknown(verdict(&DeathCause::VmmSignalled { signal: 9 }, BootStep::AgentHello, "")));
        assert!(matches!(verdict(&DeathCause::TimedOut, BootStep::AgentHello, ""), KvmVerdict::TooSlow(_)));
    }

    #[test]
    fn a_canary_that_was_too_slow_is_forgotten_after_a_while() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("record.json");
        let key = Key { boot_id: "b".to_owned(), kernel: "k".to_owned(), vmm: "v".to_owned(), guest: None };
        let slow = KvmVerdict::TooSlow("slow".to_owned());
        key.write(&path, &slow, String::new());
        assert_eq!(key.read(&path), Some(slow));
        let mut record: CanaryRecord = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record.until_monotonic_ns = Some(1);
        std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(key.read(&path), None);
    }
}
