//! A hostile agent in the agent's place: whatever comes over the guest link, the outcome is right and names its
//! cause, within its deadline; the runner stays small, a terminal is not spoken to, and the host is as before.

use outlast_e2e::call::{Output, Running};
use outlast_e2e::control::Control;
use outlast_e2e::{Lab, Setup, hostile, process, until};
use outlast_wire::journal::{Journal, JournalEntry};
use outlast_wire::paths::Evidence;
use outlast_wire::view::{RunView, WorkloadView};
use std::time::{Duration, Instant};

/// What a runner may take at its peak, in KiB, whatever its guest does.
const RUNNER_PEAK: u64 = 32 * 1024;
/// How long a boot may take, as published, and what comes after it.
const BOOT: Duration = Duration::from_secs(60 + 15);
/// How long one answer may take, as published, with a boot before it.
const ANSWER: Duration = Duration::from_secs(30 + 60);

/// A library without the real agent's initramfs and templates: what is made in it goes with the test.
fn on_hostile_lab(body: impl FnOnce(&Lab)) {
    Setup::new().library_with_only(&["images", "kernels", "vmm", "canary"]).run(body);
}

/// A run under attack.
struct Attack {
    name: &'static str,
    running: Running,
    started: Instant,
}

/// What became of it.
struct Seen {
    name: &'static str,
    output: Output,
    run: RunView,
    /// The largest peak of any runner that was there meanwhile, in KiB.
    peak: u64,
    took: Duration,
}

fn begin(lab: &Lab, name: &'static str, arguments: &[&str]) -> Attack {
    let libexec = hostile::arm(lab.binaries(), &lab.path(&name.replace('/', "-")), name);
    let mut line = vec!["run", "--json", "--cold", "--accel", "tcg", "--image", "base"];
    line.extend(arguments);
    line.extend(["--", "true"]);
    let call = lab.call(&line).env("OUTLAST_LIBEXEC", libexec).within(Duration::from_secs(1600));
    Attack { name, running: call.start(), started: Instant::now() }
}

/// The peak of every runner there is, as the kernel keeps it.
fn largest_peak() -> u64 {
    let peak = |entry: &process::Entry| {
        let text = process::Process::hold(entry)?.status("VmHWM")?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    process::runners().iter().filter_map(peak).max().unwrap_or(0)
}

impl Attack {
    /// Waits for its end, watching the runners' memory.
    fn end(self) -> Seen {
        end(vec![self]).remove(0)
    }
}

/// Waits until all are over, watching the runners' memory.
fn end(attacks: Vec<Attack>) -> Vec<Seen> {
    let mut peak = 0;
    let mut took = vec![None; attacks.len()];
    until("the attacks are over", Duration::from_secs(1600), || {
        peak = peak.max(largest_peak());
        for (attack, took) in attacks.iter().zip(&mut took) {
            if took.is_none() && !attack.running.is_running() {
                *took = Some(attack.started.elapsed());
            }
        }
        took.iter().all(Option::is_some).then_some(())
    });
    let seen = attacks.into_iter().zip(took).map(|(attack, took)| {
        let output = attack.running.wait();
        Seen { name: attack.name, run: output.json(), peak, took: took.unwrap_or_default(), output }
    });
    seen.collect()
}

impl Seen {
    /// What holds whatever the attack was.
    #[track_caller]
    fn expect_harmless(&self, lab: &Lab) -> WorkloadView {
        let name = self.name;
        eprintln!("{name}: {:?} after {:?}, peak {} KiB", self.run.outcome, self.took, self.peak);
        assert!(self.peak > 0 && self.peak < RUNNER_PEAK, "{name}: the runner's peak is {} KiB", self.peak);
        expect_plain(name, &self.output.stderr_text());
        expect_plain(name, &self.output.stdout_text());
        let view = lab.show(&self.run.id);
        for text in view.death.iter().flat_map(|death| &death.evidence) {
            expect_plain(name, text);
        }
        let shown = lab.outlast(&["show", &self.run.id]);
        expect_plain(name, &(shown.stdout_text() + &shown.stderr_text()));
        view
    }

    /// That the program never ran, for this reason.
    #[track_caller]
    fn expect_not_started(&self, lab: &Lab, step: &str, words: &str) {
        let view = self.expect_harmless(lab);
        let outcome = &self.run.outcome;
        assert_eq!(
            (outcome.kind.as_str(), outcome.step.as_deref()),
            ("not_started", Some(step)),
            "{view:#?}"
        );
        assert!(outcome.cause.as_deref().unwrap_or_default().contains(words), "{}: {outcome:?}", self.name);
        self.output.expect_code(125);
    }

    /// That nobody can know what it did, and why.
    #[track_caller]
    fn expect_lost(&self, lab: &Lab, cause: &str, words: &str) {
        let view = self.expect_harmless(lab);
        let outcome = &self.run.outcome;
        assert_eq!(outcome.kind, "lost", "{}: {view:#?}", self.name);
        assert!(outcome.cause.as_deref().unwrap_or_default().contains(words), "{}: {outcome:?}", self.name);
        assert_eq!(view.death.expect("it is dead").cause, cause, "{}", self.name);
        self.output.expect_code(125);
    }

    /// Why nothing was handed back, as the runner journalled it.
    #[track_caller]
    fn outputs_refused(&self, lab: &Lab) -> String {
        assert!(self.run.outputs_error.is_some(), "{}: the user is told", self.name);
        let view = lab.show(&self.run.id);
        let evidence = lab.places().incarnations().join(view.incarnation);
        let journal = std::fs::read(Evidence::at(evidence).journal()).expect("it ran, so it has a journal");
        let mut details = Journal::parse(&journal).lines.into_iter().filter_map(|line| match line.entry {
            JournalEntry::Program { phase, detail } if phase == "outputs" => detail,
            _ => None,
        });
        let words = details.next_back().expect("the runner has journalled what came back");
        expect_plain(self.name, &words);
        words
    }

    #[track_caller]
    fn expect_within(&self, limit: Duration) {
        assert!(self.took < limit, "{} took {:?}", self.name, self.took);
    }
}

/// That a terminal would show this and do nothing else.
#[track_caller]
fn expect_plain(name: &str, text: &str) {
    let plays = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(plays), "{name}: a terminal would obey {text:?}");
}

