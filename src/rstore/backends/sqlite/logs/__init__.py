"""Logs in a SQLite file: heads, hot rows, chunks and checkpoints."""
