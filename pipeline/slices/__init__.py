"""The loss along a line and over a plane in the space of weights."""
