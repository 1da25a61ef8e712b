"""The command `hinge info`, which describes a store."""
