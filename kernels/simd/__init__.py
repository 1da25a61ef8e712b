"""Generators of vector instructions, which the compiled loops call."""
