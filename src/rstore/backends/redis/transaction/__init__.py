"""Transactions: an overlay over the stored records and logs."""
