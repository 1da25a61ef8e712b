"""Prefect flows, the command line, figures and run records."""
