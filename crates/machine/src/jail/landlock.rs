//! A second wall around files, and one around signals and sockets, where the kernel has Landlock: what the mount
//! namespace shows may be read, what it is given to write may be written, nothing else.
//!
//! Best effort, as Landlock is meant: a kernel without it is no reason not to run, for everything it forbids is
//! forbidden by other means as well.

use super::{FileAccess, JailError, JailSpec};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use std::path::Path;

/// The newest version whose rules are known here.
const KNOWN: ABI = ABI::V6;

/// Confines this process and all that it becomes.
pub(super) fn restrict(spec: &JailSpec) -> Result<(), JailError> {
    let restricted = || -> Result<(), RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?;
        rules = allow(rules, Path::new("/"), AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir)?;
        for file in spec.files.iter().filter(|file| file.access == FileAccess::Write) {
            let write = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
            rules = allow(rules, Path::new(&file.inside()), write)?;
        }
        for device in &spec.devices {
            let drive = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
            rules = allow(rules, &Path::new("/dev").join(device), drive)?;
        }
        rules.restrict_self().map(drop)
    };
    restricted().map_err(|error| JailError::Landlock(error.to_string()))
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    // A path that is not there is no way out; the VMM says what it misses.
    match PathFd::new(path) {
        Ok(opened) => rules.add_rule(PathBeneath::new(opened, access)),
        Err(_) => Ok(rules),
    }
}
