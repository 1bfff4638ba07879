"""A Redis server or a Redis Cluster: `backend` is where to begin."""
