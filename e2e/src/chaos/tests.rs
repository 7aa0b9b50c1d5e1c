//! The judge of chaos, judged: made-up records, and the verdict that each must have.

use super::{Ended, Flavor, Landed, Life, Moment, Part, Proof, Run, Seen, Target, plan, violations};
use outlast_prove::Verdict;
use outlast_wire::journal::{Journal, JournalEntry, JournalLine};
use outlast_wire::view::{EventView, WorkloadView};
use serde_json::{Value, json};
use std::time::Duration;

/// How a made-up run went.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Went {
    /// Struck before it was published.
    Early,
    /// Struck when it was published and had printed nothing.
    Silent,
    /// Struck while its program ran.
    Running,
    /// It ended by itself.
    Whole,
}

/// Everything there is to judge.
#[derive(Debug, Clone)]
struct Chaos {
    plan: Vec<Run>,
    ended: Vec<Ended>,
    seen: Seen,
}

impl Chaos {
    /// A plan of so many kills, all of which went as they should.
    fn of(kills: u32) -> Self {
        let second = Duration::from_secs(1);
        let runs = plan(11, kills, |_| Life { command: second, whole: second });
        let mut chaos = Self { plan: runs.clone(), ended: Vec::new(), seen: Seen::default() };
        for run in runs {
            let went = match run.moment {
                Moment::Never => Went::Whole,
                Moment::Program(_) | Moment::Ending(_) => Went::Running,
                Moment::Booting(_) => Went::Early,
                Moment::Clock(_) if run.number % 2 == 0 => Went::Early,
                Moment::Clock(_) | Moment::Published(_) => Went::Silent,
            };
            chaos.add(run, went);
        }
        chaos
    }

    fn add(&mut self, run: Run, went: Went) {
        let (kind, by) = match (went, run.target) {
            (Went::Whole, _) => (run.flavor.natural(), None),
            (_, Target::Cli) if run.flavor == Flavor::Detached => (run.flavor.natural(), None),
            (_, Target::Cli) => ("killed", Some("client gone")),
            (Went::Early, _) => ("not_started", None),
            (Went::Silent | Went::Running, _) => ("lost", None),
        };
        let (mark, id) = (run.mark(), format!("w{}", run.number));
        let published = went != Went::Early || kind == "completed";
        let printed = match (went, kind) {
            (_, "completed") => format!("{mark} begins\n{mark} ends\n"),
            (Went::Running | Went::Whole, _) => format!("{mark} begins\n"),
            _ => String::new(),
        };
        let view = view(&id, &run, (kind, by), published);
        for (event, subject) in [
            ("workload.accepted", format!("workload:{id}")),
            ("incarnation.ended", format!("incarnation:{}", view.incarnation)),
        ] {
            self.seen.events.push(EventView {
                seq: 1,
                unix_ns: 1,
                kind: event.to_owned(),
                subject,
                body: Value::Null,
                hash: String::new(),
            });
        }
        self.seen.workloads.push(view);
        self.seen.printed.insert(id, printed);
        let hit = went != Went::Whole;
        let natural = if run.flavor == Flavor::Timeout { 124 } else { 0 };
        let code = match (hit, run.target) {
            (true, Target::Cli) => None,
            (true, _) if run.flavor != Flavor::Detached => Some(125),
            _ => Some(natural),
        };
        self.ended.push(Ended {
            run,
            landed: if hit { Landed::Hit } else { Landed::Over },
            code,
            said: String::new(),
            command: Duration::from_secs(1),
            whole: Duration::from_secs(1),
        });
    }

    fn violations(&self) -> Vec<String> {
        violations(&self.ended, &self.seen)
    }

    fn proof(&self) -> Proof {
        Proof::of(&self.plan, &self.ended, &self.seen)
    }

    fn verdict(&self) -> Verdict {
        self.proof().verdict(&self.violations())
    }

