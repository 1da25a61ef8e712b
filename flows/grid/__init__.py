"""Grids of training runs: `hinge grid`."""
