"""Training: parameters, schedules, the steps, grids, and SciPy's minimisers."""
