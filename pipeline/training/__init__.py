"""Training: parameters, schedules, steps, grids, and SciPy's minimisers."""
