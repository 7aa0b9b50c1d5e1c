//! Runs one case and judges it: the right state, cause and step, one end in the log, nothing left, the disk kept, and the
//! next start works.

use super::plan::{Expected, Plan, plan};
use super::{Case, Fault, Way};
use crate::call::{Output, Running};
use crate::crash::Cause;
use crate::crash::cause::Scene;
use crate::crash::ends::{expect_ends, release};
use crate::deadline::{until, within};
use crate::lab::Lab;
use crate::process::{self, Process};
use crate::setup::Setup;
use outlast_prove::{BootStep, Inventory};
use outlast_wire::paths::Evidence;
use outlast_wire::vm_view::{IncarnationView, VmView};
use rustix::process::Signal;
use std::time::Duration;

/// The VM.
const WEB: &str = "web";
/// Its snapshot.
const SNAPSHOT: &str = "before";
const SOON: Duration = Duration::from_secs(20);
/// Longer than a boot's deadline and everything that may follow.
const AT_LAST: Duration = Duration::from_secs(180);

/// Runs a case in a lab of its own.
///
/// # Panics
/// When it does not end as it must; that is how a test says no.
pub fn run(case: Case) {
    let Plan::Do { cause, expected } = plan(case) else { panic!("{} makes no sense", case.name()) };
    let setup = cause.map_or_else(Setup::new, Cause::setup);
    setup.marked_for_proofs().run(|lab| Trial { lab, case, cause, expected }.run());
}

impl Way {
    /// What is asked.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Start => &["vm", "start", WEB],
            Self::Cold => &["vm", "start", "--cold", WEB],
            Self::Restore => &["vm", "restore", WEB, SNAPSHOT],
        }
    }

    /// Makes a VM that is stopped and has something on its disk, and whatever else this way needs.
    #[track_caller]
    fn prepare(self, lab: &Lab) {
        lab.create_vm(WEB);
        match self {
            Self::Start | Self::Cold => self.begin(lab),
            Self::Restore => Self::Start.begin(lab),
        }
        lab.sh(WEB, "echo kept > /root/kept; sync").expect_code(0);
        if self == Self::Restore {
            lab.snapshot(WEB, SNAPSHOT);
            lab.sh(WEB, "echo late > /root/late; sync").expect_code(0);
        }
        lab.outlast(&["vm", "stop", WEB]).expect_code(0);
    }

    /// A beginning that nobody disturbs.
    #[track_caller]
    fn begin(self, lab: &Lab) {
        lab.outlast(self.words()).expect_code(0);
    }
}

/// A case in its lab.
struct Trial<'a> {
    lab: &'a Lab,
    case: Case,
    cause: Option<Cause>,
    expected: Expected,
}

