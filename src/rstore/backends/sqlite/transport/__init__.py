"""Connections to one SQLite file: opened, locked, waited for, left and forked."""
