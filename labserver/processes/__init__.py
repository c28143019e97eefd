"""Many processes: serving until a signal, workers, clusters, faults on their links."""
