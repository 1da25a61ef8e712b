"""What the project adds to Dask's dashboard: metrics of the workers, and the page `/hinge`."""
