"""Prefect flows, the command line, figures and records of runs."""
