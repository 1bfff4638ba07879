"""Building blocks that several backends share."""
