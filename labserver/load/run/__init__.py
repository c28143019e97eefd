"""The life of a run: options, servers of its own, faults, samples, the end."""
