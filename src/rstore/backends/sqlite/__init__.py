"""One SQLite file: `backend` is where to begin."""
