//! Starts a VM, and waits until it is certified and published, or has not started.
//!
//! ```text
//!   find ──► lives already? ──────────────────────────────────────────────► wait for that one
//!     │ no
//!     └──► ground, accelerator, template ─► intent (one commit) ─► launch ─► wait ─► published
//!                                            │ somebody was first              └───► ended: step and cause
//!                                            └────────────────────────────────────► wait for theirs
//! ```
//!
//! Of however many start one VM at once, the store lets exactly one through; the others wait for the same machine.
//! Nothing here undoes a start that fails: its runner does, or whoever reconciles.

use super::error::VmError;
use super::find::{find_for_sure, reread};
use super::list::started_view;
use super::words::{how_it_ended, why_not_running};
use crate::accelerator::{self, AcceleratorChoice};
use crate::birth::bring_to_life;
use crate::error::Error;
use crate::follow::{FollowError, Tail};
use crate::incarnation::{self, Ground, Made};
use crate::launch::Order;
use crate::notice::Notify;
use crate::reconcile::{self, Standing};
use crate::request::{check_disk, image_of_command};
use crate::site::Site;
use crate::template;
use crate::{clock, evidence, wait};
use outlast_machine::disk;
use outlast_machine::image::{Bootable, Lease as Lock, MemoryNeeds};
use outlast_machine::process::{Process, Sighting};
use outlast_model::limit::GUEST_PIDS;
use outlast_model::{DeathCause, IncarnationId, IncarnationState, Memory, Place, VmState, timeout};
use outlast_store::{IncarnationRow, NewVmStart, StartNote, StoreError, VmRow};
use outlast_wire::intent::{Machine, Purpose, Scratch, Start};
use outlast_wire::template::TemplateIngredients;
use outlast_wire::vm_view::VmStartedView;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// How a VM is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartRequest {
    /// The accelerator.
    pub accelerator: AcceleratorChoice,
    /// Boot, even if there is a template.
    pub cold: bool,
}

/// Starts a VM and waits until it runs. One that runs already is a success.
///
/// # Errors
/// [`VmError::StartFailed`] with step and cause when it did not start: everything of the attempt is undone then.
/// [`VmError::WrongState`] when it is paused or stopping; what is wrong with the host.
pub fn start(
    site: &Site,
    name: &str,
    request: StartRequest,
    notify: Notify<'_>,
) -> Result<VmStartedView, Error> {
    let vm = find_for_sure(site, name)?;
    if vm.removal_requested_unix_ns.is_some() {
        return Err(VmError::BeingRemoved { name: vm.name.to_string() }.into());
    }
    if let Some(incarnation) = vm.incarnation.filter(|_| vm.state.is_living()) {
        return join(site, &vm, incarnation);
    }
    site.require_namespaces()?;
    let (made, locks) = ready(site, &vm, request, notify)?;
    let incarnation = incarnation::new_id()?;
    match write_down(site, &vm, incarnation, made)? {
        StartNote::New => {
            bring_up(site, incarnation, &locks)?;
            evidence::retain(site);
            let row = await_start(site, &vm, incarnation)?;
            Ok(started_view(&vm, &row, false))
        }
        StartNote::AlreadyLiving { incarnation, .. } => join(site, &reread(site, vm.id)?, incarnation),
    }
}

/// Waits for a machine that somebody else started.
fn join(site: &Site, vm: &VmRow, incarnation: IncarnationId) -> Result<VmStartedView, Error> {
    let wrong = |so| VmError::WrongState { name: vm.name.to_string(), state: vm.state, so };
    match vm.state {
        VmState::Paused => Err(wrong(", not stopped: it is resumed, not started").into()),
        VmState::Stopping => Err(wrong("; it can be started once it is stopped").into()),
        VmState::Created | VmState::Starting | VmState::Running | VmState::Stopped | VmState::Failed => {
            let row = await_start(site, vm, incarnation)?;
            Ok(started_view(vm, &row, true))
        }
    }
}

