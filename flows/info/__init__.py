"""What a store holds: `hinge info`."""
