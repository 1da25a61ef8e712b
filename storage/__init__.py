"""CIFAR-10 in its official formats, and the chunked Zarr store that the pipeline reads."""
