"""Long runs of random faults, storms and failover, by seed; an oracle judges them."""
