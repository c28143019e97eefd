"""Long runs of random faults; an oracle checks every client."""
