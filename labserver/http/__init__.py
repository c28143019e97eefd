"""Other doors to the same rooms: event streams, long polls, POST."""
