//! What an event means for the outcome: pure functions, the heart of "exactly one honest outcome".
//!
//! | event | before the program was sent | sent, not confirmed | running |
//! |---|---|---|---|
//! | kill request, client gone, host signal, a VM's stop | killed(by) | killed(by) | killed(by) |
//! | deadline | not_started (the boot's) | lost (the boot's) | timed_out (the program's) |
//! | death of guest or VMM, broken link | not_started | lost | lost |
//! | agent silent, or breaking the protocol | not_started | lost | lost |
//! | output or input that fails on the host | — | — | lost |

use crate::event::Interrupt;
use outlast_machine::backend::{VmmEvent, VmmExit};
use outlast_model::{BootStep, DeathCause, Killer, Outcome};
use outlast_wire::guest::{Exited, guest_words};

/// Where an incarnation is when something happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In this boot step; the program was not sent.
    Booting(BootStep),
    /// The program was sent, and the agent has not said what became of it.
    Sent,
    /// The agent has started the program.
    Running,
}

/// How an incarnation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The workload's outcome; meaningless for templates and canaries, who ignore it.
    pub(crate) outcome: Outcome,
    /// The typed cause of the incarnation's end.
    pub(crate) cause: DeathCause,
    /// What was seen, a sentence each.
    pub(crate) evidence: Vec<String>,
}

impl Ending {
    /// An ending with one sentence of evidence.
    pub(crate) fn new(outcome: Outcome, cause: DeathCause, evidence: impl Into<String>) -> Self {
        Self { outcome, cause, evidence: vec![evidence.into()] }
    }

    /// A boot step failed.
    pub(crate) fn step_failed(step: BootStep, error: String) -> Self {
        let evidence = format!("boot step {step} failed: {error}");
        Self::new(Outcome::NotStarted { step, cause: error }, DeathCause::BootFailed, evidence)
    }
}

/// What an interrupt means in a phase.
pub(crate) fn interrupted(phase: Phase, interrupt: &Interrupt) -> Ending {
    let killed = |by: Killer| Ending::new(Outcome::Killed { by }, DeathCause::Stopped, killed_evidence(by));
    match interrupt {
        Interrupt::ClientGone => killed(Killer::ClientGone),
        Interrupt::HostSignal => killed(Killer::HostSignal),
        Interrupt::KillRequested | Interrupt::StopWanted | Interrupt::RowGone => killed(Killer::Request),
        Interrupt::NotOurs => died(phase, DeathCause::Unknown, "the row is another runner's".to_owned()),
        Interrupt::DeadlinePassed => deadline(phase),
        Interrupt::Vmm(event) => vmm(phase, event),
        Interrupt::LinkLost(cause) => {
            died(phase, DeathCause::Unknown, format!("the guest link broke: {cause}"))
        }
        Interrupt::AgentSilent(cause) => died(phase, DeathCause::TimedOut, cause.clone()),
        Interrupt::ProtocolBroken(cause) => died(phase, DeathCause::GuestProtocol, cause.clone()),
        Interrupt::OutputNotKept(cause) => {
            died(phase, DeathCause::Stopped, format!("the program's output could not be kept: {cause}"))
        }
        Interrupt::InputNotGiven(cause) => died(
            phase,
            DeathCause::Stopped,
            format!("the program's standard input could not be read: {cause}"),
        ),
    }
}

fn killed_evidence(by: Killer) -> &'static str {
    match by {
        Killer::Request => "a kill was requested on the control socket",
        Killer::ClientGone => "the client's end of the lease was closed",
        Killer::HostSignal => "the runner got SIGTERM or SIGINT",
    }
}

fn deadline(phase: Phase) -> Ending {
    match phase {
        Phase::Booting(step) => {
            let cause = "the boot's deadline passed".to_owned();
            let evidence = format!("the boot's deadline passed in step {step}");
            Ending::new(Outcome::NotStarted { step, cause }, DeathCause::TimedOut, evidence)
        }
        Phase::Sent => {
            let cause =
                "the boot's deadline passed before the agent had said that the program runs".to_owned();
            died(phase, DeathCause::TimedOut, cause)
        }
        Phase::Running => Ending::new(
            Outcome::TimedOut,
            DeathCause::TimedOut,
            "the program's time was over on the host's clock",
        ),
    }
}

fn vmm(phase: Phase, event: &VmmEvent) -> Ending {
    let (cause, sentence) = told(event);
    died(phase, cause, sentence)
}

