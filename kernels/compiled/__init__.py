"""Loops over rows, compiled by Numba, one file per topic."""
