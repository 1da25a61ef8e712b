"""Shards on Dask workers, the distributed objective, and the optimisation loops over it."""
