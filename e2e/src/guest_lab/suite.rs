//! The suites a guest can run: what kind of machine each wants, and its cases. Host and guest share this table, and
//! the host judges by it.

use super::cases;
use crate::Lab;
use std::time::Duration;

/// One thing that is tried in a guest.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name, unique in its suite.
    pub name: &'static str,
    /// What is done; a panic says no.
    pub run: fn(&Lab),
}

/// How control groups are mounted in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// Version 2 and nothing else; version 1 is switched off in the kernel.
    V2,
    /// The memory controller on version 1, everything else on version 2.
    Hybrid,
}

/// A suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Guests of the guest run on KVM.
    Kvm,
    /// Control groups, version 2 alone.
    Cgroup2,
    /// Control groups, both versions at once.
    Hybrid,
    /// Scopes of systemd's, which is the first process there.
    Systemd,
    /// The host's clock is stepped.
    Clock,
    /// For the harness itself: a case fails.
    Red,
    /// For the harness itself: the machine goes away in the middle of a case.
    Silent,
}

impl Suite {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Kvm, Self::Cgroup2, Self::Hybrid, Self::Systemd, Self::Clock, Self::Red, Self::Silent];

    /// Its name, on the guest's kernel command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Cgroup2 => "cgroup2",
            Self::Hybrid => "hybrid",
            Self::Systemd => "systemd",
            Self::Clock => "clock",
            Self::Red => "red",
            Self::Silent => "silent",
        }
    }

    /// The suite of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.name() == name)
    }

    /// Its cases, in order.
    pub const fn cases(self) -> &'static [Case] {
        match self {
            Self::Kvm => cases::kvm::CASES,
            Self::Cgroup2 => cases::cgroup::V2,
            Self::Hybrid => cases::cgroup::HYBRID,
            Self::Systemd => cases::scope::CASES,
            Self::Clock => cases::clock::CASES,
            Self::Red => cases::control::RED,
            Self::Silent => cases::control::SILENT,
        }
    }

    /// How control groups are mounted.
    pub const fn cgroups(self) -> Cgroups {
        match self {
            Self::Hybrid => Cgroups::Hybrid,
            Self::Kvm | Self::Cgroup2 | Self::Systemd | Self::Clock | Self::Red | Self::Silent => Cgroups::V2,
        }
    }

    /// Whether systemd is the first process, and not the lab's own program.
    pub const fn begins_with_systemd(self) -> bool {
        matches!(self, Self::Systemd)
    }

    /// The net behind everything: a machine that has not powered itself off by then is killed, and red.
    pub const fn deadline(self) -> Duration {
        match self {
            Self::Kvm | Self::Cgroup2 | Self::Hybrid | Self::Systemd | Self::Clock => {
                Duration::from_secs(1800)
            }
            // They boot and do nothing else: five seconds, or minutes on a machine that is busy.
            Self::Red | Self::Silent => Duration::from_secs(600),
        }
    }
}