/// What that event means for a VMM, typed and as a sentence.
pub(crate) fn told(event: &VmmEvent) -> (DeathCause, String) {
    match event {
        VmmEvent::GuestPanicked => {
            (DeathCause::GuestPanic, "the guest's kernel panicked (pvpanic)".to_owned())
        }
        VmmEvent::GuestShutdown => (DeathCause::GuestShutdown, "the guest powered itself off".to_owned()),
        VmmEvent::GuestReset => (DeathCause::GuestShutdown, "the guest reset itself".to_owned()),
        VmmEvent::MonitorLost => {
            (DeathCause::Unknown, "the VMM's monitor hung up while the VMM lives".to_owned())
        }
        VmmEvent::Exited(VmmExit::Unknown) => {
            (DeathCause::Unknown, "the VMM ended and its exit status could not be read".to_owned())
        }
        VmmEvent::Exited(VmmExit::Signal(signal)) => {
            (DeathCause::of_vmm_signal(*signal), format!("the VMM was killed by signal {signal}"))
        }
        VmmEvent::Exited(VmmExit::Code(code)) => {
            (DeathCause::VmmExited { code: *code }, format!("the VMM exited with code {code}"))
        }
    }
}

/// A death that nobody asked for: before the program was sent it never ran, after it nobody can know.
fn died(phase: Phase, cause: DeathCause, sentence: String) -> Ending {
    let outcome = match phase {
        Phase::Booting(step) => Outcome::NotStarted { step, cause: sentence.clone() },
        Phase::Sent | Phase::Running => Outcome::Lost { cause: sentence.clone() },
    };
    Ending::new(outcome, cause, sentence)
}

/// How every panic of Linux begins on the console.
const PANIC: &str = "Kernel panic - not syncing: ";
/// What Linux panics with when memory has run out and nothing is left to kill, or nothing may be killed.
const OUT_OF_MEMORY: [&str; 2] = ["System is deadlocked on memory", "Out of memory"];

/// Names the death of a guest that panicked more exactly, by the end of what its console said. The device that tells
/// of a panic does not say why; and a kernel without a driver for it resets the machine instead. What a console says
/// is the guest's claim, and is kept as evidence.
pub(crate) fn name_panic(ending: &mut Ending, console: &str) {
    if !matches!(ending.cause, DeathCause::GuestPanic | DeathCause::GuestShutdown) {
        return;
    }
    let said = console.lines().rev().find_map(|line| line.split_once(PANIC)).map(|(_, why)| why);
    let Some(why) = said else { return };
    let memory = OUT_OF_MEMORY.iter().any(|words| why.starts_with(words));
    let (cause, sentence) = if memory {
        (DeathCause::GuestOutOfMemory, "the guest as a whole ran out of memory")
    } else {
        (DeathCause::GuestPanic, "the guest's kernel panicked")
    };
    let sentence = format!("{sentence}; its console says: {}", guest_words(why));
    ending.cause = cause;
    match &mut ending.outcome {
        Outcome::NotStarted { cause, .. } | Outcome::Lost { cause } => cause.clone_from(&sentence),
        // It had ended before the guest did.
        _ => {}
    }
    ending.evidence.push(sentence);
}

/// What the agent's word about the program's end means. It is a claim, and recorded as such; a claim that no
/// program could make true is a broken protocol.
pub(crate) fn exited(end: &Exited) -> Ending {
    let evidence = format!("the agent reported the program's end: {end:?}");
    let outcome = match (end.code, end.signal) {
        (Some(code), None) if !EXIT_CODES.contains(&code) => None,
        (None, Some(signal)) if !SIGNALS.contains(&signal) => None,
        (Some(_), Some(_)) | (None, None) => None,
        (Some(_), None) | (None, Some(_)) if end.deadline_passed => Some(Outcome::TimedOut),
        (None, Some(_)) if end.out_of_memory => Some(Outcome::OutOfMemory),
        (Some(code), None) => Some(Outcome::of_exit(code)),
        (None, Some(signal)) => Some(Outcome::Signalled { signal }),
    };
    if let Some(outcome) = outcome {
        return Ending::new(outcome, DeathCause::Stopped, evidence);
    }
    let cause = "the agent reported an end that cannot be".to_owned();
    Ending::new(Outcome::Lost { cause }, DeathCause::GuestProtocol, evidence)
}

