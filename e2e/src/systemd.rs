//! A host on which systemd is the first process: whether this is one, and what is systemd's own on it.
//!
//! Tests of this host never are: they are alone in namespaces with a /run of their own. Machines of the guest lab are.

use std::path::Path;

/// The user of such a machine whose manager runs.
pub const USER: u32 = 1000;

/// Groups that are systemd's own, which come and go as it likes; and where scopes of ours are.
pub(crate) const OWN_CGROUPS: [&str; 13] = [
    "init.scope",
    "*.mount",
    "system.slice",
    "system.slice/**",
    "user.slice",
    "user.slice/*",
    "user.slice/*/*",
    "user.slice/*/*/init.scope",
    "user.slice/*/*/app.slice",
    "user.slice/*/*/app.slice/**",
    "user.slice/*/*/*.mount",
    "outlast.slice",
    "user.slice/*/*/outlast.slice",
];

/// Whether it is (sd_booted(3)).
pub fn is_first() -> bool {
    Path::new("/run/systemd/system").is_dir()
}
