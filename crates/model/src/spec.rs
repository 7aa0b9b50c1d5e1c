//! The checked request for a workload: what travels on after every setting was read and defaulted.

use crate::unit::{Memory, Timeout, VcpuCount};
use std::fmt;
use thiserror::Error;

/// A workload as it will be run. Every value is resolved; nobody reads a setting or the environment later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSpec {
    /// The image's name.
    pub image: String,
    /// The runtime's name, when the program is source code.
    pub runtime: Option<String>,
    /// Program and arguments in the guest.
    pub argv: Vec<String>,
    /// Environment variables that were asked for.
    pub env: Vec<EnvVar>,
    /// vCPUs of the machine.
    pub vcpus: VcpuCount,
    /// `memory.max` of the program's cgroup in the guest.
    pub memory: Memory,
    /// How long the program may run, from its start.
    pub timeout: Timeout,
    /// How much output is kept, in bytes.
    pub output_limit: u64,
}

/// One environment variable; the name is not empty and holds no `=`, neither part holds a zero byte.
/// Its value may be a secret and is not in its debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    name: String,
    value: String,
}

/// A text is not an environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvError {
    /// There is no `=`.
    #[error("'{text}' is not KEY=VALUE")]
    NoEquals {
        /// What was written.
        text: String,
    },
    /// There is nothing before the `=`.
    #[error("the name before '=' is empty")]
    EmptyName,
    /// The name has a character other than letters, digits and `_`, or begins with a digit.
    #[error("'{name}' is not a name of letters, digits and '_'")]
    BadName {
        /// The name.
        name: String,
    },
    /// The value holds a zero byte, which no environment can carry.
    #[error("the value of {name} holds a zero byte")]
    ZeroByte {
        /// The name.
        name: String,
    },
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "EnvVar({}=…)", self.name)
    }
}

impl EnvVar {
    /// Reads `KEY=VALUE`; the value may be empty and may hold more `=`.
    ///
    /// # Errors
    /// [`EnvError`] says what is wrong; a value is never repeated, it may be a secret.
    pub fn parse(text: &str) -> Result<Self, EnvError> {
        let shorten = |s: &str| s.chars().take(40).collect::<String>();
        let Some((name, value)) = text.split_once('=') else {
            return Err(EnvError::NoEquals { text: shorten(text) });
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() {
            return Err(EnvError::EmptyName);
        }
        if !name.chars().all(valid) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(EnvError::BadName { name: shorten(name) });
        }
        if value.contains('\0') {
            return Err(EnvError::ZeroByte { name: shorten(name) });
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `KEY=VALUE`.
    pub fn assignment(&self) -> String {
        format!("{}={}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn assignments_are_checked() {
        assert_eq!(EnvVar::parse("A=b=c").unwrap().assignment(), "A=b=c");
        assert_eq!(EnvVar::parse("A=").unwrap().name(), "A");
        assert!(matches!(EnvVar::parse("A"), Err(EnvError::NoEquals { .. })));
        assert_eq!(EnvVar::parse("=x"), Err(EnvError::EmptyName));
        assert!(matches!(EnvVar::parse("1A=x"), Err(EnvError::BadName { .. })));
        assert!(matches!(EnvVar::parse("A B=x"), Err(EnvError::BadName { .. })));
        assert!(matches!(EnvVar::parse("A=x\0y"), Err(EnvError::ZeroByte { .. })));
    }

    #[test]
    fn debug_output_keeps_the_value_to_itself() {
        let shown = format!("{:?}", EnvVar::parse("TOKEN=hunter2").unwrap());
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_accepted_is_kept(text in ".{0,60}") {
            if let Ok(var) = EnvVar::parse(&text) {
                prop_assert_eq!(var.assignment(), text);
            }
        }
    }
}
