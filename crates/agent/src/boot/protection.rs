//! What keeps the agent alive beside a hostile or greedy workload, and what keeps the kernel honest.
//! The limits of programs themselves are set by their cgroups, elsewhere.

use super::BootError;
use crate::console;
use rustix::mm::MlockAllFlags;
use rustix::process::{Resource, Rlimit};

/// Settings of the kernel (sysctl), as file and value. The links and fifo ones are what systemd sets; a
/// kernel that has gone wrong is to stop and be reported rather than to go on.
const SETTINGS: [(&str, &str); 7] = [
    ("/proc/sys/fs/protected_symlinks", "1"),
    ("/proc/sys/fs/protected_hardlinks", "1"),
    ("/proc/sys/fs/protected_fifos", "1"),
    ("/proc/sys/fs/protected_regular", "2"),
    ("/proc/sys/kernel/dmesg_restrict", "1"),
    ("/proc/sys/kernel/kptr_restrict", "1"),
    ("/proc/sys/kernel/panic_on_oops", "1"),
];

/// Open files that a program may have: what systemd gives, room for the ones that ask for more.
const OPEN_FILES: Rlimit = Rlimit { current: Some(1024), maximum: Some(524_288) };
/// No core files: nobody would see them.
const CORE: Rlimit = Rlimit { current: Some(0), maximum: Some(0) };

/// Keeps the agent in memory. (The OOM killer never chooses PID 1, whatever its score: `oom_unkillable_task`
/// in mm/oom_kill.c. So the score is left alone, and programs need not be given an ordinary one back.) The
/// limits set here are inherited by programs, the lock is not.
pub(super) fn of_the_agent() -> Result<(), BootError> {
    rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
        .map_err(|source| BootError::Protection("mlockall", source))?;
    for (resource, limit) in [(Resource::Nofile, OPEN_FILES), (Resource::Core, CORE)] {
        rustix::process::setrlimit(resource, limit)
            .map_err(|source| BootError::Protection("setrlimit", source))?;
    }
    Ok(())
}

/// Settings that cost nothing and close known doors. A kernel may lack one.
pub(super) fn of_the_kernel() {
    for (file, value) in SETTINGS {
        match std::fs::write(file, value) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                console::say_error(&format!("set {file}"), &error);
            }
            Ok(()) | Err(_) => {}
        }
    }
}
