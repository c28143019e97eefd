"""Links to Redis: commands, subscriptions, nodes of a cluster, and a server of one's own."""
