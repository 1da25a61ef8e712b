"""Gradient checks: parameters, structured differences, black box, study of steps."""
