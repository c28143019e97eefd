"""Which promises other servers keep, each written as its documentation shows."""
