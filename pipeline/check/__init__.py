"""Gradient checks: parameters, structured check, black-box check, and step study."""
