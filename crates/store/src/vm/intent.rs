//! Writing intent: VMs that are to be, and their starts.

use super::standing::VmRecord;
use super::types::{NewVm, NewVmStart, StartNote};
use crate::accept::{insert_incarnation, unless_taken};
use crate::audit::chain::{Entry, append};
use crate::decode::{encoded, stored};
use crate::error::{Fault, StoreError};
use crate::event::{EventKind, Subject};
use crate::sql;
use crate::store::Store;
use outlast_model::{VmEvent, VmState};
use outlast_wire::intent::Purpose;
use outlast_wire::vm::VmSpecRecord;
use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::json;

impl Store {
    /// Writes a VM. It is `created`; nothing on the host exists for it.
    ///
    /// # Errors
    /// [`StoreError::VmExists`] when another VM has that name and is not removed; [`StoreError::Exists`] when the id is
    /// taken; [`StoreError::NumberTooLarge`].
    pub fn create_vm(&self, new: &NewVm) -> Result<(), StoreError> {
        self.write("create a VM", |transaction| {
            if name_is_taken(transaction, new)? {
                return Err(StoreError::VmExists { name: new.name.to_string() }.into());
            }
            insert_vm(transaction, new)?;
            append(transaction, self.id(), &created(new))
        })
    }

    /// Writes the intent of a VM's next incarnation, unless one of it lives or is not proved over. One commit: of
    /// however many who start it at once, one is told [`StartNote::New`].
    ///
    /// # Errors
    /// [`StoreError::NoVm`], [`StoreError::VmRemoved`], and [`StoreError::VmBeingRemoved`] once its removal was asked
    /// for; [`StoreError::IntentMismatch`] when the intent's purpose is not this VM; [`StoreError::Exists`] when the
    /// incarnation's id is taken.
    pub fn start_vm(&self, new: &NewVmStart) -> Result<StartNote, StoreError> {
        self.write("start a VM", |transaction| {
            let vm = VmRecord::read(transaction, new.vm)?;
            if !is_for(&new.intent.purpose, &vm) {
                return Err(StoreError::IntentMismatch { id: new.incarnation }.into());
            }
            if vm.removal_wanted {
                return Err(StoreError::VmBeingRemoved { name: vm.name }.into());
            }
            if let Some(incarnation) = vm.living()? {
                return Ok(StartNote::AlreadyLiving { incarnation, state: vm.state });
            }
            let created = stored("the time", new.created_unix_ns)?;
            let number = insert_incarnation(
                transaction,
                new.incarnation,
                (None, Some(vm.number)),
                &new.intent,
                created,
            )?;
            let next = vm.must_step(VmEvent::StartAsked)?;
            let values = params![vm.number, vm.state.name(), next.name(), created, number];
            vm.must_have_changed(transaction.prepare_cached(sql::START_VM)?.execute(values)?)?;
            append(transaction, self.id(), &start_asked(new, &vm))?;
            Ok(StartNote::New)
        })
    }
}

fn is_for(purpose: &Purpose, vm: &VmRecord) -> bool {
    match purpose {
        Purpose::Vm { vm: id, name, .. } => id.parse() == Ok(vm.id) && *name == vm.name,
        Purpose::Workload { .. } | Purpose::Template { .. } | Purpose::Canary => false,
    }
}

fn name_is_taken(transaction: &Transaction<'_>, new: &NewVm) -> Result<bool, Fault> {
    let mut statement = transaction.prepare_cached(sql::VM_NUMBER_BY_NAME)?;
    let taken: Option<i64> = statement.query_row([new.name.as_str()], |row| row.get(0)).optional()?;
    Ok(taken.is_some())
}

fn insert_vm(transaction: &Transaction<'_>, new: &NewVm) -> Result<(), Fault> {
    let inserted = transaction.prepare_cached(sql::INSERT_VM)?.execute(params![
        new.id.to_string(),
        new.name.as_str(),
        encoded("the spec", &VmSpecRecord::from(&new.spec))?,
        encoded("the origins", &new.origins)?,
        VmState::Created.name(),
        stored("the time", new.created_unix_ns)?,
    ]);
    unless_taken(inserted, || format!("VM {}", new.id))
}

fn created(new: &NewVm) -> Entry {
    Entry {
        unix_ns: new.created_unix_ns,
        kind: EventKind::VmCreated,
        subject: Subject::Vm(new.id),
        body: json!({ "name": new.name.as_str(), "spec": VmSpecRecord::from(&new.spec) }),
    }
}

fn start_asked(new: &NewVmStart, vm: &VmRecord) -> Entry {
    Entry {
        unix_ns: new.created_unix_ns,
        kind: EventKind::VmStartRequested,
        subject: Subject::Vm(new.vm),
        body: json!({
            "name": vm.name,
            "incarnation": new.incarnation.to_string(),
            "was": vm.state.name(),
        }),
    }
}