    /// The first that was to be killed in this way and is of this flavor.
    fn first(&self, target: Target, kind: &str) -> usize {
        let is = |one: &Ended| {
            let view = self.seen.of(one).unwrap();
            one.run.target == target && view.outcome.as_ref().unwrap().kind == kind
        };
        self.ended.iter().position(is).unwrap()
    }

    fn view(&mut self, index: usize) -> &mut WorkloadView {
        let mark = self.ended[index].run.mark();
        self.seen.workloads.iter_mut().find(|view| view.argv.contains(&mark)).unwrap()
    }

    /// Its runner has found that it can not be restored.
    fn fall_back(&mut self, index: usize) {
        let id = self.view(index).id.clone();
        let entry = JournalEntry::FellBack { cause: "the restore failed".to_owned() };
        let lines = vec![JournalLine { unix_ns: 1, monotonic_ns: 1, entry }];
        self.seen.journals.insert(id, Journal { lines, torn_at: None });
    }

    #[track_caller]
    fn expect(&self, verdict: Verdict, words: &str) {
        let (violations, doubts) = (self.violations(), self.proof().doubts);
        assert_eq!(self.verdict(), verdict, "{violations:#?} {doubts:#?}");
        let said = violations.iter().chain(&doubts).any(|sentence| sentence.contains(words));
        assert!(said, "nothing says '{words}': {violations:#?} {doubts:#?}");
    }
}

fn view(id: &str, run: &Run, (kind, by): (&str, Option<&str>), published: bool) -> WorkloadView {
    let certificate = json!({
        "agent_version": "1", "guest_kernel": "6", "clock_offset_ns": [0, 0], "clock_samples": 1,
        "entropy_bytes": 32, "host_name": "h", "machine_id": "m",
    });
    let view = json!({
        "id": id, "incarnation": format!("i-{id}"), "state": kind, "runtime": null, "image": "base",
        "argv": ["sh", run.mark()], "vcpus": 1, "memory": 1, "machine_memory": 1, "timeout_ms": 1,
        "backend": "qemu", "accelerator": "tcg",
        "started_from": published.then(|| run.flavor.starts_from()),
        "created_unix_ns": 1, "ended_unix_ns": 2,
        "outcome": {"kind": kind, "exit_code": null, "signal": null, "by": by},
        "death": {"cause": "stopped", "evidence": [], "unix_ns": 2, "by": "runner"},
        "certificate": if published { certificate } else { Value::Null },
        "timings_ms": {"ready": null, "exec": null, "total": null},
        "truncated_bytes": 0, "runner_pid": null, "evidence": "",
    });
    serde_json::from_value(view).unwrap()
}

#[test]
fn house_chaos_that_went_as_it_should_passes() {
    for kills in [27, 40, 1000] {
        let chaos = Chaos::of(kills);
        assert_eq!(chaos.violations(), [""; 0]);
        assert_eq!(chaos.proof().doubts, [""; 0]);
        assert_eq!(chaos.verdict(), Verdict::Pass);
    }
}

#[test]
fn house_an_outcome_that_may_not_follow_fails_chaos() {
    let mut chaos = Chaos::of(40);
    let index = chaos.first(Target::Runner, "lost");
    chaos.view(index).outcome.as_mut().unwrap().kind = "killed".to_owned();
    chaos.expect(Verdict::Fail, "is not legal");

    let mut chaos = Chaos::of(40);
    let index = chaos.first(Target::Cli, "killed");
    chaos.view(index).outcome.as_mut().unwrap().by = Some("request".to_owned());
    chaos.expect(Verdict::Fail, "is not legal");
}

#[test]
fn house_an_outcome_that_its_output_gives_the_lie_to_fails_chaos() {
    let mut chaos = Chaos::of(40);
    let index = chaos.first(Target::Vmm, "not_started");
    let (id, mark) = (chaos.view(index).id.clone(), chaos.ended[index].run.mark());
    chaos.seen.printed.insert(id, format!("{mark} begins\n"));
    chaos.expect(Verdict::Fail, "not_started, and printed");
}

