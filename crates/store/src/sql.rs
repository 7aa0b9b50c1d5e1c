//! Every statement of the store, in one table, so that a test can ask SQLite for the plan of each.

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $text:expr;)+) => {
        $($(#[$doc])* pub(crate) const $name: &str = $text;)+

        /// All of them, with their names.
        #[cfg(test)]
        pub(crate) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),+];
    };
}

macro_rules! workload_columns {
    () => {
        "SELECT w.id, i.id AS incarnation, w.state, w.outcome, w.idempotency_key, w.created_unix_ns, \
                w.ended_unix_ns, w.kill_requested_unix_ns, s.image, s.runtime, s.argv, s.env, s.vcpus, \
                s.memory, s.timeout_ms, s.output_limit "
    };
}

macro_rules! workload_joins {
    () => {
        "JOIN specs s ON s.workload = w.number JOIN incarnations i ON i.workload = w.number "
    };
}

macro_rules! incarnation_columns {
    () => {
        "SELECT i.id, w.id AS workload, v.id AS vm, i.failed_step, i.failed_cause, i.state, n.body AS intent, \
                i.runner_pid, i.runner_start_time, i.runner_boot_id, i.runner_pid_namespace, i.runner_observer, \
                i.vmm_pid, i.vmm_start_time, i.vmm_boot_id, i.vmm_pid_namespace, i.vmm_observer, \
                i.started_from, i.fell_back, i.certificate, i.timings, i.dying, i.death, i.output_log_bytes, \
                i.truncated_bytes, i.created_unix_ns, i.claimed_unix_ns, i.running_unix_ns, i.ended_unix_ns "
    };
}

macro_rules! incarnation_joins {
    () => {
        "JOIN intents n ON n.incarnation = i.number LEFT JOIN workloads w ON w.number = i.workload \
         LEFT JOIN vms v ON v.number = i.vm "
    };
}

macro_rules! vm_columns {
    () => {
        "SELECT v.id, v.name, v.spec, v.origins, v.state, v.created_unix_ns, v.changed_unix_ns, \
                v.stop_requested_unix_ns, v.removal_requested_unix_ns, v.keep_disks, v.disk_of, v.removed_unix_ns, \
                i.id AS incarnation, \
                i.runner_pid, i.runner_start_time, i.runner_boot_id, i.runner_pid_namespace, i.runner_observer, \
                i.failed_step, i.failed_cause, i.death \
         FROM vms v LEFT JOIN incarnations i ON i.number = v.incarnation "
    };
}

