"""Calls and transactions: how statements are sent, tried again, and settled when a reply is lost."""
