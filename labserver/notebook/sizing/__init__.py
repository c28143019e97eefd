"""The size of a fleet, from what short runs on this machine cost."""
