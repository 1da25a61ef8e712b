"""CIFAR-10 in its official forms, and the chunked Zarr store the pipeline reads."""
