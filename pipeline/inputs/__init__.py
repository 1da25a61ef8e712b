"""Inputs that decide a run: parameter rules, random streams, weights, examples and batches."""
