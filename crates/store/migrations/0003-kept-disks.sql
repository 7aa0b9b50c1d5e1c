-- A removal remembers whether it leaves the VM's disk where it is: whoever finishes it obeys.
--
-- A removal that was asked of an older outlast takes the disk along: 0.

ALTER TABLE vms ADD COLUMN keep_disks INTEGER NOT NULL DEFAULT 0 CHECK (keep_disks IN (0, 1));
