//! What a guest tells of its cases, a line each, and the judgement of it.
//!
//! The order is fixed: the plan, then begin and end of every case in the plan's order, then the totals. Anything
//! else, a line more or less, a line cut short, is a flaw, and a flaw is never green. Not here: how lines travel.

use serde::{Deserialize, Serialize};

/// Before every record; a line without it is not one.
const PREFIX: &str = "outlast-lab ";

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should.
    Pass,
    /// Not so.
    Fail,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// What is going to be run.
    Plan {
        /// The suite's name.
        suite: String,
        /// The names of its cases, in order.
        cases: Vec<String>,
    },
    /// A case begins.
    Begin {
        /// Its name.
        case: String,
    },
    /// A case has ended.
    Case {
        /// Its name.
        case: String,
        /// How.
        verdict: Verdict,
        /// How long it took, in milliseconds of the guest's clock.
        millis: u64,
        /// What it said when it failed.
        detail: String,
    },
    /// Everything has ended.
    End {
        /// How many cases passed.
        passed: usize,
        /// How many did not.
        failed: usize,
    },
}

impl Record {
    /// The line, with its end.
    pub fn line(&self) -> String {
        let json = serde_json::to_string(self).expect("a record is plain data");
        format!("{PREFIX}{json}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix(PREFIX)?).ok()
    }
}

/// A case that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Its name.
    pub case: String,
    /// How long it took, in milliseconds of the guest's clock.
    pub millis: u64,
}

/// Judges the records of a guest that was asked to run `suite` with these cases.
///
/// # Errors
/// The first flaw, or every case that failed.
pub fn judge(text: &str, suite: &str, cases: &[&str]) -> Result<Vec<Passed>, String> {
    let records = parse(text)?;
    let mut rest = records.into_iter();
    let planned = Record::Plan {
        suite: suite.to_owned(),
        cases: cases.iter().map(|case| (*case).to_owned()).collect(),
    };
    match rest.next() {
        Some(plan) if plan == planned => {}
        Some(other) => return Err(format!("the first record is not the plan that was asked for: {other:?}")),
        None => return Err("there is no record at all".to_owned()),
    }
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for case in cases {
        match (rest.next(), rest.next()) {
            (
                Some(Record::Begin { case: begun }),
                Some(Record::Case { case: ended, verdict, millis, detail }),
            ) if begun == *case && ended == *case => match verdict {
                Verdict::Pass => passed.push(Passed { case: ended, millis }),
                Verdict::Fail => failed.push(format!("{ended}: {detail}")),
            },
            (begin, end) => return Err(format!("case {case} is not told: {begin:?}, {end:?}")),
        }
    }
    let totals = Record::End { passed: passed.len(), failed: failed.len() };
    match (rest.next(), rest.next()) {
        (Some(end), None) if end == totals => {}
        (end, more) => return Err(format!("the end is not {totals:?}: {end:?}, {more:?}")),
    }
    if failed.is_empty() { Ok(passed) } else { Err(failed.join("\n")) }
}

fn parse(text: &str) -> Result<Vec<Record>, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last record is cut short".to_owned());
    }
    let parsed =
        text.lines().map(|line| Record::parse(line).ok_or_else(|| format!("not a record: {line:?}")));
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [&str; 2] = ["one", "two"];

    fn records(second: Verdict) -> Vec<String> {
        let case = |case: &str, verdict| Record::Case {
            case: case.to_owned(),
            verdict,
            millis: 5,
            detail: "why".to_owned(),
        };
        let failed = usize::from(second == Verdict::Fail);
        let all = [
            Record::Plan { suite: "s".to_owned(), cases: CASES.map(str::to_owned).to_vec() },
            Record::Begin { case: "one".to_owned() },
            case("one", Verdict::Pass),
            Record::Begin { case: "two".to_owned() },
            case("two", second),
            Record::End { passed: 2 - failed, failed },
        ];
        all.iter().map(Record::line).collect()
    }

    fn judged(lines: &[String]) -> Result<Vec<Passed>, String> {
        judge(&lines.concat(), "s", &CASES)
    }

    #[test]
    fn a_whole_record_of_passes_is_green() {
        assert_eq!(judged(&records(Verdict::Pass)).unwrap().len(), 2);
    }

    #[test]
    fn a_failed_case_is_red_and_named() {
        assert_eq!(judged(&records(Verdict::Fail)).unwrap_err(), "two: why");
    }

    #[test]
    fn a_line_less_or_a_line_twice_or_two_changed_about_is_red() {
        let whole = records(Verdict::Pass);
        for index in 0..whole.len() {
            let mut lines = whole.clone();
            lines.remove(index);
            assert!(judged(&lines).is_err(), "without line {index}");
            let mut lines = whole.clone();
            lines.insert(index, whole[index].clone());
            assert!(judged(&lines).is_err(), "with line {index} twice");
            for other in 0..index {
                let mut lines = whole.clone();
                lines.swap(index, other);
                assert!(judged(&lines).is_err(), "with lines {index} and {other} changed about");
            }
        }
    }

    #[test]
    fn a_record_cut_short_anywhere_is_red() {
        let whole = records(Verdict::Pass).concat();
        for length in 0..whole.len() {
            assert!(judge(&whole[..length], "s", &CASES).is_err(), "at {length}");
        }
    }

    #[test]
    fn another_suite_another_plan_and_noise_are_red() {
        let whole = records(Verdict::Pass).concat();
        assert!(judge(&whole, "t", &CASES).is_err());
        assert!(judge(&whole, "s", &["one"]).is_err());
        assert!(judge(&whole, "s", &["one", "two", "three"]).is_err());
        assert!(judge(&format!("{whole}noise\n"), "s", &CASES).is_err());
        let wrong_totals = whole.replace("\"passed\":2", "\"passed\":3");
        assert!(judge(&wrong_totals, "s", &CASES).is_err());
    }
}