statements! {
    STORE_ID = "SELECT value FROM meta WHERE name = 'store'";

    // Accepting.
    WORKLOAD_BY_KEY = "SELECT id FROM workloads WHERE idempotency_key = ?1";
    INSERT_WORKLOAD = "INSERT INTO workloads (id, state, idempotency_key, created_unix_ns) VALUES (?1, ?2, ?3, ?4)";
    INSERT_SPEC = "INSERT INTO specs (workload, image, runtime, argv, env, vcpus, memory, timeout_ms, output_limit) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    INSERT_INCARNATION = "INSERT INTO incarnations (id, workload, vm, state, created_unix_ns) \
                          VALUES (?1, ?2, ?3, ?4, ?5)";
    INSERT_INTENT = "INSERT INTO intents (incarnation, body) VALUES (?1, ?2)";

    // Owning. Each update compares the state and the runner it was decided on, and sets.
    /// What a decision about an incarnation needs to know.
    STANDING = "SELECT i.number, i.state, i.runner_pid, i.runner_start_time, i.runner_boot_id, \
                       i.runner_pid_namespace, i.runner_observer, i.timings, \
                       i.running_unix_ns, w.number AS workload_number, w.id AS workload, \
                       w.state AS workload_state, w.outcome, v.id AS vm \
                FROM incarnations i LEFT JOIN workloads w ON w.number = i.workload \
                                    LEFT JOIN vms v ON v.number = i.vm \
                WHERE i.id = ?1";
    INTENT = "SELECT body FROM intents WHERE incarnation = ?1";
    CLAIM = "UPDATE incarnations SET state = 'claimed', claimed_unix_ns = ?2, runner_pid = ?3, \
                    runner_start_time = ?4, runner_boot_id = ?5, runner_pid_namespace = ?6, runner_observer = ?7 \
             WHERE number = ?1 AND state = 'intended' AND runner_pid IS NULL";
    RECORD_VMM = "UPDATE incarnations SET vmm_pid = ?8, vmm_start_time = ?9, vmm_boot_id = ?10, \
                         vmm_pid_namespace = ?11, vmm_observer = ?12 \
                  WHERE number = ?1 AND state = ?2 AND runner_pid IS ?3 AND runner_start_time IS ?4 \
                    AND runner_boot_id IS ?5 AND runner_pid_namespace IS ?6 AND runner_observer IS ?7";
    PUBLISH = "UPDATE incarnations SET state = 'running', vmm_pid = ?8, vmm_start_time = ?9, vmm_boot_id = ?10, \
                      vmm_pid_namespace = ?11, vmm_observer = ?12, started_from = ?13, fell_back = ?14, \
                      certificate = ?15, timings = ?16, running_unix_ns = ?17 \
               WHERE number = ?1 AND state = ?2 AND runner_pid IS ?3 AND runner_start_time IS ?4 \
                 AND runner_boot_id IS ?5 AND runner_pid_namespace IS ?6 AND runner_observer IS ?7";
    MARK_DYING = "UPDATE incarnations SET state = 'dying', dying = ?8 \
                  WHERE number = ?1 AND state = ?2 AND runner_pid IS ?3 AND runner_start_time IS ?4 \
                    AND runner_boot_id IS ?5 AND runner_pid_namespace IS ?6 AND runner_observer IS ?7";
    END = "UPDATE incarnations SET state = 'ended', death = ?8, output_log_bytes = ?9, truncated_bytes = ?10, \
                  timings = ?11, ended_unix_ns = ?12, failed_step = ?13, failed_cause = ?14 \
           WHERE number = ?1 AND state = ?2 AND runner_pid IS ?3 AND runner_start_time IS ?4 \
             AND runner_boot_id IS ?5 AND runner_pid_namespace IS ?6 AND runner_observer IS ?7";
    STEP_WORKLOAD = "UPDATE workloads SET state = ?3 WHERE number = ?1 AND state = ?2";
    END_WORKLOAD = "UPDATE workloads SET state = 'over', outcome = ?3, ended_unix_ns = ?4 \
                    WHERE number = ?1 AND state = ?2";
    KILL_STANDING = "SELECT number, id, state, outcome, kill_requested_unix_ns FROM workloads WHERE id = ?1";
    NOTE_KILL = "UPDATE workloads SET kill_requested_unix_ns = ?2 \
                 WHERE number = ?1 AND state <> 'over' AND kill_requested_unix_ns IS NULL";

    // Reading.
    WORKLOAD = concat!(workload_columns!(), "FROM workloads w ", workload_joins!(), "WHERE w.id = ?1");
    /// Newest first, older than `?1`.
    WORKLOADS = concat!(
        workload_columns!(), "FROM workloads w ", workload_joins!(), "WHERE w.id < ?1 ORDER BY w.id DESC LIMIT ?2"
    );
    /// Newest first, older than `?1`, not over.
    WORKLOADS_OPEN = concat!(
        workload_columns!(), "FROM workloads w INDEXED BY workloads_open ", workload_joins!(),
        "WHERE w.state <> 'over' AND w.id < ?1 ORDER BY w.id DESC LIMIT ?2"
    );
    WORKLOADS_BETWEEN = "SELECT id FROM workloads WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3";
    INCARNATION = concat!(incarnation_columns!(), "FROM incarnations i ", incarnation_joins!(), "WHERE i.id = ?1");
    /// Oldest first.
    LIVING = concat!(
        incarnation_columns!(), "FROM incarnations i INDEXED BY incarnations_living ", incarnation_joins!(),
        "WHERE i.state <> 'ended' ORDER BY i.id"
    );
    KILL_WANTED = "SELECT w.kill_requested_unix_ns FROM incarnations i JOIN workloads w ON w.number = i.workload \
                   WHERE i.id = ?1";

    // VMs. Each change compares the state it was decided on, and sets.
    INSERT_VM = "INSERT INTO vms (id, name, spec, origins, state, created_unix_ns, changed_unix_ns) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)";
    VM_NUMBER_BY_NAME = "SELECT number FROM vms WHERE name = ?1 AND removed_unix_ns IS NULL";
    /// What a decision about a VM needs to know.
    VM_STANDING = "SELECT v.number AS vm_number, v.id AS vm, v.name AS vm_name, v.state AS vm_state, \
                          i.id AS vm_incarnation, v.stop_requested_unix_ns, v.removal_requested_unix_ns, \
                          v.keep_disks, v.removed_unix_ns \
                   FROM vms v LEFT JOIN incarnations i ON i.number = v.incarnation WHERE v.id = ?1";
    STEP_VM = "UPDATE vms SET state = ?3, changed_unix_ns = ?4 WHERE number = ?1 AND state = ?2";
    START_VM = "UPDATE vms SET state = ?3, changed_unix_ns = ?4, incarnation = ?5, stop_requested_unix_ns = NULL \
                WHERE number = ?1 AND state = ?2 AND removal_requested_unix_ns IS NULL";
    /// Whoever restores a VM's disk lives for it, and so nobody else does.
    TAKE_DISK = "UPDATE vms SET disk_of = ?3 WHERE number = ?1 AND state = ?2";
    NOTE_STOP = "UPDATE vms SET state = ?3, changed_unix_ns = ?4, stop_requested_unix_ns = ?4 \
                 WHERE number = ?1 AND state = ?2";
    NOTE_REMOVAL = "UPDATE vms SET removal_requested_unix_ns = ?2, keep_disks = ?3 \
                    WHERE number = ?1 AND removal_requested_unix_ns IS NULL AND removed_unix_ns IS NULL";
    REMOVE_VM = "UPDATE vms SET removed_unix_ns = ?3 \
                 WHERE number = ?1 AND state = ?2 AND removal_requested_unix_ns IS NOT NULL";
    VM = concat!(vm_columns!(), "WHERE v.id = ?1");
    VM_BY_NAME = concat!(vm_columns!(), "WHERE v.name = ?1 AND v.removed_unix_ns IS NULL");
    /// By name, behind `?1`.
    VMS = concat!(
        vm_columns!(), "WHERE v.name > ?1 AND v.removed_unix_ns IS NULL ORDER BY v.name LIMIT ?2"
    );
    /// Newest first.
    VMS_REMOVED = concat!(
        vm_columns!(), "WHERE v.name = ?1 AND v.removed_unix_ns IS NOT NULL ORDER BY v.number DESC LIMIT ?2"
    );
    VM_NAMES = "SELECT name FROM vms WHERE removed_unix_ns IS NULL ORDER BY name";
    /// Newest first.
    INCARNATIONS_OF_VM = concat!(
        incarnation_columns!(), "FROM incarnations i ", incarnation_joins!(),
        "WHERE i.vm = (SELECT number FROM vms WHERE id = ?1) ORDER BY i.number DESC LIMIT ?2"
    );
    /// What a VM's runner asks once a second.
    VM_OF_INCARNATION = "SELECT i.id, i.state, i.runner_pid, i.runner_start_time, i.runner_boot_id, \
                                i.runner_pid_namespace, i.runner_observer, i.vmm_pid, i.vmm_start_time, \
                                i.vmm_boot_id, i.vmm_pid_namespace, i.vmm_observer, v.state AS vm_state, \
                                v.stop_requested_unix_ns, v.removal_requested_unix_ns, c.id AS current \
                         FROM incarnations i JOIN vms v ON v.number = i.vm \
                                             LEFT JOIN incarnations c ON c.number = v.incarnation \
                         WHERE i.id = ?1 AND v.removed_unix_ns IS NULL";

    // The audit log.
    AUDIT_HEAD = "SELECT count, head FROM audit_head WHERE one = 1";
    MOVE_HEAD = "UPDATE audit_head SET count = ?1, head = ?2 WHERE one = 1 AND count = ?1 - 1";
    INSERT_EVENT = "INSERT INTO events (seq, unix_ns, kind, subject, body, previous, hash) \
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    EVENTS_AFTER = "SELECT seq, unix_ns, kind, subject, body, previous, hash FROM events \
                    WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    EVENT = "SELECT seq, unix_ns, kind, subject, body, previous, hash FROM events WHERE seq = ?1";
    /// Reads the whole log, on purpose.
    EVENTS_ALL = "SELECT seq, unix_ns, kind, subject, body, previous, hash FROM events ORDER BY seq";
    /// Reads the whole log, on purpose.
    EVENT_HASHES_ALL = "SELECT seq, hash FROM events ORDER BY seq";
}

