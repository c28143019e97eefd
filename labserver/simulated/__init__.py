"""The real server, client and scripts on a virtual clock and an in-memory network."""
