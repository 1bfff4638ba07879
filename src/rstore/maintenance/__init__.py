"""Verbs about a store as a whole: statistics, durability, checks and copies."""
