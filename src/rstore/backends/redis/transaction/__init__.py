"""Transactions: an overlay over what is stored."""
