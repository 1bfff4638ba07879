"""The time-series verbs: measurements and their times."""
