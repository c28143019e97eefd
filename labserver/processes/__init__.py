"""Many processes: serving until a signal, clusters, faults on their links."""
