"""Parallel writing of a store's shards."""
