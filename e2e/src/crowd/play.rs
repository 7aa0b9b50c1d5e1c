//! Makes a client's calls, one after the other, and reads what is said. What makes no sense to say is kept as it is, for
//! the judge.

use super::judge;
use super::model::{Answer, Call, Verb, Word};
use super::plan::{NAMES, Wish, Wishes};
use crate::call::Output;
use crate::lab::Lab;
use outlast_wire::view::ErrorView;
use outlast_wire::vm_view::{VmStartedView, VmStoppedView, VmSummary, VmView};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A call that takes longer than this hangs: a stop's own limit, a start's and a paused program's are all below.
const LIMIT: Duration = Duration::from_secs(120);

/// When a crowd leaves: when its time is over, and it has got something done; a host with much to do takes longer.
#[derive(Debug)]
pub struct Evening {
    since: Instant,
    least: Duration,
    done: Mutex<BTreeSet<Verb>>,
}

impl Evening {
    /// It begins.
    pub fn begin(least: Duration) -> Self {
        Self { since: Instant::now(), least, done: Mutex::default() }
    }

    fn is_over(&self) -> bool {
        let enough = || {
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            judge::missing(|verb| done.contains(&verb)).is_empty()
        };
        let elapsed = self.since.elapsed();
        elapsed >= self.least && (elapsed >= self.least * 6 || enough())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).expect("a test is shorter than five hundred years")
    }
}

/// The calls of one client until the evening is over, and what was said that cannot be.
pub fn play(lab: &Lab, seed: u64, client: u64, evening: &Evening) -> (Vec<Call>, Vec<String>) {
    let (mut calls, mut wrong) = (Vec::new(), Vec::new());
    for wish in Wishes::of(seed, client) {
        if evening.is_over() {
            break;
        }
        let begun = evening.now();
        let output = lab.call(&words(wish)).within(LIMIT).run();
        let ended = evening.now();
        match answers(wish, &output) {
            Ok(answers) => calls.extend(answers.into_iter().map(|(name, answer)| {
                if answer == Answer::Done {
                    evening.done.lock().unwrap_or_else(PoisonError::into_inner).insert(wish.verb);
                }
                Call { client, verb: wish.verb, name: name.to_owned(), begun, ended, answer }
            })),
            Err(why) => wrong.push(format!("client {client}: {why}: {output}")),
        }
    }
    (calls, wrong)
}

fn words(Wish { verb, name }: Wish) -> Vec<&'static str> {
    let words: &[&str] = match verb {
        Verb::Create => {
            let machine = ["--image", "base", "--memory", "128M", "--disk", "64M", "--disk-format", "raw"];
            return [&["vm", "create", "--json", name][..], &machine].concat();
        }
        Verb::Exec => {
            return vec!["vm", "exec", "--timeout", "20s", name, "--", "sh", "-c", "echo $HOSTNAME"];
        }
        Verb::List => return vec!["vm", "ls", "--json"],
        Verb::Start => &["start"],
        Verb::Stop => &["stop"],
        Verb::ForcedStop => &["stop", "--force"],
        Verb::Pause => &["pause"],
        Verb::Resume => &["resume"],
        Verb::Remove => &["rm"],
        Verb::ForcedRemove | Verb::EndForRemoval => &["rm", "--force"],
        Verb::Ping => &["ping"],
        Verb::Show => &["show"],
    };
    [&["vm"][..], words, &["--json", name]].concat()
}

type Answers = Vec<(&'static str, Answer)>;

/// What was said, of each VM that it was said of; or why it cannot be.
fn answers(wish: Wish, output: &Output) -> Result<Answers, String> {
    let of_it = |answer| Ok(vec![(wish.name, answer)]);
    match (wish.verb, output.code()) {
        (Verb::List, Some(0)) => list(&output.json::<Vec<VmSummary>>()),
        (Verb::Show, Some(0)) => {
            let view: VmView = output.json();
            of_it(if view.removed_unix_ns.is_some() { Answer::NotFound } else { is(&view.summary.state)? })
        }
        (Verb::Start, Some(0)) => of_it(done(output.json::<VmStartedView>().already)),
        (Verb::Stop | Verb::ForcedStop, Some(0)) => of_it(done(output.json::<VmStoppedView>().already)),
        (Verb::Exec, Some(0)) if output.stdout_text() != format!("{}\n", wish.name) => {
            Err("it ran somewhere else".to_owned())
        }
        (_, Some(0)) => of_it(Answer::Done),
        (Verb::Exec, Some(code)) => of_it(exec(code, &output.stderr_text())?),
        (_, Some(3 | 4)) => of_it(refusal(&output.json::<ErrorView>().error.message)?),
        (_, _) => Err("no such end is known of it".to_owned()),
    }
}

fn done(already: bool) -> Answer {
    if already { Answer::Already } else { Answer::Done }
}

fn is(state: &str) -> Result<Answer, String> {
    Word::from_text(state).map(Answer::Is).ok_or_else(|| format!("'{state}' is no state where nothing fails"))
}

fn list(vms: &[VmSummary]) -> Result<Answers, String> {
    let of = |name: &'static str| match vms.iter().find(|vm| vm.name == name) {
        Some(vm) => Ok((name, is(&vm.state)?)),
        None => Ok((name, Answer::NotFound)),
    };
    NAMES.into_iter().map(of).collect()
}

/// A program that did not end well: here only because of its VM.
fn exec(code: i32, said: &str) -> Result<Answer, String> {
    match code {
        // A stop ends programs before it ends the guest. A pause lets its time pass.
        124 | 129..=255 => Ok(Answer::CutOff),
        125 => Ok(refusal(said).unwrap_or(Answer::CutOff)),
        _ => Err("no program here ends like that".to_owned()),
    }
}

fn refusal(said: &str) -> Result<Answer, String> {
    let has = |words: &str| said.contains(words);
    Ok(match () {
        () if has("there is no VM") => Answer::NotFound,
        () if has("there is a VM") => Answer::Exists,
        () if has("is being removed") => Answer::BeingRemoved,
        () if has("was started and has ended") => Answer::EndedMeanwhile,
        () if has("is not running (") => Answer::NotRunning,
        () if has("is starting") => Answer::Is(Word::Starting),
        () if has("is stopping") => Answer::Is(Word::Stopping),
        () if has("is paused") => Answer::Is(Word::Paused),
        () if has("is running;") => Answer::Is(Word::Running),
        () if has("is ending") || has("is being stopped") || has("did not answer within") => Answer::CutOff,
        () => return Err(format!("'{said}' is not known")),
    })
}
