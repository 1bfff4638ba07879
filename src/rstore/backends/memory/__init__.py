"""Dicts of this process: `backend` is where to begin."""
