//! What this host can do, and what belongs to nobody on it.
//!
//! Looking makes nothing and changes nothing, but for two things that every command does to what it touches:
//! rows are brought into line with what is, and a canary tries KVM once.

mod checks;
mod leaks;

use crate::error::Error;
use crate::notice::Notify;
use crate::reconcile::reconcile_all;
use crate::site::Site;
use outlast_wire::view::DoctorView;

/// Whether what belongs to nobody is removed, and what speaks against KVM tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// It is only listed.
    No,
    /// It is removed.
    Yes,
}

/// Looks at the host and at everything of this store.
///
/// # Errors
/// The store cannot be read. What is wrong with the host is not an error but what was asked for.
pub fn doctor(site: &Site, mend: Mend, notify: Notify<'_>) -> Result<DoctorView, Error> {
    let undecided = reconcile_all(site)?;
    let checks = checks::checks(site, mend, notify);
    let leaks = leaks::leaks(site, &undecided, mend)?;
    Ok(DoctorView { checks, leaks })
}

/// Whether workloads can run on a host of which this was said.
pub fn can_run(view: &DoctorView) -> bool {
    let vital = |name: &str| checks::VITAL.contains(&name);
    !view.checks.iter().any(|check| vital(&check.name) && check.status == checks::MISSING)
}
