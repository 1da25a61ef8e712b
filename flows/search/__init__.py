"""Random search and random local search: `hinge search`."""
