"""Recorded runs: directories, records, life cycle, locks, tables and artifacts."""
