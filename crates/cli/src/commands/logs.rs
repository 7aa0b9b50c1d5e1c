//! `outlast logs`.

use super::{DONE, Form};
use crate::args::LogsArgs;
use crate::failure::Failure;
use crate::output::json;
use crate::output::progress::warn;
use crate::output::stream::{Collected, OwnStreams};
use outlast_control::{Extent, Log, Site};
use outlast_wire::view::LogsView;

pub(super) fn logs(site: &Site, args: &LogsArgs, form: Form) -> Result<u8, Failure> {
    let log = if args.console { Log::Console } else { Log::Output };
    let extent = if args.follow { Extent::ToTheEnd } else { Extent::SoFar };
    if form == Form::Json {
        let mut collected = Collected::default();
        let after = outlast_control::logs(site, &args.id, log, extent, &mut collected)?;
        let (stdout, stderr) = collected.into_texts();
        let outcome = after.outcome.as_ref().map(Into::into);
        json(&LogsView { stdout, stderr, truncated_bytes: after.truncated_bytes, outcome })?;
        return Ok(DONE);
    }
    let after = outlast_control::logs(site, &args.id, log, extent, &mut OwnStreams::default())?;
    if after.truncated_bytes > 0 && log == Log::Output {
        warn(&format!("output truncated, {} bytes dropped", after.truncated_bytes));
    }
    Ok(DONE)
}
