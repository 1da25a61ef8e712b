"""Storing CIFAR-10 as Zarr: `hinge ingest`."""
