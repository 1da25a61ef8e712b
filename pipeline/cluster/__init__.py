"""The use of Dask: connection, placement, shards, actors and tasks."""