/// Runs attacks two at a time, as many as the machine has CPUs for.
fn all(lab: &Lab, attacks: &[(&'static str, &[&str])]) -> Vec<Seen> {
    let mut seen = Vec::new();
    for pair in attacks.chunks(2) {
        let begun: Vec<Attack> = pair.iter().map(|(name, arguments)| begin(lab, name, arguments)).collect();
        seen.extend(end(begun));
    }
    seen
}

#[test]
fn the_hostile_agent_is_honest_when_it_does_nothing_wrong() {
    on_hostile_lab(|lab| {
        let seen = begin(lab, "never/nothing", &[]).end();
        seen.expect_harmless(lab);
        assert_eq!(seen.run.outcome.kind, "completed", "{}", seen.output);
        assert_eq!(seen.run.stdout, "hello from a liar\n");
    });
}

#[test]
fn answers_that_are_repeated_and_late_change_nothing() {
    on_hostile_lab(|lab| {
        let seen = begin(lab, "repeat/everything", &[]).end();
        seen.expect_harmless(lab);
        assert_eq!(seen.run.outcome.kind, "completed", "{}", seen.output);
    });
}

#[test]
fn bytes_that_are_no_frames_end_a_boot_at_once() {
    on_hostile_lab(|lab| {
        let attacks: [(&str, &[&str]); 6] = [
            ("hello/rubbish", &[]),
            ("reseed/malformed", &[]),
            ("identity/huge", &[]),
            ("clock/over", &[]),
            ("clock/unknown", &[]),
            ("hello/wrong-protocol", &[]),
        ];
        let words = ["not the protocol", "not the protocol", "4294967295 bytes", "131072 bytes"];
        let words = words.into_iter().chain(["unknown kind", "speaks protocol"]);
        let steps = ["agent-hello", "certify", "certify", "certify", "certify", "agent-hello"];
        for ((seen, words), step) in all(lab, &attacks).iter().zip(words).zip(steps) {
            seen.expect_not_started(lab, step, words);
            seen.expect_within(BOOT);
        }
    });
}

#[test]
fn lies_about_itself_end_a_boot() {
    on_hostile_lab(|lab| {
        let attacks: [(&str, &[&str]); 4] =
            [("hello/old", &[]), ("identity/another", &[]), ("clock/early", &[]), ("exec/refuse", &[])];
        let seen = all(lab, &attacks);
        seen[0].expect_not_started(lab, "certify", "has run for");
        seen[1].expect_not_started(lab, "certify", "host name is");
        seen[2].expect_not_started(lab, "certify", "which nobody has opened");
        seen[3].expect_not_started(lab, "start-program", "the agent could not");
    });
}

#[test]
fn words_of_the_guest_play_with_no_terminal() {
    on_hostile_lab(|lab| {
        let seen = begin(lab, "hello/escapes", &[]).end();
        let view = seen.expect_harmless(lab);
        assert_eq!(seen.run.outcome.kind, "completed", "{}", seen.output);
        let certificate = view.certificate.expect("it was certified");
        assert!(certificate.agent_version.chars().count() <= 300);
        expect_plain("the agent's version", &certificate.agent_version);
        expect_plain("the guest's kernel", &certificate.guest_kernel);
    });
}

#[test]
fn a_program_that_was_sent_to_a_liar_is_lost_and_never_not_started() {
    on_hostile_lab(|lab| {
        let attacks: [(&str, &[&str]); 6] = [
            ("exec/rubbish", &[]),
            ("exec/output-first", &[]),
            ("exec/unopened", &[]),
            ("started/malformed", &[]),
            ("started/huge", &[]),
            ("started/unopened", &[]),
        ];
        for seen in all(lab, &attacks) {
            seen.expect_lost(lab, "guest_protocol", "");
            seen.expect_within(BOOT);
        }
    });
}

#[test]
fn an_end_that_cannot_be_is_no_outcome_of_the_program() {
    on_hostile_lab(|lab| {
        let attacks: [(&str, &[&str]); 4] =
            [("exit/256", &[]), ("exit/both", &[]), ("exit/neither", &[]), ("exit/signal-99", &[])];
        for seen in all(lab, &attacks) {
            seen.expect_lost(lab, "guest_protocol", "an end that cannot be");
        }
    });
}

#[test]
fn the_first_of_two_ends_counts_and_what_follows_is_not_heard() {
    on_hostile_lab(|lab| {
        let attacks: [(&str, &[&str]); 2] = [("exit/twice", &[]), ("exit/never-silent", &[])];
        for seen in all(lab, &attacks) {
            seen.expect_harmless(lab);
            assert_eq!(seen.run.outcome.kind, "completed", "{}", seen.output);
            assert_eq!(seen.run.stdout, "hello from a liar\n");
        }
    });
}

#[test]
fn silence_in_every_phase_ends_at_its_deadline() {
    on_hostile_lab(|lab| {
        let directory = lab.path("back");
        let back = ["--output-dir", directory.to_str().unwrap()];
        let input = lab.file("input.py", "pass");
        let stdin = ["--stdin", input.to_str().unwrap()];
        let attacks = [
            begin(lab, "hello/silence", &[]),
            begin(lab, "reseed/truncated", &[]),
            begin(lab, "exec/silence", &stdin),
            begin(lab, "started/silence", &["--timeout", "10s"]),
            begin(lab, "tree/silence", &back),
            begin(lab, "clock/hour-ahead", &[]),
        ];
        let seen = end(attacks.into());
        seen[0].expect_not_started(lab, "agent-hello", "deadline");
        // Six machines boot at once: on a busy host the boot's own deadline may come first.
        let cause = seen[1].run.outcome.cause.as_deref().unwrap_or_default();
        let reseed = "did not answer reseed within 30 s";
        let first = if cause.contains(reseed) { reseed } else { "the boot's deadline passed" };
        seen[1].expect_not_started(lab, "certify", first);
        seen[2].expect_lost(lab, "timed_out", "");
        let cause = seen[2].run.outcome.cause.as_deref().unwrap_or_default();
        let at_a_deadline = ["did not answer start program within 30 s", "the boot's deadline passed"];
        assert!(at_a_deadline.iter().any(|words| cause.contains(words)), "{cause}");
        seen[3].expect_harmless(lab);
        assert_eq!(seen[3].run.outcome.kind, "timed_out");
        seen[4].expect_harmless(lab);
        assert_eq!(seen[4].run.outcome.kind, "completed", "the outcome was decided before");
        assert!(seen[4].outputs_refused(lab).contains("did not answer get files"));
        seen[5].expect_not_started(lab, "certify", "deadline");
        for seen in seen {
            seen.expect_within(ANSWER);
        }
    });
}

#[test]
fn long_a_guest_whose_clock_stays_an_hour_behind_is_not_started() {
    on_hostile_lab(|lab| {
        let seen = begin(lab, "clock/hour-behind", &[]).end();
        seen.expect_not_started(lab, "certify", "deadline");
        seen.expect_within(ANSWER);
    });
}

#[test]
fn frames_that_never_end_meet_the_deadline_of_the_program() {
    on_hostile_lab(|lab| {
        let limit: &[&str] = &["--timeout", "5s"];
        let attacks = [("started/never-ending", limit), ("started/truncated", limit)];
        for seen in all(lab, &attacks) {
            seen.expect_harmless(lab);
            assert_eq!(seen.run.outcome.kind, "timed_out", "{}", seen.output);
            let exec = seen.run.timings_ms.exec.unwrap();
            assert!((5000.0..6000.0).contains(&exec), "{}: {exec} ms", seen.name);
        }
    });
}

/// A log of an output limit of 1 MiB is longer by half of it at most, for the headers of small pieces, and by 4 KiB;
/// one header, that of the mark of the cut, comes behind.
const LONGEST_LOG: u64 = (3 << 19) + 4096 + outlast_wire::output_log::HEADER as u64;

#[test]
fn long_floods_meet_the_deadline_of_the_program_and_the_runner_stays_small() {
    on_hostile_lab(|lab| {
        let limit: &[&str] = &["--timeout", "5s", "--output-limit", "1M"];
        let attacks = [
            ("started/flood", limit),
            ("started/flood-of-nothing", limit),
            ("started/flood-of-bytes", limit),
            ("started/flood-elsewhere", limit),
        ];
        for seen in all(lab, &attacks) {
            seen.expect_harmless(lab);
            assert_eq!(seen.run.outcome.kind, "timed_out", "{}", seen.output);
            let exec = seen.run.timings_ms.exec.unwrap();
            assert!((5000.0..6000.0).contains(&exec), "{}: {exec} ms", seen.name);
            assert!(seen.run.stdout.len() <= 1 << 20);
            let log = lab.incarnations().iter().map(Evidence::output_log).collect::<Vec<_>>();
            for log in log {
                let length = std::fs::metadata(log).unwrap().len();
                assert!(length <= LONGEST_LOG, "{}: a log of {length} bytes", seen.name);
            }
        }
    });
}

#[test]
fn a_flood_does_not_keep_a_kill_waiting() {
    on_hostile_lab(|lab| {
        let attack = begin(lab, "started/flood-elsewhere", &["--timeout", "100s"]);
        let id = until("it runs", BOOT, || {
            lab.workloads().into_iter().find(|view| view.state == "running").map(|view| view.id)
        });
        let began = Instant::now();
        lab.outlast(&["kill", &id]).expect_code(0);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let seen = attack.end();
        assert_eq!(seen.run.outcome.kind, "killed");
    });
}

#[test]
fn credit_beyond_all_measure_takes_no_memory() {
    on_hostile_lab(|lab| {
        let input = lab.file("input", vec![b'i'; 64 << 20]);
        let arguments = ["--stdin", input.to_str().unwrap(), "--timeout", "1500s"];
        let seen = begin(lab, "started/credit", &arguments).end();
        seen.expect_harmless(lab);
        assert_eq!(seen.run.outcome.kind, "completed", "{}", seen.output);
    });
}

#[test]
fn a_tree_that_is_none_is_not_handed_back_and_nothing_is_written_elsewhere() {
    on_hostile_lab(|lab| {
        let directory = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        let names =
            ["traversal", "absolute", "escapes", "liar", "no-file", "nothing-for-ever", "deep", "million"];
        let words = [
            "the path",
            "the path",
            "cannot write",
            "not one",
            "not one",
            "not one",
            "more than",
            "more than",
        ];
        let attacks = ["tree/traversal", "tree/absolute", "tree/escapes", "tree/liar"];
        let more = ["tree/no-file", "tree/nothing-for-ever", "tree/deep", "tree/million"];
        let targets: Vec<String> = names.iter().map(|name| directory(name)).collect();
        let arguments: Vec<[&str; 2]> =
            targets.iter().map(|target| ["--output-dir", target.as_str()]).collect();
        let attacks: Vec<(&'static str, &[&str])> =
            attacks.into_iter().chain(more).zip(&arguments).map(|(name, a)| (name, a.as_slice())).collect();
        for ((seen, words), target) in all(lab, &attacks).iter().zip(words).zip(&targets) {
            seen.expect_harmless(lab);
            assert_eq!(seen.run.outcome.kind, "completed", "the outcome was decided before");
            let error = seen.outputs_refused(lab);
            assert!(error.contains(words), "{}: {error}", seen.name);
            let left = std::fs::read_dir(target).into_iter().flatten().count();
            assert_eq!(left, 0, "{}: nothing of it is shown", seen.name);
        }
        assert!(!std::path::Path::new("/tmp/oe-escaped").exists());
        for evidence in lab.incarnations() {
            assert!(!evidence.outputs().with_extension("partial").exists(), "what had come is removed");
        }
    });
}

#[test]
fn an_endless_file_ends_at_the_limit_on_bytes() {
    on_hostile_lab(|lab| {
        let target = lab.path("endless");
        let seen = begin(lab, "tree/endless", &["--output-dir", target.to_str().unwrap()]).end();
        seen.expect_harmless(lab);
        let error = seen.outputs_refused(lab);
        assert!(error.contains("more than") || error.contains("Deadline"), "{error}");
        assert_eq!(seen.run.outcome.kind, "completed");
    });
}

#[test]
fn a_guest_that_ends_itself_is_lost_with_the_cause_of_its_death() {
    on_hostile_lab(|lab| {
        let attacks: [(&str, &[&str]); 5] = [
            ("started/panic", &[]),
            ("started/end", &[]),
            ("started/power-off", &[]),
            ("started/reset", &[]),
            ("started/memory", &[]),
        ];
        let causes =
            ["guest_panic", "guest_panic", "guest_shutdown", "guest_shutdown", "guest_out_of_memory"];
        let words =
            ["sysrq", "Attempted to kill init", "powered itself off", "reset itself", "ran out of memory"];
        for ((seen, cause), words) in all(lab, &attacks).iter().zip(causes).zip(words) {
            seen.expect_lost(lab, cause, words);
        }
    });
}

/// What a neighbour's guest may take for an answer while another guest attacks, ninety-five times of a hundred.
const NEIGHBOUR: Duration = Duration::from_millis(500);

#[test]
fn long_a_neighbour_answers_as_before_while_another_guest_floods() {
    on_hostile_lab(|lab| {
        let code = "import time\nprint('up', flush=True)\ntime.sleep(600)";
        let neighbour = lab.python(code, &["--cold", "--detach", "--timeout", "600s"]).run();
        let id = neighbour.expect_code(0).stdout_text().trim().to_owned();
        until("the neighbour runs", Duration::from_secs(120), || {
            (lab.outlast(&["logs", &id]).stdout == b"up\n").then_some(())
        });
        let run = lab.places().run().join(lab.show(&id).incarnation);
        let mut control = Control::connect(&run).unwrap();
        let mut left = 100;
        let mut hundred = || {
            left -= 1;
            left >= 0
        };
        let before = control.probe_while(&mut hundred);
        let attack = begin(lab, "started/flood", &["--timeout", "10s", "--output-limit", "1M"]);
        let during = control.probe_while(|| attack.running.is_running());
        let seen = attack.end();
        assert_eq!(seen.run.outcome.kind, "timed_out", "{}", seen.output);
        assert!(before.refused.is_empty() && during.refused.is_empty(), "{before:?} {during:?}");
        eprintln!(
            "neighbour p95: {:?} before (n {}), {:?} during (n {}), longest {:?}",
            before.p95(),
            before.round_trips.len(),
            during.p95(),
            during.round_trips.len(),
            during.longest()
        );
        assert!(during.p95() < NEIGHBOUR, "{:?}", during.p95());
        lab.outlast(&["kill", &id]).expect_code(0);
    });
}
