"""The connection to a PostgreSQL server: its protocol, how it is opened, and the pool that hands it out."""