/// Exit codes that a process can have.
const EXIT_CODES: std::ops::RangeInclusive<i32> = 0..=255;
/// Signals that a process can die of.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_model::WorkloadState;
    use outlast_model::workload::WorkloadEvent;
    use proptest::prelude::*;

    fn interrupt() -> impl Strategy<Value = Interrupt> {
        prop_oneof![
            Just(Interrupt::Vmm(VmmEvent::GuestPanicked)),
            Just(Interrupt::Vmm(VmmEvent::GuestShutdown)),
            Just(Interrupt::Vmm(VmmEvent::GuestReset)),
            Just(Interrupt::Vmm(VmmEvent::MonitorLost)),
            (1..65).prop_map(|signal| Interrupt::Vmm(VmmEvent::Exited(VmmExit::Signal(signal)))),
            (0..256).prop_map(|code| Interrupt::Vmm(VmmEvent::Exited(VmmExit::Code(code)))),
            Just(Interrupt::LinkLost("x".to_owned())),
            Just(Interrupt::AgentSilent("x".to_owned())),
            Just(Interrupt::ProtocolBroken("x".to_owned())),
            Just(Interrupt::ClientGone),
            Just(Interrupt::KillRequested),
            Just(Interrupt::HostSignal),
            Just(Interrupt::StopWanted),
            Just(Interrupt::RowGone),
            Just(Interrupt::NotOurs),
            Just(Interrupt::DeadlinePassed),
            Just(Interrupt::OutputNotKept("x".to_owned())),
            Just(Interrupt::InputNotGiven("x".to_owned())),
        ]
    }

    proptest! {
        /// Whatever happens whenever, the outcome is one the life cycle allows, and never success.
        #[test]
        fn every_interrupt_has_a_legal_outcome(interrupt in interrupt(), step in prop::sample::select(BootStep::ALL), sent: bool, runs: bool) {
            let phase = if runs { Phase::Running } else if sent { Phase::Sent } else { Phase::Booting(step) };
            // The row says `running` once publish is over, which is before the program is sent.
            let published = sent || runs || step > BootStep::Publish;
            let state = if published { WorkloadState::Running } else { WorkloadState::Starting };
            let ending = interrupted(phase, &interrupt);
            prop_assert_ne!(&ending.outcome, &Outcome::Completed);
            prop_assert!(state.step(WorkloadEvent::Ended(ending.outcome)).is_ok());
        }

        /// Only a clean exit with code 0 is success, whatever else the agent claims.
        #[test]
        fn only_exit_code_0_completes(code in prop::option::of(any::<i32>()), signal in prop::option::of(any::<i32>()), out_of_memory: bool, deadline_passed: bool) {
            let end = Exited { code, signal, out_of_memory, deadline_passed, wall_us: 1 };
            let completed = exited(&end).outcome == Outcome::Completed;
            prop_assert_eq!(completed, code == Some(0) && signal.is_none() && !deadline_passed);
        }
    }

    #[test]
    fn an_end_that_cannot_be_is_no_end_of_the_program() {
        let lies = [
            (Some(256), None),
            (Some(-1), None),
            (Some(i32::MIN), None),
            (None, Some(0)),
            (None, Some(65)),
            (None, None),
            (Some(0), Some(9)),
        ];
        for (code, signal) in lies {
            for flag in [false, true] {
                let end = Exited { code, signal, out_of_memory: flag, deadline_passed: flag, wall_us: 1 };
                let ending = exited(&end);
                assert!(matches!(ending.outcome, Outcome::Lost { .. }), "{end:?}");
                assert_eq!(ending.cause, DeathCause::GuestProtocol);
            }
        }
    }

    #[test]
    fn a_panic_is_named_by_what_the_console_says_last() {
        let panicked = || interrupted(Phase::Running, &Interrupt::Vmm(VmmEvent::GuestPanicked));
        let named = |console: &str| {
            let mut ending = panicked();
            name_panic(&mut ending, console);
            (ending.cause, ending.outcome)
        };
        assert_eq!(named("booting\n").0, DeathCause::GuestPanic);
        let memory =
            "[    9.1] Kernel panic - not syncing: System is deadlocked on memory\n[    9.2] CPU: 0\n";
        let (cause, outcome) = named(memory);
        assert_eq!(cause, DeathCause::GuestOutOfMemory);
        assert!(matches!(outcome, Outcome::Lost { cause } if cause.contains("ran out of memory")));
        let forced = "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled";
        assert_eq!(named(forced).0, DeathCause::GuestOutOfMemory);
        let (cause, outcome) = named("Kernel panic - not syncing: sysrq \u{1b}[2J triggered crash");
        assert_eq!(cause, DeathCause::GuestPanic);
        assert!(matches!(outcome, Outcome::Lost { cause } if !cause.chars().any(char::is_control)));
    }

    #[test]
    fn a_reset_after_a_panic_is_the_panic_and_other_deaths_keep_their_names() {
        let console = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
        let mut reset = interrupted(Phase::Running, &Interrupt::Vmm(VmmEvent::GuestReset));
        name_panic(&mut reset, console);
        assert_eq!(reset.cause, DeathCause::GuestPanic);
        let mut killed = interrupted(Phase::Running, &Interrupt::KillRequested);
        let before = killed.clone();
        name_panic(&mut killed, console);
        assert_eq!(killed, before);
    }

    #[test]
    fn a_death_that_nobody_can_name_is_unknown_and_says_what_was_seen() {
        let seen = [
            Interrupt::Vmm(VmmEvent::MonitorLost),
            Interrupt::Vmm(VmmEvent::Exited(VmmExit::Unknown)),
            Interrupt::LinkLost("closed".to_owned()),
            Interrupt::NotOurs,
        ];
        for interrupt in seen {
            let ending = interrupted(Phase::Running, &interrupt);
            assert_eq!(ending.cause, DeathCause::Unknown, "{interrupt:?}");
            assert!(!ending.evidence[0].is_empty(), "{interrupt:?}");
        }
    }

    #[test]
    fn a_sigsys_of_the_vmm_is_its_confinement() {
        let ending = interrupted(Phase::Running, &Interrupt::Vmm(VmmEvent::Exited(VmmExit::Signal(31))));
        assert_eq!(ending.cause, DeathCause::VmmBlocked);
    }
}
