//! The records that outlive an incarnation: outcome, death certificate, certificate, timings.

use outlast_model::{BootStep, Certificate, ClockInterval, DeathCause, Killer, Outcome};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An [`Outcome`], written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// `completed`, `failed`, `timed_out`, `killed`, `out_of_memory`, `not_started`, `lost`.
    pub kind: String,
    /// The program's exit code, when it exited.
    pub exit_code: Option<i32>,
    /// The signal that killed the program.
    pub signal: Option<i32>,
    /// Who killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The boot step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// A record that cannot be true.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a record of kind '{kind}' with these fields says nothing that can be")]
pub struct BadRecord {
    kind: String,
}

impl From<&Outcome> for OutcomeRecord {
    fn from(outcome: &Outcome) -> Self {
        let mut record = Self {
            kind: outcome.kind().to_owned(),
            exit_code: None,
            signal: None,
            by: None,
            step: None,
            cause: None,
        };
        match outcome {
            Outcome::Completed => record.exit_code = Some(0),
            Outcome::Exited { code } => record.exit_code = Some(*code),
            Outcome::Signalled { signal } => record.signal = Some(*signal),
            Outcome::TimedOut | Outcome::OutOfMemory => {}
            Outcome::Killed { by } => record.by = Some(by.name().to_owned()),
            Outcome::NotStarted { step, cause } => {
                record.step = Some(step.name().to_owned());
                record.cause = Some(cause.clone());
            }
            Outcome::Lost { cause } => record.cause = Some(cause.clone()),
        }
        record
    }
}

impl TryFrom<&OutcomeRecord> for Outcome {
    type Error = BadRecord;

    fn try_from(record: &OutcomeRecord) -> Result<Self, BadRecord> {
        let bad = || BadRecord { kind: record.kind.chars().take(40).collect() };
        let cause = || record.cause.clone().unwrap_or_default();
        match record.kind.as_str() {
            "completed" => Ok(Self::Completed),
            "failed" => match (record.exit_code, record.signal) {
                (Some(code), None) if code != 0 => Ok(Self::Exited { code }),
                (None, Some(signal)) => Ok(Self::Signalled { signal }),
                (Some(_) | None, Some(_) | None) => Err(bad()),
            },
            "timed_out" => Ok(Self::TimedOut),
            "out_of_memory" => Ok(Self::OutOfMemory),
            "killed" => {
                let by = Killer::ALL.iter().copied().find(|by| Some(by.name()) == record.by.as_deref());
                by.map(|by| Self::Killed { by }).ok_or_else(bad)
            }
            "not_started" => {
                let step = record.step.as_deref().and_then(|step| step.parse::<BootStep>().ok());
                step.map(|step| Self::NotStarted { step, cause: cause() }).ok_or_else(bad)
            }
            "lost" => Ok(Self::Lost { cause: cause() }),
            _ => Err(bad()),
        }
    }
}

/// A death certificate, written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeathRecord {
    /// The typed cause ([`DeathCause::name`]).
    pub cause: String,
    /// The signal, when the cause has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The exit code, when the cause has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What was seen, a sentence each.
    pub evidence: Vec<String>,
    /// Wall clock when it was established, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// Who established it: `runner` or `reconciler`.
    pub by: String,
}

impl DeathRecord {
    /// A certificate of `cause` with its evidence.
    pub fn new(cause: &DeathCause, evidence: Vec<String>, unix_ns: u64, by: &str) -> Self {
        let (signal, exit_code) = match cause {
            DeathCause::VmmSignalled { signal } => (Some(*signal), None),
            DeathCause::VmmExited { code } => (None, Some(*code)),
            DeathCause::Stopped
            | DeathCause::GuestShutdown
            | DeathCause::GuestPanic
            | DeathCause::GuestOutOfMemory
            | DeathCause::GuestProtocol
            | DeathCause::NotCertified
            | DeathCause::HostOutOfMemory
            | DeathCause::VmmBlocked
            | DeathCause::RunnerKilled
            | DeathCause::NeverClaimed
            | DeathCause::HostRebooted
            | DeathCause::TimedOut
            | DeathCause::BootFailed
            | DeathCause::Unknown => (None, None),
        };
        Self { cause: cause.name().to_owned(), signal, exit_code, evidence, unix_ns, by: by.to_owned() }
    }
}

