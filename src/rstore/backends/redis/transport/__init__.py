"""Connections to the servers: what is sent to whom, and what is done where that goes wrong."""