#[test]
fn house_a_loss_of_what_was_never_published_fails_chaos() {
    let mut chaos = Chaos::of(40);
    let index = chaos.first(Target::Runner, "lost");
    chaos.view(index).certificate = None;
    chaos.expect(Verdict::Fail, "was never published");
}

#[test]
fn house_no_outcome_two_ends_and_two_workloads_fail_chaos() {
    let mut chaos = Chaos::of(40);
    chaos.view(3).outcome = None;
    chaos.expect(Verdict::Fail, "no outcome");

    let mut chaos = Chaos::of(40);
    let end = chaos.seen.events.iter().find(|event| event.kind == "incarnation.ended").cloned();
    chaos.seen.events.extend(end);
    chaos.expect(Verdict::Fail, "ended 2 times");

    let mut chaos = Chaos::of(40);
    let twice = chaos.seen.workloads[5].clone();
    chaos.seen.workloads.push(twice);
    chaos.expect(Verdict::Fail, "2 workloads");
}

#[test]
fn house_what_is_left_of_a_run_that_is_over_fails_chaos() {
    let mut chaos = Chaos::of(40);
    let alone = chaos.ended.iter().position(|one| one.run.moment == Moment::Never).unwrap();
    chaos.ended[alone].landed = Landed::Left;
    chaos.expect(Verdict::Fail, "it is over");
}

#[test]
fn house_a_run_whose_client_lived_and_that_nobody_accepted_fails_chaos() {
    let mut chaos = Chaos::of(40);
    let index = chaos.first(Target::Vmm, "lost");
    let id = chaos.view(index).id.clone();
    chaos.seen.workloads.retain(|view| view.id != id);
    chaos.expect(Verdict::Fail, "no workload, and its client lived");
}

#[test]
fn house_clones_that_booted_leave_chaos_unknown() {
    let mut chaos = Chaos::of(40);
    let index = chaos.first(Target::Runner, "lost");
    assert_ne!(chaos.ended[index].run.flavor, Flavor::Cold);
    chaos.view(index).started_from = Some("boot".to_owned());
    chaos.expect(Verdict::Unknown, "1 runs were to start by a clone and did not");

    // Killed before it was published, and known to have fallen back all the same.
    let mut chaos = Chaos::of(40);
    let index = chaos.first(Target::Runner, "not_started");
    chaos.view(index).fell_back = Some("the library is refused".to_owned());
    chaos.expect(Verdict::Unknown, "the library is refused");

    let mut chaos = Chaos::of(40);
    let index = chaos.first(Target::Runner, "not_started");
    chaos.fall_back(index);
    chaos.expect(Verdict::Unknown, "the restore failed");
}

#[test]
fn house_a_clone_that_booted_because_its_vmm_was_killed_is_no_doubt_and_a_kill_before_its_publication() {
    let mut chaos = Chaos::of(40);
    let index = chaos.first(Target::Vmm, "lost");
    let before = chaos.proof();
    chaos.fall_back(index);
    // It booted, and its program ran to its end.
    let (mark, natural) = (chaos.ended[index].run.mark(), chaos.ended[index].run.flavor.natural());
    let view = chaos.view(index);
    view.started_from = Some("boot".to_owned());
    view.fell_back = Some("the VMM was killed by signal 9".to_owned());
    view.outcome.as_mut().unwrap().kind = natural.to_owned();
    let id = view.id.clone();
    chaos.seen.printed.insert(id, format!("{mark} begins\n{mark} ends\n"));
    chaos.ended[index].code = Some(if natural == "completed" { 0 } else { 124 });
    assert_eq!(chaos.violations(), [""; 0]);
    let proof = chaos.proof();
    assert_eq!((proof.fell_back_by_kill, proof.fell_back.len()), (1, 0));
    let early = |proof: &Proof| proof.parts[&Target::Vmm][&Part::BeforePublish];
    assert_eq!(early(&proof), early(&before) + 1);
}

