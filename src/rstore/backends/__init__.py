"""Storage backends: the contract that they implement, and the registry that finds them."""
