"""Random search and local search."""
