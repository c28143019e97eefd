"""Redis: commands, subscriptions, the nodes of a cluster, an embedded server."""
