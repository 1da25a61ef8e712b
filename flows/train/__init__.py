"""Training runs: `hinge train`."""
