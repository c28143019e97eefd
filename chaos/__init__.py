"""Long runs of random faults, storms and failovers; an oracle checks every client."""
