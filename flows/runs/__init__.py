"""Recorded runs: their directory, record, life cycle, locks, tables and artifacts."""
