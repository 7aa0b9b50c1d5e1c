//! A hostile agent: a program that lies in the agent's place and does one wrong thing.
//!
//! ```text
//!   test: arm(LIBEXEC, "exec/rubbish") ─► LIBEXEC/outlast-agent = this program + the attack's name
//!                                              │  outlast puts it into the initramfs as /init
//!   guest: kernel ─► /init: boot ─► honest until the phase comes ─► the attack
//! ```
//!
//! It is honest about everything else, so that a test meets its attack and nothing before. It knows the guest
//! protocol (`outlast_wire::guest`) and nothing of the agent's insides.

mod attack;
mod boot;
pub mod hang;
mod speech;
mod tree;

use crate::program;
use attack::Agent;
use speech::Speech;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What stands before the attack's name at the end of the program's file.
const MARK: &[u8] = b"\nOUTLAST-HOSTILE-ATTACK:";

/// Makes a directory for `OUTLAST_LIBEXEC` in which the agent is this program with that attack.
///
/// # Panics
/// When the files cannot be copied.
pub fn arm(binaries: &Path, target: &Path, attack: &str) -> PathBuf {
    fs::create_dir_all(target).expect("the lab's directory can be written");
    for binary in program::BINARIES {
        if binary != "outlast-agent" {
            fs::copy(binaries.join(binary), target.join(binary)).expect("a binary can be copied");
        }
    }
    let agent = target.join("outlast-agent");
    fs::copy(program::beside("outlast-e2e-hostile"), &agent).expect("the hostile agent can be copied");
    let mut file = fs::OpenOptions::new().append(true).open(&agent).expect("it is our own");
    file.write_all(MARK).and_then(|()| file.write_all(attack.as_bytes())).expect("it is our own");
    target.to_owned()
}

/// The program: PID 1 of a guest, and nothing else.
pub fn main() -> ExitCode {
    let Some(attack) = own_attack() else { return ExitCode::FAILURE };
    let Some(port) = boot::boot() else { return ExitCode::FAILURE };
    let Some((phase, deed)) = attack.split_once('/') else { return ExitCode::FAILURE };
    Agent::new(Speech::new(port), phase.to_owned(), deed.to_owned()).live();
    // The end of PID 1 is a panic of the kernel.
    ExitCode::FAILURE
}

fn own_attack() -> Option<String> {
    let program = fs::read("/init").ok()?;
    let at = program.windows(MARK.len()).rposition(|window| window == MARK)?;
    String::from_utf8(program[at + MARK.len()..].to_vec()).ok()
}
