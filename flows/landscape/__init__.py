"""Slices of the loss: `hinge landscape`, `hinge panels` and `hinge three-points`."""
