-- Workloads and incarnations, and the audit log.
--
-- Large values that never change (what was asked for) stand in tables of their own, so that a change of state
-- does not copy them. Ids are ULIDs in lower case; `number` is the join key. Times are nanoseconds since the
-- Unix epoch.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE workloads (
    number                 INTEGER PRIMARY KEY,
    id                     TEXT NOT NULL UNIQUE,
    state                  TEXT NOT NULL,      -- pending, starting, running, over
    outcome                TEXT,               -- JSON, exactly when over
    idempotency_key        TEXT,
    created_unix_ns        INTEGER NOT NULL,
    ended_unix_ns          INTEGER,
    kill_requested_unix_ns INTEGER,
    CHECK ((state = 'over') = (outcome IS NOT NULL)),
    CHECK ((state = 'over') = (ended_unix_ns IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX workloads_by_key ON workloads (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX workloads_open ON workloads (id) WHERE state <> 'over';

CREATE TABLE specs (
    workload     INTEGER PRIMARY KEY REFERENCES workloads (number),
    image        TEXT NOT NULL,
    runtime      TEXT,
    argv         TEXT NOT NULL,                -- JSON array
    env          TEXT NOT NULL,                -- JSON array of KEY=VALUE; values may be secrets
    vcpus        INTEGER NOT NULL,
    memory       INTEGER NOT NULL,             -- bytes
    timeout_ms   INTEGER NOT NULL,
    output_limit INTEGER NOT NULL              -- bytes
) STRICT;

CREATE TABLE incarnations (
    number                 INTEGER PRIMARY KEY,
    id                     TEXT NOT NULL UNIQUE,
    workload               INTEGER REFERENCES workloads (number),
    state                  TEXT NOT NULL,      -- intended, claimed, running, dying, ended
    runner_pid             INTEGER,
    runner_start_time      INTEGER,
    runner_boot_id         TEXT,
    runner_pid_namespace   INTEGER,
    runner_observer        INTEGER,
    vmm_pid                INTEGER,
    vmm_start_time         INTEGER,
    vmm_boot_id            TEXT,
    vmm_pid_namespace      INTEGER,
    vmm_observer           INTEGER,
    started_from           TEXT,               -- clone, boot
    fell_back              TEXT,
    certificate            TEXT,               -- JSON
    timings                TEXT,               -- JSON
    dying                  TEXT,               -- JSON array: what was seen
    death                  TEXT,               -- JSON, exactly when ended
    output_log_bytes       INTEGER NOT NULL DEFAULT 0,
    truncated_bytes        INTEGER NOT NULL DEFAULT 0,
    created_unix_ns        INTEGER NOT NULL,
    claimed_unix_ns        INTEGER,
    running_unix_ns        INTEGER,
    ended_unix_ns          INTEGER,
    CHECK ((state = 'ended') = (death IS NOT NULL)),
    CHECK ((state = 'ended') = (ended_unix_ns IS NOT NULL))
) STRICT;

-- Unique: a workload has one incarnation, and so never runs twice.
CREATE UNIQUE INDEX incarnations_by_workload ON incarnations (workload) WHERE workload IS NOT NULL;
CREATE INDEX incarnations_living ON incarnations (id) WHERE state <> 'ended';

CREATE TABLE intents (
    incarnation INTEGER PRIMARY KEY REFERENCES incarnations (number),
    body        TEXT NOT NULL                  -- JSON; may hold secrets
) STRICT;

CREATE TABLE events (
    seq      INTEGER PRIMARY KEY,
    unix_ns  INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    subject  TEXT NOT NULL,
    body     TEXT NOT NULL,                    -- JSON; never a secret
    previous BLOB NOT NULL,
    hash     BLOB NOT NULL
) STRICT;

-- Kept outside of events, so that a lost tail shows.
CREATE TABLE audit_head (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    count INTEGER NOT NULL,
    head  BLOB NOT NULL
) STRICT;

-- A second net under the compare-and-set of the code: what is over stays as it is.
CREATE TRIGGER an_outcome_is_for_ever BEFORE UPDATE ON workloads WHEN OLD.state = 'over'
BEGIN SELECT RAISE(ABORT, 'a workload that is over does not change'); END;
CREATE TRIGGER a_death_is_for_ever BEFORE UPDATE ON incarnations WHEN OLD.state = 'ended'
BEGIN SELECT RAISE(ABORT, 'an incarnation that ended does not change'); END;
CREATE TRIGGER a_spec_is_for_ever BEFORE UPDATE ON specs
BEGIN SELECT RAISE(ABORT, 'a spec does not change'); END;
CREATE TRIGGER an_intent_is_for_ever BEFORE UPDATE ON intents
BEGIN SELECT RAISE(ABORT, 'an intent does not change'); END;
CREATE TRIGGER an_event_is_for_ever BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'an event does not change'); END;
CREATE TRIGGER an_event_stays BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'an event is not removed'); END;
