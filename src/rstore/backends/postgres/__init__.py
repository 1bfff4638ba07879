"""A schema of a PostgreSQL database: `backend` is where to begin."""
