"""The command `hinge ingest`, which writes CIFAR-10 to a Zarr store."""
