"""Sweeps over step sizes along one gradient."""
