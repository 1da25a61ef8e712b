"""Random search and local search: `hinge search`."""
