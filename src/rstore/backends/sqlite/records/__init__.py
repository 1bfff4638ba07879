"""Key/value records in a SQLite file."""
