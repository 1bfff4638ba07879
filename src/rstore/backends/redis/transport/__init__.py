"""Connections to the servers, calls through them, and the handling of their failures."""