/// Everything the runner needs, checked.
fn ready(
    site: &Site,
    vm: &VmRow,
    request: StartRequest,
    notify: Notify<'_>,
) -> Result<(Made, Vec<Lock>), Error> {
    let (path, disk) = (site.places().vm(vm.id).disk_of(vm.disk_of), vm.spec.disk());
    disk::check(&path, disk.format(), disk.size().bytes())
        .map_err(|source| VmError::Disk { name: vm.name.to_string(), source })?;
    let Footing { ground, machine, purpose, ingredients } =
        footing(site, vm, path, request.accelerator, notify)?;
    let mut locks = ground.locks();
    let (start, fell_back) = if request.cold {
        (Start::Boot, None)
    } else {
        template::beginning(site, &ground, &machine, &mut locks, notify)?
    };
    let ingredients = Some(ingredients);
    Ok((Made { purpose, machine, start, boot_timeout: timeout::BOOT, fell_back, ingredients }, locks))
}

/// What every start of a VM stands on, from whatever it starts.
pub(super) struct Footing {
    pub(super) ground: Ground,
    pub(super) machine: Machine,
    pub(super) purpose: Purpose,
    /// What must be equal for the memory of the machine to mean the same in another one.
    pub(super) ingredients: TemplateIngredients,
}

/// Opens and checks it. Whether `disk` is there is not looked at.
pub(super) fn footing(
    site: &Site,
    vm: &VmRow,
    disk: PathBuf,
    accelerator: AcceleratorChoice,
    notify: Notify<'_>,
) -> Result<Footing, Error> {
    let spec = &vm.spec;
    let libraries = site.places().libraries();
    let bootable = Bootable::choose(&libraries, image_of_command(&libraries, spec.image())?)?;
    check_disk(site.places().home(), 0)?;
    let ground = Ground::open(site, bootable)?;
    let chosen = accelerator::choose(site, accelerator, &ground, notify)?;
    let (format, bytes) = (spec.disk().format().name().to_owned(), spec.disk().size().bytes());
    let scratch = Some(Scratch { path: disk, format, bytes });
    let machine = Machine { scratch, ..ground.machine(chosen, spec.vcpus(), spec.memory()) };
    let purpose = Purpose::Vm {
        vm: vm.id.to_string(),
        name: vm.name.to_string(),
        memory_max: left_for_programs(ground.needs(), spec.memory()),
        pids_max: GUEST_PIDS,
    };
    // A warm-up is a template's, and leaves nothing that a machine depends on.
    let ingredients = TemplateIngredients { warm_up: Vec::new(), ..ground.ingredients(&machine)? };
    Ok(Footing { ground, machine, purpose, ingredients })
}

/// What of a machine is not the guest's own, in bytes: a program without such a limit would starve the whole guest,
/// which livelocks, instead of meeting its own limit.
fn left_for_programs(needs: MemoryNeeds, machine: Memory) -> u64 {
    let rest = machine.bytes().saturating_sub(needs.reserve.bytes());
    let share = needs.reserve_share.map_or(0, |share| rest / share);
    rest.saturating_sub(share).max(needs.min_limit.bytes())
}

/// Writes the intent, unless the VM lives by now.
pub(super) fn write_down(
    site: &Site,
    vm: &VmRow,
    incarnation: IncarnationId,
    made: Made,
) -> Result<StartNote, Error> {
    let preparation = incarnation::make_evidence(site, incarnation)?;
    let now = clock::unix_ns();
    let intent = made.intent(site.honoured_hold(), now);
    let noted = site.store()?.start_vm(&NewVmStart { vm: vm.id, incarnation, intent, created_unix_ns: now });
    drop(preparation);
    match noted {
        Ok(StartNote::New) => Ok(StartNote::New),
        Ok(living) => {
            incarnation::forget(site, incarnation);
            Ok(living)
        }
        Err(error) => {
            incarnation::forget_unless_written(site, incarnation);
            Err(match error {
                StoreError::VmBeingRemoved { name } => VmError::BeingRemoved { name }.into(),
                StoreError::VmRemoved { name } => VmError::NotFound { name, near: Vec::new() }.into(),
                error => error.into(),
            })
        }
    }
}