/// A [`Certificate`], written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// The agent's version.
    pub agent_version: String,
    /// The guest kernel's release.
    pub guest_kernel: String,
    /// Guest clock minus host clock, in nanoseconds: the truth lies within these bounds.
    pub clock_offset_ns: [i64; 2],
    /// Samples the clock took.
    pub clock_samples: u32,
    /// Bytes of host entropy acknowledged before anything else ran.
    pub entropy_bytes: u32,
    /// Host name, read back.
    pub host_name: String,
    /// Machine id, read back.
    pub machine_id: String,
}

impl From<&Certificate> for CertificateRecord {
    fn from(certificate: &Certificate) -> Self {
        let ClockInterval { low_ns, high_ns } = certificate.clock;
        Self {
            agent_version: certificate.agent_version.clone(),
            guest_kernel: certificate.guest_kernel.clone(),
            clock_offset_ns: [low_ns, high_ns],
            clock_samples: certificate.clock_samples,
            entropy_bytes: certificate.entropy_bytes,
            host_name: certificate.host_name.clone(),
            machine_id: certificate.machine_id.clone(),
        }
    }
}

/// How long things took, in milliseconds with fractions.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// From the accepted request to the certified guest.
    pub ready: Option<f64>,
    /// From the program's start to its end, as the host saw it.
    pub exec: Option<f64>,
    /// From the accepted request to the outcome.
    pub total: Option<f64>,
}

/// How far a VM's start came that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStart {
    /// The boot step that failed.
    pub step: String,
    /// Why.
    pub cause: String,
}

impl FailedStart {
    /// Of an outcome that says that nothing was started; `None` of all others.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::NotStarted { step, cause } => {
                Some(Self { step: step.name().to_owned(), cause: cause.clone() })
            }
            Outcome::Completed
            | Outcome::Exited { .. }
            | Outcome::Signalled { .. }
            | Outcome::TimedOut
            | Outcome::Killed { .. }
            | Outcome::OutOfMemory
            | Outcome::Lost { .. } => None,
        }
    }
}

/// What the runner writes when an incarnation is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndRecord {
    /// The outcome, when it was a workload's.
    pub outcome: Option<OutcomeRecord>,
    /// How far it came, when it was a VM's and was never published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_start: Option<FailedStart>,
    /// The death certificate.
    pub death: DeathRecord,
    /// The length of the output log when it was synced, in bytes.
    pub output_log_bytes: u64,
    /// How much of the program's output was not kept, in bytes.
    pub truncated_bytes: u64,
    /// Timings.
    pub timings: Timings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_survives_being_written_and_read() {
        let outcomes = [
            Outcome::Completed,
            Outcome::Exited { code: 3 },
            Outcome::Signalled { signal: 9 },
            Outcome::TimedOut,
            Outcome::Killed { by: Killer::ClientGone },
            Outcome::OutOfMemory,
            Outcome::NotStarted { step: BootStep::LaunchVmm, cause: "no space".to_owned() },
            Outcome::Lost { cause: "runner died".to_owned() },
        ];
        for outcome in outcomes {
            let text = serde_json::to_string(&OutcomeRecord::from(&outcome)).unwrap();
            let record: OutcomeRecord = serde_json::from_str(&text).unwrap();
            assert_eq!(Outcome::try_from(&record).unwrap(), outcome);
        }
    }

    #[test]
    fn a_failure_without_a_reason_is_not_a_record() {
        let record = |exit_code, signal| OutcomeRecord {
            kind: "failed".to_owned(),
            exit_code,
            signal,
            by: None,
            step: None,
            cause: None,
        };
        assert!(Outcome::try_from(&record(None, None)).is_err());
        assert!(Outcome::try_from(&record(Some(0), None)).is_err());
        assert!(Outcome::try_from(&record(Some(1), Some(9))).is_err());
    }
}
