"""The Dask side: connection, placement, shards, actors, tasks."""
