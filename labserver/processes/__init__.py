"""Processes: serving until a signal, clusters, and a proxy that injects faults."""
