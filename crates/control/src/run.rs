//! Runs a workload: checked, made ready, written down, launched, followed.
//!
//! ```text
//!   check ──► ground, accelerator, template ──► inputs on disk ──► accept (one commit) ──► launch ──► follow
//!     │ bad input ends here, nothing is made
//! ```
//!
//! From the commit on there is exactly one outcome, whatever becomes of this process.

use crate::accelerator;
use crate::archive::RefusedArchive;
use crate::birth::{Birth, bring_to_life};
use crate::error::Error;
use crate::follow::{End, Finished, Sink, follow};
use crate::incarnation::{self, Ground, Made};
use crate::launch::{Lease, Order};
use crate::notice::Notify;
use crate::request::{
    Checked, Files, RequestError, RunRequest, Stdin, What, check, check_disk, wire_program,
};
use crate::site::{Site, SiteError};
use crate::template;
use crate::{clock, evidence};
use outlast_machine::image::Lease as Lock;
use outlast_machine::sys::signal::Interrupts;
use outlast_model::limit::STDIN_BYTES;
use outlast_model::{IncarnationId, Place, WorkloadId, timeout};
use outlast_store::{Acceptance, NewWorkload};
use outlast_wire::intent::{Purpose, Start};
use outlast_wire::paths::Evidence;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// A workload that was accepted, now or by an earlier request with the same key.
#[derive(Debug)]
pub struct Accepted {
    /// Its id.
    pub id: WorkloadId,
    /// Whether an earlier request had made it: then it is not ours, and does not end with us.
    pub existing: bool,
    lease: Option<Lease>,
    reading: Option<Lock>,
}

/// Keeps the evidence of one run from being pruned.
#[derive(Debug)]
pub struct KeptEvidence {
    _reading: Option<Lock>,
}

/// Checks a request, gets everything ready, writes the workload down and starts its runner.
///
/// # Errors
/// Before the workload is written down: everything that is wrong with the request or the host, and nothing of it
/// is left. After that failures become its outcome, and this succeeds.
pub fn run(site: &Site, request: RunRequest, notify: Notify<'_>) -> Result<Accepted, Error> {
    if let Some(id) = earlier(site, &request)? {
        return Ok(Accepted { id, existing: true, lease: None, reading: None });
    }
    let mut checked = check(site, request)?;
    site.require_namespaces()?;
    let ground = Ground::open(site, checked.bootable.clone())?;
    let chosen = accelerator::choose(site, checked.request.accelerator, &ground, notify)?;
    let machine = ground.machine(chosen, checked.request.vcpus, checked.machine_memory);
    let mut locks = ground.locks();
    let (start, fell_back) = if checked.request.cold {
        (Start::Boot, None)
    } else {
        template::beginning(site, &ground, &machine, &mut locks, notify)?
    };
    let id = clock::new_workload_id().map_err(SiteError::Random)?;
    let incarnation = incarnation::new_id()?;
    let stdin = checked.request.stdin != Stdin::Nothing;
    let program = wire_program(&checked.spec, ground.image().manifest().runtime(), stdin);
    let purpose = Purpose::Workload { workload: id.to_string(), program, outputs: checked.request.outputs };
    let made = Made { purpose, machine, start, boot_timeout: timeout::BOOT, fell_back, ingredients: None };
    let preparation = incarnation::make_evidence(site, incarnation)?;
    let accepted = write_inputs(&site.places().evidence(incarnation), &mut checked)
        .and_then(|()| accept(site, &checked, (id, incarnation), made));
    drop(preparation);
    let leased = checked.request.leased;
    match accepted {
        Ok(Acceptance::New) => start_runner(site, (id, incarnation), leased, &locks),
        Ok(Acceptance::Existing(id)) => {
            incarnation::forget(site, incarnation);
            Ok(Accepted { id, existing: true, lease: None, reading: None })
        }
        Err(error) => {
            incarnation::forget_unless_written(site, incarnation);
            Err(error)
        }
    }
}

/// The workload that an earlier request with the same key made. Asked first, so that a repeated request gets its
/// answer whatever has become of its files, its image and the disk; of two at the same time the commit decides.
fn earlier(site: &Site, request: &RunRequest) -> Result<Option<WorkloadId>, Error> {
    let (Some(key), Some(store)) = (&request.idempotency_key, site.existing_store()?) else {
        return Ok(None);
    };
    Ok(store.workload_by_key(key)?)
}