/// That no runner could be started is seen in its row, and is no error here. A VM's holds no lease: it outlives us.
pub(super) fn bring_up(site: &Site, incarnation: IncarnationId, locks: &[Lock]) -> Result<(), Error> {
    let hold = site.honoured_hold().filter(|hold| matches!(hold.place, Place::Launcher(_)));
    let order = Order { store: site.store()?.id(), incarnation, leased: false, locks, hold };
    bring_to_life(site, &order).map(drop)
}

/// Waits until an incarnation was published, or has ended. What is waited for is its journal, which grows with every
/// step and after the publication, and its runner's death; what is believed is the store.
pub(super) fn await_start(site: &Site, vm: &VmRow, id: IncarnationId) -> Result<IncarnationRow, Error> {
    let mut journal = Tail::of_journal(&site.places().evidence(id))?;
    let mut runner: Option<Process> = None;
    loop {
        // Order matters: what is written after this look is told by the descriptor that is waited for below.
        journal.acknowledge()?;
        journal.drain(&mut |_, _| {})?;
        let row = row_of(site, id)?;
        if row.state == IncarnationState::Ended {
            return Err(did_not_start(site, vm, &row)?);
        }
        if row.running_unix_ns.is_some() {
            return Ok(row);
        }
        if runner.is_none() {
            match row.runner.as_ref().map(Process::open) {
                Some(Sighting::Alive(process)) => runner = Some(process),
                Some(Sighting::Dead(_)) => return Err(ended(site, vm, id)?),
                Some(Sighting::Undecided(_)) | None => {}
            }
        }
        let mut watched = vec![journal.as_fd()];
        watched.extend(runner.as_ref().map(Process::as_fd));
        // Nobody to watch yet: its claim changes the journal, or its deadline passes.
        let within = if runner.is_some() { timeout::HEARTBEAT_LOST } else { timeout::CLAIM };
        match wait::readable(&watched, within).map_err(FollowError::Wait)? {
            Some(0) => {}
            Some(_) => return Err(ended(site, vm, id)?),
            // Nothing happens: is there still somebody at work? A runner that is stopped or overdue is ended by this.
            None => {
                if let Standing::Over(row) = reconcile::reconcile(site, id)? {
                    return Err(did_not_start(site, vm, &row)?);
                }
            }
        }
    }
}

fn row_of(site: &Site, id: IncarnationId) -> Result<IncarnationRow, Error> {
    Ok(site.store()?.incarnation(id)?.ok_or(StoreError::NoIncarnation { id })?)
}

/// Its runner is gone: the end is written, if it was not, and told.
fn ended(site: &Site, vm: &VmRow, id: IncarnationId) -> Result<Error, Error> {
    let row = reconcile::settle(site, id)?;
    did_not_start(site, vm, &row)
}

fn did_not_start(site: &Site, vm: &VmRow, row: &IncarnationRow) -> Result<Error, Error> {
    let (name, now) = (vm.name.to_string(), reread(site, vm.id)?);
    // Of one that was wanted stopped it is kept, too, how far it came; that is no failure of the start. Of one after
    // which it was started again only its death can tell.
    let wanted = if now.incarnation == Some(row.id) {
        now.state != VmState::Failed
    } else {
        row.death.as_ref().is_some_and(|death| death.cause == DeathCause::Stopped.name())
    };
    if let Some(failed) = row.failed_start.as_ref().filter(|_| !wanted) {
        let (step, cause) = (failed.step.clone(), failed.cause.clone());
        return Ok(VmError::StartFailed { name, step, cause }.into());
    }
    let why = row.death.as_ref().map_or_else(|| why_not_running(&now), how_it_ended);
    Ok(VmError::EndedMeanwhile { name, why }.into())
}
