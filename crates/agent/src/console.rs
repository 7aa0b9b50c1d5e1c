//! What the agent says on the guest's console (the kernel gives it to PID 1 as standard error). Few lines:
//! on an emulated serial port every character is an exit to the VMM.

use crate::refusal::chain;
use std::error::Error;
use std::io::Write;

/// One line. A console that cannot be written to changes nothing.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "outlast-agent: {line}");
}

/// One line about something that failed but does not end the agent.
pub(crate) fn say_error(operation: &str, error: &dyn Error) {
    say(&format!("{operation}: {}", chain(error)));
}

/// From now on a panic anywhere is printed and ends the process at once, and with PID 1 the kernel, whose
/// panic the VMM reports (pvpanic). Unwinding into the event loop would leave a half-dead agent instead.
pub(crate) fn panics_end_the_guest() {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("panic: {panic}"));
        std::process::exit(101);
    }));
}
