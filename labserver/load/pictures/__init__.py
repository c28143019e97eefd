"""Pictures of a run, and one page for all runs of a folder."""
