"""Key/value pairs: what is true now."""
