"""Event sequences: how a dict came to hold its items, replayable to any moment."""
