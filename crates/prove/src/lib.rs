//! A black-box judge: it looks at the product from outside and never at its insides.
//!
//! So far it holds the one leak inventory that every test on real VMs uses ([`inventory`]) and the list
//! of places where a runner can be made to stand still ([`fault_point`]). It knows the names that the
//! contract publishes (`outlast_wire::paths`, the boot steps) and what Linux shows of a host; nothing else.
//!
//! Not here: tests (they are in `e2e/`), and anything that starts a VM.

pub mod fault_point;
pub mod inventory;

pub use fault_point::FaultPoint;
pub use inventory::{Difference, Inventory, Item, Kind, Scope};
pub use outlast_model::{BootStep, Edge, LauncherStep, Place, RunPhase, Verdict, Walker};
