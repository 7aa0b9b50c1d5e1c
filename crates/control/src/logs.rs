//! What a workload wrote and what its guest's console said: so far, or to its end.

use crate::error::Error;
use crate::evidence;
use crate::follow::{FollowError, Sink, Tail, attend};
use crate::site::Site;
use crate::workload::{WorkloadError, find};
use outlast_model::{Outcome, WorkloadState};
use std::io;

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// What the program wrote.
    Output,
    /// What the guest's console said, boot messages first.
    Console,
}

/// How far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What is there now.
    SoFar,
    /// Everything, as it comes, until the workload is over.
    ToTheEnd,
}

/// What there is to say after a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfterLog {
    /// Bytes of output that were not kept.
    pub truncated_bytes: u64,
    /// How the workload ended, if it has.
    pub outcome: Option<Outcome>,
}

/// Passes a log on to `sink`.
///
/// # Errors
/// There is no such workload, its log cannot be read, or `sink` takes no more.
pub fn logs(site: &Site, id: &str, log: Log, extent: Extent, sink: &mut dyn Sink) -> Result<AfterLog, Error> {
    let known = find(site, id)?;
    let evidence = site.places().evidence(known.incarnation.id);
    if evidence::is_pruned(&evidence, &known.incarnation) {
        return Err(WorkloadError::Pruned { id: known.workload.id }.into());
    }
    let mut tail = match log {
        Log::Output => Tail::of(&evidence)?,
        Log::Console => Tail::of_console(&evidence)?,
    };
    let over = match &known.workload.state {
        WorkloadState::Over(outcome) => Some(outcome.clone()),
        WorkloadState::Pending | WorkloadState::Starting | WorkloadState::Running => None,
    };
    if over.is_none() && extent == Extent::ToTheEnd {
        let finished = attend(site, &known, tail, sink)?;
        return Ok(AfterLog { truncated_bytes: finished.truncated_bytes, outcome: Some(finished.outcome) });
    }
    let mut broken: Option<io::Error> = None;
    tail.drain(&mut |stream, bytes| {
        if broken.is_none() {
            broken = sink.write(stream, bytes).err();
        }
    })?;
    if let Some(source) = broken {
        return Err(FollowError::Sink { workload: known.workload.id, source }.into());
    }
    Ok(AfterLog { truncated_bytes: known.incarnation.truncated_bytes, outcome: over })
}
