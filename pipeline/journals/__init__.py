"""Append-only records of finished work, from which an interrupted run resumes."""
