"""Logs in PostgreSQL: views, commits and tombstones."""
