"""The same rooms over plain HTTP: event streams, long polls, POST."""
