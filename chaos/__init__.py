"""Long runs of random faults, and storms; an oracle checks every client."""
