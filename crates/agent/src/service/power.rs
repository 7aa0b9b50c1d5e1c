//! The machine's end, asked for by the host.

use super::Home;
use crate::console;
use rustix::system::{RebootCommand, reboot};

/// Kills every program, writes out what file systems hold, closes the machine's own disk, and switches the machine
/// off. Does not return: where the machine cannot be switched off it is reset, and where even that fails the
/// agent ends, and with it the kernel.
pub(crate) fn power_off(home: &Home) -> ! {
    if let Err(error) = crate::program::kill_all_programs() {
        console::say_error("kill all programs", &error);
    }
    rustix::fs::sync();
    // A disk that stays writable has its journal replayed at the next boot: nothing that was synced is lost.
    if let Err(error) = home.close() {
        console::say_error("close the disk", &error);
    }
    for command in [RebootCommand::PowerOff, RebootCommand::Restart] {
        if let Err(errno) = reboot(command) {
            console::say(&format!("power off: {errno}"));
        }
    }
    std::process::exit(1)
}
