//! Fault points: where a runner or its launcher can be made to stand still, so that someone outside can break it
//! there.
//!
//! A hold never does harm by itself. Whoever is held says so and blocks; killing, starving or releasing it
//! is the business of whoever asked. PID 1 of a namespace ignores its own SIGKILL, so a runner that tried
//! to kill itself would prove nothing.

use crate::place::Place;
use crate::step::UnknownStep;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Which side of a step or phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Edge {
    /// Nothing of it has been done.
    Before,
    /// All of it has been done, nothing of the next.
    After,
}

/// One fault point, written `STEP:before` or `STEP:after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hold {
    /// The place.
    pub place: Place,
    /// The side.
    pub edge: Edge,
}

/// A text names no fault point.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HoldError {
    /// There is no colon, or neither `before` nor `after` behind it.
    #[error("'{text}' is not STEP:before or STEP:after")]
    Shape {
        /// What was written.
        text: String,
    },
    /// The step is unknown.
    #[error(transparent)]
    Step(#[from] UnknownStep),
}

impl fmt::Display for Edge {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.place, self.edge)
    }
}

impl FromStr for Hold {
    type Err = HoldError;
    fn from_str(text: &str) -> Result<Self, HoldError> {
        let shape = || HoldError::Shape { text: text.chars().take(60).collect() };
        let (place, edge) = text.split_once(':').ok_or_else(shape)?;
        let edge = match edge {
            "before" => Edge::Before,
            "after" => Edge::After,
            _ => return Err(shape()),
        };
        Ok(Self { place: place.parse()?, edge })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_two_fault_points_that_can_be_named() {
        for place in Place::all() {
            for edge in [Edge::Before, Edge::After] {
                let hold = Hold { place, edge };
                assert_eq!(hold.to_string().parse::<Hold>(), Ok(hold));
            }
        }
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(matches!("claim".parse::<Hold>(), Err(HoldError::Shape { .. })));
        assert!(matches!("claim:during".parse::<Hold>(), Err(HoldError::Shape { .. })));
        assert!(matches!("lunch:before".parse::<Hold>(), Err(HoldError::Step(_))));
    }
}
