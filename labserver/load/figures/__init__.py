"""The figures of a run: histograms, completeness, verdicts, files."""
