"""What a run measured: histograms, completeness, verdicts, files."""