#[cfg(test)]
mod tests {
    use super::ALL;
    use crate::testing::Scratch;

    /// Statements whose purpose is to read the whole log.
    const WHOLE: &[&str] = &["EVENTS_ALL", "EVENT_HASHES_ALL"];
    /// Indexes of what is not over: as long as what lives, whatever has ended.
    const OF_THE_LIVING: &[&str] = &["incarnations_living", "workloads_open", "vms_by_name"];

    /// The cost of an operation does not grow with what is over: no plan walks a table or sorts.
    #[test]
    fn every_plan_seeks() {
        let scratch = Scratch::new();
        let connection = scratch.raw();
        for (name, text) in ALL.iter().filter(|(name, _)| !WHOLE.contains(name)) {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
            let plan: Vec<String> =
                statement.raw_query().mapped(|row| row.get("detail")).collect::<Result<_, _>>().unwrap();
            for line in plan {
                let scans = line.starts_with("SCAN") && !OF_THE_LIVING.iter().any(|i| line.ends_with(i));
                assert!(!scans && !line.contains("TEMP B-TREE"), "{name}: {line}");
            }
        }
    }

    #[test]
    fn the_plan_test_sees_a_walk() {
        let scratch = Scratch::new();
        let text = "EXPLAIN QUERY PLAN SELECT id FROM workloads WHERE created_unix_ns = 1";
        let plan: String = scratch.raw().query_row(text, [], |row| row.get("detail")).unwrap();
        assert!(plan.starts_with("SCAN"), "{plan}");
    }
}
