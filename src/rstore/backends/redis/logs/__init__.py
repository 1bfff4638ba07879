"""Logs: their rows, chunks and leases."""
