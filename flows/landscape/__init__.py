"""The loss along lines and over planes: `hinge landscape`, `hinge panels`, `hinge three-points`."""
