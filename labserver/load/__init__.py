"""The load generator: users, runs, figures, pictures."""
