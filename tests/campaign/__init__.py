"""The slow proofs: files that are damaged, processes that are killed, faults at every line. ``make campaign``."""
