-- VMs: named and long-lived, each with a sequence of incarnations of which at most one lives.
--
-- An incarnation of an older runner has no VM, and a start that it does not tell of did not fail: both are NULL.

CREATE TABLE vms (
    number                    INTEGER PRIMARY KEY,
    id                        TEXT NOT NULL UNIQUE,
    name                      TEXT NOT NULL,
    spec                      TEXT NOT NULL,   -- JSON
    origins                   TEXT NOT NULL,   -- JSON: where each value of the spec came from
    state                     TEXT NOT NULL,   -- created, starting, running, paused, stopping, stopped, failed
    incarnation               INTEGER REFERENCES incarnations (number), -- the one that lives, or the newest
    created_unix_ns           INTEGER NOT NULL,
    changed_unix_ns           INTEGER NOT NULL, -- since when it is in its state
    stop_requested_unix_ns    INTEGER,          -- asked of the incarnation above
    removal_requested_unix_ns INTEGER,
    removed_unix_ns           INTEGER,
    CHECK ((state = 'created') = (incarnation IS NULL)),
    CHECK (removed_unix_ns IS NULL OR removal_requested_unix_ns IS NOT NULL),
    CHECK (removed_unix_ns IS NULL OR state IN ('created', 'stopped', 'failed'))
) STRICT;

-- A name is free again once its VM is removed.
CREATE UNIQUE INDEX vms_by_name ON vms (name) WHERE removed_unix_ns IS NULL;
CREATE INDEX vms_removed ON vms (name) WHERE removed_unix_ns IS NOT NULL;

ALTER TABLE incarnations ADD COLUMN vm INTEGER REFERENCES vms (number);
ALTER TABLE incarnations ADD COLUMN failed_step TEXT;   -- of a VM's start that did not succeed
ALTER TABLE incarnations ADD COLUMN failed_cause TEXT;

CREATE INDEX incarnations_by_vm ON incarnations (vm) WHERE vm IS NOT NULL;
-- A second net under the compare-and-set of the code: of one VM, one incarnation lives.
CREATE UNIQUE INDEX incarnations_living_by_vm ON incarnations (vm) WHERE vm IS NOT NULL AND state <> 'ended';

CREATE TRIGGER a_vm_is_what_it_was_created BEFORE UPDATE OF id, spec, origins, created_unix_ns ON vms
BEGIN SELECT RAISE(ABORT, 'what a VM is to be does not change'); END;
CREATE TRIGGER a_removal_is_for_ever BEFORE UPDATE ON vms WHEN OLD.removed_unix_ns IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a VM that was removed does not change'); END;
CREATE TRIGGER an_incarnation_keeps_its_vm BEFORE UPDATE OF vm ON incarnations
BEGIN SELECT RAISE(ABORT, 'an incarnation does not change its VM'); END;