#[test]
fn house_runs_of_which_too_few_tell_what_they_started_from_leave_chaos_unknown() {
    let mut chaos = Chaos::of(40);
    for view in &mut chaos.seen.workloads {
        view.started_from = None;
    }
    chaos.expect(Verdict::Unknown, "only 0 tell of it");
}

#[test]
fn house_a_part_of_life_in_which_nobody_was_killed_leaves_chaos_unknown() {
    // All kills hit a boot: what was once called a pass.
    let mut chaos = Chaos { plan: Chaos::of(300).plan, ended: Vec::new(), seen: Seen::default() };
    for run in chaos.plan.clone() {
        let went = if run.moment == Moment::Never { Went::Whole } else { Went::Early };
        chaos.add(run, went);
    }
    assert_eq!(chaos.violations(), [""; 0]);
    chaos.expect(Verdict::Unknown, "Vmm, Program: 0 runs, and 3 are needed");
    for target in Target::ALL {
        for part in ["AfterPublish", "Program"] {
            chaos.expect(Verdict::Unknown, &format!("{target:?}, {part}"));
        }
    }

    let mut chaos = Chaos::of(40);
    let never = |run: &Run| run.moment == Moment::Never && run.target == Target::Runner;
    chaos.plan.retain(|run| !never(run));
    chaos.ended.retain(|one| !never(&one.run));
    let marks: Vec<String> = chaos.plan.iter().map(Run::mark).collect();
    chaos.seen.workloads.retain(|view| marks.contains(&view.argv[1]));
    chaos.expect(Verdict::Unknown, "Runner, Natural: 0 runs");
}

#[test]
fn house_many_kills_that_came_too_late_leave_chaos_unknown() {
    for (late, verdict) in [(5, Verdict::Pass), (6, Verdict::Unknown)] {
        let chaos = Chaos::of(100);
        let mut with_late = Chaos { plan: chaos.plan.clone(), ended: Vec::new(), seen: Seen::default() };
        let mut left = late;
        for one in chaos.ended {
            let silent = matches!(one.run.moment, Moment::Clock(_)) && left > 0;
            left -= usize::from(silent);
            let went = match one.run.moment {
                _ if silent => Went::Whole,
                Moment::Never => Went::Whole,
                Moment::Published(_) => Went::Silent,
                Moment::Program(_) | Moment::Ending(_) => Went::Running,
                Moment::Clock(_) | Moment::Booting(_) => Went::Early,
            };
            with_late.add(one.run, went);
        }
        assert_eq!(with_late.proof().late, late);
        assert_eq!(with_late.verdict(), verdict, "{late}: {:#?}", with_late.proof().doubts);
    }
}

#[test]
fn house_many_boots_that_were_too_slow_leave_chaos_unknown() {
    let mut chaos = Chaos::of(90);
    let alone: Vec<usize> = (0..chaos.ended.len())
        .filter(|index| {
            chaos.ended[*index].run.target == Target::Vmm && chaos.ended[*index].landed == Landed::Hit
        })
        .take(4)
        .collect();
    for index in alone {
        let view = chaos.view(index);
        let outcome = view.outcome.as_mut().unwrap();
        outcome.kind = "not_started".to_owned();
        outcome.cause = Some("the boot's deadline passed".to_owned());
        let id = view.id.clone();
        chaos.seen.printed.insert(id, String::new());
    }
    chaos.expect(Verdict::Unknown, "the boot's deadline ended 4 of");
}

#[test]
fn house_a_run_without_a_record_leaves_chaos_unknown() {
    let mut chaos = Chaos::of(100);
    let gone = chaos.ended.pop().unwrap();
    chaos.seen.workloads.retain(|view| !view.argv.contains(&gone.run.mark()));
    chaos.expect(Verdict::Unknown, "are not all of them");
    let empty = Chaos { plan: Chaos::of(100).plan, ended: Vec::new(), seen: Seen::default() };
    assert_eq!(empty.verdict(), Verdict::Unknown);
}
