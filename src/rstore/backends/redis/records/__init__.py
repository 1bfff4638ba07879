"""Key/value records."""
