//! What a VM's runner says while it runs: that its virtual CPUs stand still, or run again.

use crate::error::StoreError;
use crate::event::EventKind;
use crate::standing::Standing;
use crate::store::Store;
use outlast_model::{IncarnationId, VmEvent, VmState};
use outlast_wire::identity::ProcessIdentity;
use serde_json::json;

impl Store {
    /// Says that the VM was paused, or resumed, by its runner. Of what is written down already nothing is written.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] unless `who` owns the incarnation; [`StoreError::NotAVms`] when it is none of a VM's;
    /// [`StoreError::IllegalVm`] when the VM neither runs nor is paused, or was asked to stop meanwhile.
    pub fn pause_vm(
        &self,
        id: IncarnationId,
        who: &ProcessIdentity,
        paused: bool,
        unix_ns: u64,
    ) -> Result<(), StoreError> {
        let (state, event, kind) = if paused {
            (VmState::Paused, VmEvent::Paused, EventKind::VmPaused)
        } else {
            (VmState::Running, VmEvent::Resumed, EventKind::VmResumed)
        };
        self.write("note a pause", |transaction| {
            let standing = Standing::read(transaction, id)?;
            standing.must_be_run_by(who)?;
            let vm = standing.vm.as_ref().ok_or(StoreError::NotAVms { id })?;
            if vm.state == state {
                return Ok(());
            }
            vm.step(transaction, event, unix_ns)?;
            let body = json!({ "name": vm.name, "incarnation": id.to_string() });
            self.tell_of_vm(transaction, unix_ns, kind, vm.id, body)
        })
    }
}
