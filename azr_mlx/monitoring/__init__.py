"""What a run shows: metrics, warnings, the terminal, trackers and the report."""
