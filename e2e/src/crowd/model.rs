//! What a VM is, for whoever looks at it from outside, and what may be answered to whom in which state. Pure, and made
//! without a look at the product's own table.

use std::fmt;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// `vm create`.
    Create,
    /// `vm start`.
    Start,
    /// `vm stop`.
    Stop,
    /// `vm stop --force`.
    ForcedStop,
    /// `vm pause`.
    Pause,
    /// `vm resume`.
    Resume,
    /// `vm exec`.
    Exec,
    /// `vm rm`.
    Remove,
    /// `vm rm --force`.
    ForcedRemove,
    /// `vm ping`.
    Ping,
    /// `vm show`.
    Show,
    /// `vm ls`.
    List,
    /// The first half of a forced removal that was carried out: what lives is stopped.
    EndForRemoval,
}

/// A state's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// `created`.
    Created,
    /// `starting`.
    Starting,
    /// `running`.
    Running,
    /// `paused`.
    Paused,
    /// `stopping`.
    Stopping,
    /// `stopped`.
    Stopped,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is done.
    Done,
    /// There was nothing to do: it runs, or is stopped, already.
    Already,
    /// There is no such VM; of a list, it is not in it.
    NotFound,
    /// There is one of that name.
    Exists,
    /// Nothing of it lives.
    NotRunning,
    /// It is in this state: what was looked for, or the reason for a refusal.
    Is(Word),
    /// It is being removed.
    BeingRemoved,
    /// It was started, and has ended since.
    EndedMeanwhile,
    /// It was begun, and the VM's end came in between.
    CutOff,
}

/// One call and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who.
    pub client: u64,
    /// What.
    pub verb: Verb,
    /// Of which VM.
    pub name: String,
    /// When it was begun, in nanoseconds since the crowd came.
    pub begun: u64,
    /// When its answer was there.
    pub ended: u64,
    /// The answer.
    pub answer: Answer,
}

/// A VM between calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum State {
    Absent,
    Created,
    Running,
    Paused,
    Stopped,
}

/// What other calls overlap with one: only beside them may it be answered by what is passing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Beside {
    start: bool,
    end: bool,
    vcpus: bool,
    removal: bool,
}

impl Beside {
    /// What overlaps with the call of this index.
    pub(super) fn of(calls: &[Call], index: usize) -> Self {
        let call = &calls[index];
        let overlaps = |(other, that): &(usize, &Call)| {
            *other != index && that.begun <= call.ended && call.begun <= that.ended
        };
        let others: Vec<Verb> =
            calls.iter().enumerate().filter(overlaps).map(|(_, that)| that.verb).collect();
        let has = |verbs: &[Verb]| others.iter().any(|verb| verbs.contains(verb));
        Self {
            start: has(&[Verb::Start]),
            end: has(&[Verb::Stop, Verb::ForcedStop, Verb::EndForRemoval]),
            vcpus: has(&[Verb::Pause, Verb::Resume]),
            removal: has(&[Verb::Remove, Verb::ForcedRemove]),
        }
    }
}

/// The states that a VM may be in after this answer, when it was in `state` before; none when the answer would be a lie.
#[expect(clippy::match_same_arms, reason = "a table that is read line by line")]
pub(super) fn after(call: &Call, state: State, beside: Beside) -> Vec<State> {
    use State::{Absent, Created, Paused, Running, Stopped};
    let if_so = |so: bool| if so { vec![state] } else { Vec::new() };
    let still = matches!(state, Created | Stopped);
    let lives = matches!(state, Running | Paused);
    match (call.verb, call.answer) {
        (_, Answer::NotFound) => if_so(state == Absent),
        (_, Answer::Is(Word::Starting)) => if_so(beside.start),
        (_, Answer::Is(Word::Stopping)) => if_so(beside.end),
        (_, Answer::BeingRemoved) => if_so(beside.removal),
        // What is said by a runner comes a moment before, or after, what the store says.
        (Verb::Exec, Answer::Is(Word::Paused)) => if_so(state == Paused || beside.vcpus),
        (_, Answer::Is(word)) => if_so(word_of(state) == Some(word)),
        (Verb::Create, Answer::Done) if state == Absent => vec![Created],
        (Verb::Create, Answer::Exists) => if_so(state != Absent),
        (Verb::Start, Answer::Done) if still => vec![Running],
        (Verb::Start, Answer::Already) => if_so(state == Running),
        // Its own start, or one that it waited for.
        (Verb::Start, Answer::EndedMeanwhile) if beside.end && still => vec![Running, state],
        (Verb::Start, Answer::EndedMeanwhile) => if_so(beside.end),
        (Verb::Stop | Verb::ForcedStop | Verb::EndForRemoval, Answer::Done) if lives => vec![Stopped],
        (Verb::EndForRemoval, Answer::Done) => vec![state],
        // Ended by another one, which it waited for.
        (Verb::Stop | Verb::ForcedStop, Answer::Done) => if_so(beside.end),
        (Verb::Stop | Verb::ForcedStop, Answer::Already) => if_so(still),
        (Verb::Pause, Answer::Done) if lives => vec![Paused],
        (Verb::Resume, Answer::Done) if lives => vec![Running],
        (Verb::Ping, Answer::Done) => if_so(lives),
        (Verb::Exec, Answer::Done) => if_so(state == Running),
        (Verb::Pause | Verb::Resume | Verb::Exec | Verb::Ping, Answer::NotRunning) => if_so(still),
        (Verb::Pause | Verb::Resume | Verb::Exec | Verb::Ping, Answer::CutOff) => {
            if_so(beside.end || beside.vcpus)
        }
        (Verb::Remove | Verb::ForcedRemove, Answer::Done) if still => vec![Absent],
        // Removed by another one.
        (Verb::Remove | Verb::ForcedRemove, Answer::Done) => if_so(state == Absent && beside.removal),
        _ => Vec::new(),
    }
}

fn word_of(state: State) -> Option<Word> {
    match state {
        State::Absent => None,
        State::Created => Some(Word::Created),
        State::Running => Some(Word::Running),
        State::Paused => Some(Word::Paused),
        State::Stopped => Some(Word::Stopped),
    }
}

impl Word {
    /// The word, if it is one that a VM may be in here, where nothing fails.
    pub fn from_text(text: &str) -> Option<Self> {
        Some(match text {
            "created" => Self::Created,
            "starting" => Self::Starting,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            _ => return None,
        })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns / 1_000_000;
        let Self { client, verb, name, begun, ended, answer } = self;
        write!(out, "{:>6}..{:>6} ms  client {client}: {verb:?} {name}: {answer:?}", ms(*begun), ms(*ended))
    }
}
