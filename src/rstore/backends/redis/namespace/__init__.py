"""How a namespace lies on the servers, and its life."""
