//! Every deadline of the system, in one table, with the ties between them asserted at compile time.

use std::time::Duration;

/// The launcher must have started a runner, and the runner claimed its row, this long after the intent.
pub const CLAIM: Duration = Duration::from_secs(10);
/// Trying whether a runner's namespaces can be had.
pub const ATTEMPT: Duration = Duration::from_secs(10);
/// The process that is tried inside them.
pub const ATTEMPT_INSIDE: Duration = Duration::from_secs(5);
/// systemd has given a scope this long after it was asked for one, or the launcher is started without.
pub const SCOPE: Duration = Duration::from_secs(4);
/// A boot, from claim to published. A cold boot in emulation takes 2–4 s here; a loaded host needs more.
pub const BOOT: Duration = Duration::from_secs(60);
/// The canary boot that decides whether KVM is usable.
pub const CANARY: Duration = Duration::from_secs(20);
/// Making a template: a cold boot, the warm-up (compiling Go for the first time takes 30 s), the save.
pub const TEMPLATE: Duration = Duration::from_secs(300);
/// One command on a VMM's monitor.
pub const MONITOR: Duration = Duration::from_secs(10);
/// A VMM whose monitor hung up is given this long to exit before the hang-up itself is an event.
pub const HANG_UP: Duration = Duration::from_secs(1);
/// After a VMM's exit, what is left in its pipes is read for this long: somebody else may hold them open.
pub const LAST_WORDS: Duration = Duration::from_millis(200);
/// One request to the agent that is not a program. On a host with ten times more to do than it can, a clone in
/// emulation was seen to take more than ten seconds to start its first program.
pub const AGENT_REQUEST: Duration = Duration::from_secs(30);
/// The guest's clock must be within this of the host's.
pub const CLOCK_TOLERANCE: Duration = Duration::from_millis(50);
/// A runner writes its heartbeat this often.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// A runner silent for this long is killed by whoever reconciles.
pub const HEARTBEAT_LOST: Duration = Duration::from_secs(10);
/// The agent's own deadline for a program lies this much after the runner's: it is the second net.
pub const AGENT_DEADLINE_MARGIN: Duration = Duration::from_millis(500);
/// After a killed process's pidfd must be readable within this; else it is `dying`.
pub const DEATH: Duration = Duration::from_secs(2);
/// Files that a program left are handed back within this.
pub const OUTPUTS: Duration = Duration::from_secs(60);
/// A runner answers on its control socket within this.
pub const CONTROL: Duration = Duration::from_secs(2);
/// A probe of the guest is answered within this, or is answered with that it was not.
pub const PROBE: Duration = Duration::from_secs(10);
/// Writing or reading the whole state of a machine, whatever its size: the rest of it counts by [`of_state`].
pub const STATE: Duration = Duration::from_secs(60);
/// A disk of the host that is slower than this, in bytes a second, is taken for one that stands still.
pub const STATE_RATE: u64 = 16 * 1024 * 1024;
/// What a VM's loop is asked by a client it answers within this, a certification after a pause included.
pub const VM_REQUEST: Duration = Duration::from_secs(BOOT.as_secs() + 5);
/// The rungs of the shutdown ladder: agent, VMM, TERM, KILL.
pub const RUNG_AGENT: Duration = Duration::from_secs(5);
/// The second rung.
pub const RUNG_VMM: Duration = Duration::from_secs(3);
/// The third rung.
pub const RUNG_TERM: Duration = Duration::from_secs(1);
/// The fourth rung.
pub const RUNG_KILL: Duration = Duration::from_secs(2);
/// All rungs together, when nobody says otherwise.
pub const STOP: Duration = Duration::from_secs(
    RUNG_AGENT.as_secs() + RUNG_VMM.as_secs() + RUNG_TERM.as_secs() + RUNG_KILL.as_secs(),
);
/// The runner of a long-lived VM looks at its row in the store this often.
pub const STORE_CHECK: Duration = Duration::from_secs(1);
/// After its guest link broke, a runner waits this long for its VMM to say why.
pub const EXPLANATION: Duration = Duration::from_secs(1);
/// A write to the store waits this long for others' writes.
pub const STORE: Duration = Duration::from_secs(10);
/// A runner that was told to end has ended after this: what its VMM has to say, all rungs of its ladder, the end
/// written down, and its own death.
pub const LADDER: Duration =
    Duration::from_secs(EXPLANATION.as_secs() + STOP.as_secs() + STORE.as_secs() + DEATH.as_secs());
/// A runner whose VMM does not die is left to wait for it for so long from its end's beginning, as long as its
/// own heart beats; then it is killed.
pub const DYING: Duration = Duration::from_secs(60);

/// How long writing or reading so many bytes of a machine's state (memory, disk) may take.
pub const fn of_state(bytes: u64) -> Duration {
    Duration::from_secs(STATE.as_secs() + bytes / STATE_RATE)
}

const _: () = {
    assert!(2 * SCOPE.as_millis() < CLAIM.as_millis());
    assert!(MONITOR.as_millis() < BOOT.as_millis());
    // Who waits for the outer one is told what the inner one came to.
    assert!(ATTEMPT_INSIDE.as_millis() + DEATH.as_millis() < ATTEMPT.as_millis());
    assert!(AGENT_REQUEST.as_millis() < BOOT.as_millis());
    assert!(CANARY.as_millis() < BOOT.as_millis());
    assert!(BOOT.as_millis() < TEMPLATE.as_millis());
    assert!(3 * HEARTBEAT.as_millis() < HEARTBEAT_LOST.as_millis());
    assert!(HANG_UP.as_millis() + LAST_WORDS.as_millis() < DEATH.as_millis());
    assert!(CONTROL.as_millis() < HEARTBEAT_LOST.as_millis());
    assert!(PROBE.as_millis() < STATE.as_millis());
    assert!(PROBE.as_millis() < AGENT_REQUEST.as_millis());
    assert!(DEATH.as_millis() >= RUNG_KILL.as_millis());
    assert!(
        LADDER.as_millis()
            >= EXPLANATION.as_millis() + RUNG_KILL.as_millis() + STORE.as_millis() + DEATH.as_millis()
    );
    assert!(DYING.as_millis() > LADDER.as_millis() + HEARTBEAT_LOST.as_millis());
};
