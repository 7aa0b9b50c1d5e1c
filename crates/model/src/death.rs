//! Why an incarnation ended: the typed cause on its death certificate.

use std::fmt;

/// The cause of an incarnation's end. Evidence (exit status, pvpanic event, counters) is kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeathCause {
    /// Its work was over, or its end was asked for.
    Stopped,
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest's kernel panicked (pvpanic, or the console).
    GuestPanic,
    /// The guest ran out of memory as a whole.
    GuestOutOfMemory,
    /// The guest broke the protocol of its link to the host, so nothing it says can be believed.
    GuestProtocol,
    /// The guest went on after a pause and could not be certified, so nobody may be told that it runs.
    NotCertified,
    /// The host's kernel killed the VMM for want of memory in its cgroup.
    HostOutOfMemory,
    /// The VMM died of a signal.
    VmmSignalled {
        /// The signal's number.
        signal: i32,
    },
    /// The VMM exited by itself.
    VmmExited {
        /// Its exit code.
        code: i32,
    },
    /// The VMM was stopped by its own confinement (SIGSYS).
    VmmBlocked,
    /// The runner died first, and the kernel took everything of it along.
    RunnerKilled,
    /// The launcher or runner never claimed its row.
    NeverClaimed,
    /// The host was booted again since.
    HostRebooted,
    /// A deadline passed.
    TimedOut,
    /// A boot step failed and was undone.
    BootFailed,
    /// Nobody can know.
    Unknown,
}

impl DeathCause {
    /// The word stored and shown.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::GuestShutdown => "guest_shutdown",
            Self::GuestPanic => "guest_panic",
            Self::GuestOutOfMemory => "guest_out_of_memory",
            Self::GuestProtocol => "guest_protocol",
            Self::NotCertified => "not_certified",
            Self::HostOutOfMemory => "host_out_of_memory",
            Self::VmmSignalled { .. } => "vmm_signalled",
            Self::VmmExited { .. } => "vmm_exited",
            Self::VmmBlocked => "vmm_blocked",
            Self::RunnerKilled => "runner_killed",
            Self::NeverClaimed => "never_claimed",
            Self::HostRebooted => "host_rebooted",
            Self::TimedOut => "timed_out",
            Self::BootFailed => "boot_failed",
            Self::Unknown => "unknown",
        }
    }

    /// The cause a VMM's own wait status speaks of: SIGSYS is its sandbox, other signals a crash.
    pub const fn of_vmm_signal(signal: i32) -> Self {
        // SIGSYS is 31 on every architecture Linux runs VMs on.
        if signal == 31 { Self::VmmBlocked } else { Self::VmmSignalled { signal } }
    }
}

impl fmt::Display for DeathCause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VmmSignalled { signal } => write!(out, "VMM killed by signal {signal}"),
            Self::VmmExited { code } => write!(out, "VMM exited with code {code}"),
            Self::VmmBlocked => out.pad("VMM blocked by its confinement"),
            Self::Stopped
            | Self::GuestShutdown
            | Self::GuestPanic
            | Self::GuestOutOfMemory
            | Self::GuestProtocol
            | Self::NotCertified
            | Self::HostOutOfMemory
            | Self::RunnerKilled
            | Self::NeverClaimed
            | Self::HostRebooted
            | Self::TimedOut
            | Self::BootFailed
            | Self::Unknown => out.pad(&self.name().replace('_', " ")),
        }
    }
}
