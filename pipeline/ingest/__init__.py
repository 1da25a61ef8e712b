"""Writing a store's shards in parallel."""
