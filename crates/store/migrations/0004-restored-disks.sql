-- Which disk is a VM's: the one that this incarnation restored from a snapshot, or, NULL, the one it was made with.
--
-- An older runner restores nothing, and its VMs have the disks they were made with.

ALTER TABLE vms ADD COLUMN disk_of TEXT REFERENCES incarnations (id);