fn accept(
    site: &Site,
    checked: &Checked,
    (id, incarnation): (WorkloadId, IncarnationId),
    made: Made,
) -> Result<Acceptance, Error> {
    let now = clock::unix_ns();
    let new = NewWorkload {
        id,
        incarnation,
        idempotency_key: checked.request.idempotency_key.clone(),
        spec: checked.spec.clone(),
        intent: made.intent(site.honoured_hold(), now),
        created_unix_ns: now,
    };
    Ok(site.store()?.accept(&new)?)
}

/// A runner that cannot be started is an outcome, not an error: the workload has been accepted.
fn start_runner(
    site: &Site,
    (id, incarnation): (WorkloadId, IncarnationId),
    leased: bool,
    locks: &[Lock],
) -> Result<Accepted, Error> {
    let hold = site.honoured_hold().filter(|hold| matches!(hold.place, Place::Launcher(_)));
    let order = Order { store: site.store()?.id(), incarnation, leased, locks, hold };
    let lease = match bring_to_life(site, &order)? {
        Birth::Alive(lease) => lease,
        Birth::Stillborn(_) => None,
    };
    // Order matters: what is read is leased before anything is tidied up, for which there is time while the guest boots.
    let reading = evidence::read(site, incarnation);
    evidence::retain(site);
    Ok(Accepted { id, existing: false, lease, reading })
}

fn write_inputs(evidence: &Evidence, checked: &mut Checked) -> Result<(), Error> {
    make_directory(&evidence.input())?;
    let files = evidence.input_files();
    make_directory(&files)?;
    match &checked.files {
        Files::None => {}
        Files::One { name, content } => write_file(&files.join(name), content)?,
        Files::Archive(archive) => {
            let path = match &checked.request.what {
                What::Archive { path, .. } => path.as_path(),
                What::File { .. } | What::Inline { .. } | What::Command { .. } => Path::new("-"),
            };
            archive.unpack(&files).map_err(RefusedArchive::at(path))?;
        }
    }
    match &checked.request.stdin {
        Stdin::Nothing => Ok(()),
        Stdin::File(path) => {
            let failed = |source| RequestError::Read { what: "standard input", path: path.clone(), source };
            copy_stdin(File::open(path).map_err(failed)?, path, &evidence.input_stdin())
        }
        Stdin::Own => copy_stdin(io::stdin().lock(), Path::new("-"), &evidence.input_stdin()),
    }
}

fn make_directory(path: &Path) -> Result<(), SiteError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(|source| SiteError::MakeDirectory { path: path.to_owned(), source })
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), SiteError> {
    let written = create(path).and_then(|mut file| file.write_all(content));
    written.map_err(|source| SiteError::Write { path: path.to_owned(), source })
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Copies standard input to disk, to its end, and refuses more than is allowed: a program sees all or nothing.
fn copy_stdin(from: impl Read, path: &Path, to: &Path) -> Result<(), Error> {
    let read = |source| RequestError::Read { what: "standard input", path: path.to_owned(), source };
    let write = |source| SiteError::Write { path: to.to_owned(), source };
    let mut file = create(to).map_err(write)?;
    let mut from = from.take(STDIN_BYTES + 1);
    let mut buffer = vec![0; 1024 * 1024];
    let mut size = 0;
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read(error).into()),
        };
        size += length as u64;
        if size > STDIN_BYTES {
            return Err(RequestError::StdinTooLarge { size }.into());
        }
        // Asked again and again: how much there will be is not known, and others write to this disk, too.
        check_disk(to, length as u64)?;
        file.write_all(&buffer[..length]).map_err(write)?;
    }
}

impl Accepted {
    /// Keeps the evidence of this run, with what the program handed back, from being pruned while the guard lives.
    pub fn keep_evidence(&mut self) -> KeptEvidence {
        KeptEvidence { _reading: self.reading.take() }
    }

    /// Follows it to its end. A run of ours ends with this process and on the first of `interrupts`; one that an
    /// earlier request made goes on without us.
    ///
    /// # Errors
    /// Following failed; see [`crate::FollowError`].
    pub fn follow(
        self,
        site: &Site,
        sink: &mut dyn Sink,
        interrupts: Option<&Interrupts>,
    ) -> Result<Finished, Error> {
        match self.lease {
            Some(lease) => follow(site, self.id, End::Lease(lease), sink, interrupts),
            None => follow(site, self.id, End::Runner(None), sink, interrupts),
        }
    }
}
