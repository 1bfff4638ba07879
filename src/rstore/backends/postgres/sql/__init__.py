"""The SQL of a store, and the layout of its schema."""
