//! /proc/PID/stat, read without trusting it: a program chooses its own name, and the name is in there.
//!
//! Pure: bytes in, values out. Reading the file is the business of [`super`].

use thiserror::Error;

/// What is read of a process's stat line (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Field 1: the pid, in the PID namespace of the reader's /proc.
    pub pid: u32,
    /// Field 3: `R`, `S`, `D`, `Z`, `X`, …
    pub state: char,
    /// Field 4: the parent.
    pub parent: u32,
    /// Field 20: threads. A thread group whose leader has exited shows `Z` while other threads still run.
    pub threads: u64,
    /// Field 22: when it started, in clock ticks since boot.
    pub start_time: u64,
}

/// A stat line that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StatError {
    /// No name between parentheses.
    #[error("the stat line has no name in parentheses")]
    NoName,
    /// A field is missing or not a number.
    #[error("field {field} of the stat line is missing or no number")]
    Field {
        /// Counted from 1, as the manual does.
        field: usize,
    },
}

impl Stat {
    /// Reads one stat line.
    ///
    /// The name (field 2) may hold spaces, parentheses and line breaks, so it ends at the *last* closing
    /// parenthesis: every field after it is a number or one letter.
    pub fn parse(line: &[u8]) -> Result<Self, StatError> {
        let open = line.iter().position(|&byte| byte == b'(').ok_or(StatError::NoName)?;
        let close = line.iter().rposition(|&byte| byte == b')').ok_or(StatError::NoName)?;
        if close < open {
            return Err(StatError::NoName);
        }
        let pid = number(&line[..open]).ok_or(StatError::Field { field: 1 })?;
        let rest: Vec<&[u8]> = fields(&line[close + 1..]).collect();
        // The first field behind the name is field 3.
        let field = |n: usize| rest.get(n - 3).copied().ok_or(StatError::Field { field: n });
        let numeric = |n: usize| number(field(n)?).ok_or(StatError::Field { field: n });
        let state = match field(3)? {
            [letter] if letter.is_ascii_alphabetic() => char::from(*letter),
            _ => return Err(StatError::Field { field: 3 }),
        };
        Ok(Self {
            pid: small(pid).ok_or(StatError::Field { field: 1 })?,
            state,
            parent: small(numeric(4)?).ok_or(StatError::Field { field: 4 })?,
            threads: numeric(20)?,
            start_time: numeric(22)?,
        })
    }

    /// Whether this line alone proves death: exited (`Z`, `X`), with no thread that still runs.
    pub fn proves_death(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads <= 1
    }
}

fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    // `parse` would also take a leading plus, which the kernel never writes.
    if text.starts_with('+') { None } else { text.parse().ok() }
}

fn small(number: u64) -> Option<u32> {
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A line as the kernel writes it.
    fn line(pid: u32, name: &[u8], state: char, parent: u32, threads: u64, start: u64) -> Vec<u8> {
        let mut line = format!("{pid} (").into_bytes();
        line.extend_from_slice(name);
        line.extend_from_slice(
            format!(") {state} {parent} 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 {start} 9 9 18446744073709551615\n")
                .as_bytes(),
        );
        line
    }

    proptest! {
        #[test]
        fn any_name_is_survived(
            pid in 1u32..4_194_304, name in proptest::collection::vec(any::<u8>(), 0..64),
            state in prop::sample::select(vec!['R', 'S', 'D', 'Z', 'T', 't', 'X', 'I']),
            parent: u32, threads: u64, start_time: u64,
        ) {
            let parsed = Stat::parse(&line(pid, &name, state, parent, threads, start_time));
            prop_assert_eq!(parsed, Ok(Stat { pid, state, parent, threads, start_time }));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Stat::parse(&bytes);
        }

        #[test]
        fn a_line_cut_before_its_start_time_is_refused(cut: prop::sample::Index) {
            let whole = line(7, b"a) b (c", 'S', 1, 1, 4242);
            let start = whole.windows(4).position(|four| four == b"4242").unwrap();
            prop_assert!(Stat::parse(&whole[..cut.index(start + 1)]).is_err());
        }
    }

    #[test]
    fn a_name_made_to_look_like_the_rest_of_the_line_is_a_name() {
        let parsed = Stat::parse(&line(7, b"x) Z 1 1 1 0 -1 0", 'S', 3, 1, 42)).unwrap();
        assert_eq!((parsed.state, parsed.parent, parsed.start_time), ('S', 3, 42));
    }

    #[test]
    fn a_dead_leader_of_living_threads_is_not_dead() {
        let stat = |state, threads| Stat { pid: 1, state, parent: 0, threads, start_time: 1 };
        assert!(stat('Z', 1).proves_death() && stat('X', 0).proves_death());
        assert!(!stat('Z', 2).proves_death() && !stat('D', 1).proves_death());
    }
}
