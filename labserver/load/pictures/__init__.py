"""What a run looks like: plots, and one page for all runs of a folder."""
