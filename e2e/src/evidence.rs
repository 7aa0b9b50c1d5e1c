//! What a red test prints: everything the product and the kernel say about its incarnations.

use crate::process;
use outlast_wire::paths::{Evidence, Places};
use std::fs;
use std::path::Path;

/// As much of the end of each file as is printed.
const TAIL: usize = 4000;
/// As many of the newest incarnations as are printed.
const INCARNATIONS: usize = 6;

/// Prints the processes, the run directory and the newest incarnations' evidence to standard error.
pub(crate) fn print(places: &Places) {
    eprintln!("──── evidence of {} ────", places.home().display());
    for entry in process::all() {
        eprintln!(
            "process {} (parent {}) {}{}",
            entry.pid,
            entry.parent,
            entry.comm,
            if entry.is_zombie { " zombie" } else { "" }
        );
    }
    for name in names(places.run()) {
        eprintln!("in the run directory: {name}: {}", names(&places.run().join(&name)).join(" "));
    }
    let incarnations = names(&places.incarnations());
    eprintln!("incarnations: {}", incarnations.len());
    for name in incarnations.iter().rev().take(INCARNATIONS) {
        print_incarnation(name, &Evidence::at(places.incarnations().join(name)));
    }
    eprintln!("──── end of evidence ────");
}

fn print_incarnation(name: &str, evidence: &Evidence) {
    eprintln!("── incarnation {name}: {}", names(evidence.path()).join(" "));
    for path in [evidence.journal(), evidence.runner_log(), evidence.vmm_log(), evidence.console_log()] {
        let Ok(bytes) = fs::read(&path) else { continue };
        let from = bytes.len().saturating_sub(TAIL);
        let text = String::from_utf8_lossy(&bytes[from..]).into_owned();
        let cut = if from > 0 { format!(" (without the first {from} bytes)") } else { String::new() };
        eprintln!("─ {}{cut}\n{text}", path.display());
    }
}

/// The names in a directory, in order; of one that cannot be read, none.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