impl Trial<'_> {
    fn run(&self) {
        self.case.way.prepare(self.lab);
        until("the runner of its first start is gone, zombie and all", SOON, || {
            process::all().iter().all(|process| process.comm != "outlast-runner").then_some(())
        });
        let before = self.lab.inventory();
        let running =
            self.lab.call(self.case.way.words()).env("OUTLAST_HOLD", self.case.point.name()).start();
        let evidence = self.lab.until_held(self.case.point);
        let output = self.strike(running, &evidence);
        let view = self.settled();
        self.judge(&view);
        self.judge_client(&output);
        self.judge_death(&view.incarnations[0]);
        self.expect_clean(&before);
        if self.case.way == Way::Restore {
            self.expect_disk_of_the_one_that_won();
        }
        self.case.way.begin(self.lab);
        self.expect_kept();
    }

    fn is_published(&self) -> bool {
        !matches!(self.expected, Expected::Failed(_))
    }

    /// A restore that was not published has changed nothing of the disk that the VM had; one that was has given it the
    /// snapshot's. There is no third one, and no other disk.
    #[track_caller]
    fn expect_disk_of_the_one_that_won(&self) {
        Way::Start.begin(self.lab);
        self.lab.sh(WEB, "test -e /root/late").expect_code(i32::from(self.is_published()));
        self.expect_kept();
        let directory = self.lab.directory_of(WEB);
        let entries = std::fs::read_dir(directory.path()).expect("the VM's directory is there").flatten();
        let disks = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("disk"));
        assert_eq!(disks.count(), 1, "in {}", directory.path().display());
    }

    /// Does it, and waits for whoever asked.
    fn strike(&self, running: Running, evidence: &Evidence) -> Output {
        match self.case.fault {
            Fault::Runner => {
                let (runner, vmms) = (self.lab.runner(), self.vmms());
                runner.kill();
                until("the kernel has taken its VMM along", SOON, || {
                    vmms.iter().all(Process::is_dead).then_some(())
                });
                running.wait()
            }
            Fault::Vmm => {
                let vmm = self.lab.vmm(&self.lab.runner());
                vmm.kill();
                until("the runner has looked at how its VMM ended", SOON, || vmm.is_gone().then_some(()));
                release(evidence);
                running.wait()
            }
            Fault::Client => {
                let output = running.kill();
                release(evidence);
                output
            }
            Fault::Error | Fault::Timeout => self.cause(running, evidence),
        }
    }

    fn cause(&self, running: Running, evidence: &Evidence) -> Output {
        let cause = self.cause.expect("an error or a timeout has a cause");
        let scene = Scene { lab: self.lab, evidence, clone: self.case.way == Way::Start };
        let heal = cause.make(&scene);
        if cause.releases() {
            release(evidence);
        }
        let output = running.wait();
        heal();
        output
    }

    fn vmms(&self) -> Vec<Process> {
        process::vmms_of(self.lab.runner().pid()).iter().filter_map(Process::hold).collect()
    }

    /// As anybody sees it, once it is not on its way any more.
    #[track_caller]
    fn settled(&self) -> VmView {
        let over = |view: &VmView| match self.expected {
            Expected::Runs | Expected::RunsCold => view.summary.state == "running",
            Expected::Failed(_) | Expected::Ended => {
                ["failed", "stopped"].contains(&view.summary.state.as_str())
            }
        };
        let seen = within(AT_LAST, || Some(self.lab.show_vm(WEB)).filter(over));
        seen.unwrap_or_else(|| panic!("it is not {:?}: {:#?}", self.expected, self.lab.show_vm(WEB)))
    }

    #[track_caller]
    fn judge(&self, view: &VmView) {
        let failed = view.summary.failed_start.as_ref();
        match self.expected {
            Expected::Failed(step) => {
                assert_eq!(view.summary.state, "failed", "{view:#?}");
                let failed = failed.expect("the step at which it failed");
                assert_eq!(failed.step, step.name(), "{view:#?}");
                assert!(!failed.cause.is_empty(), "{view:#?}");
            }
            Expected::Ended => {
                assert_eq!((view.summary.state.as_str(), failed), ("stopped", None), "{view:#?}");
            }
            Expected::Runs | Expected::RunsCold => {
                assert_eq!((view.summary.state.as_str(), failed), ("running", None), "{view:#?}");
                assert!(view.incarnations[0].certificate.is_some(), "{view:#?}");
            }
        }
        assert_eq!(view.incarnations.len(), 2, "one before and one that was tried: {view:#?}");
        let fell_back = self.expected == Expected::RunsCold;
        assert_eq!(view.incarnations[0].fell_back.is_some(), fell_back, "{view:#?}");
    }

    #[track_caller]
    fn judge_client(&self, output: &Output) {
        match (self.expected, self.case.fault) {
            (_, Fault::Client) => assert_eq!(output.signal(), Some(Signal::KILL.as_raw()), "{output}"),
            // Whoever cannot write down what became of it says that.
            (Expected::Failed(_), _) if self.cause.is_some_and(Cause::silences_the_client) => {
                assert!(matches!(output.code(), Some(1 | 4)), "{output}");
            }
            (Expected::Failed(step), _) => {
                output.expect_code(1).expect_stderr(&["web did not start", step.name()]);
            }
            // Who asked when it was published was answered rightly; who looked when it had ended, too.
            (Expected::Ended, _) if self.case.upcoming.is_some() => {
                assert!(matches!(output.code(), Some(0 | 4)), "{output}");
            }
            (Expected::Runs | Expected::RunsCold | Expected::Ended, _) => drop(output.expect_code(0)),
        }
    }

    /// The product's own record says that what was done to it has happened, once.
    #[track_caller]
    fn judge_death(&self, incarnation: &IncarnationView) {
        let lives = matches!(self.expected, Expected::Runs | Expected::RunsCold);
        expect_ends(self.lab, &incarnation.id, usize::from(!lives));
        let Some(death) = &incarnation.death else {
            assert!(lives, "there is a death certificate: {incarnation:#?}");
            return;
        };
        let (cause, by) = match self.case.fault {
            Fault::Runner if self.case.upcoming == Some(BootStep::Claim) => ("never_claimed", "reconciler"),
            Fault::Runner => ("runner_killed", "reconciler"),
            Fault::Vmm => ("vmm_signalled", "runner"),
            // As many causes as there are errors; the step is judged above.
            Fault::Error | Fault::Timeout => (death.cause.as_str(), death.by.as_str()),
            Fault::Client => panic!("nobody killed it: {incarnation:#?}"),
        };
        assert_eq!((death.cause.as_str(), death.by.as_str()), (cause, by), "{incarnation:#?}");
        if cause == "vmm_signalled" {
            assert_eq!(death.signal, Some(Signal::KILL.as_raw()), "{incarnation:#?}");
        }
    }

    /// Nothing is left of it; of one that runs, once it is stopped. What it kept is there before and after.
    #[track_caller]
    fn expect_clean(&self, before: &Inventory) {
        if matches!(self.expected, Expected::Runs | Expected::RunsCold) {
            self.expect_kept();
        }
        // One that has restored its disk has another one than before, which is looked at below.
        if self.case.way != Way::Restore || !self.is_published() {
            self.lab.expect_as(before);
        }
        let leaks = self.lab.doctor().leaks;
        assert!(leaks.is_empty(), "{leaks:#?}");
    }

    #[track_caller]
    fn expect_kept(&self) {
        self.lab.sh(WEB, "cat /root/kept").expect_code(0).expect_stdout("kept\n");
        self.lab.outlast(&["vm", "stop", "--force", WEB]).expect_code(0);
    }
}
