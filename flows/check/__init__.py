"""Gradient checks (`hinge check`) and studies of the difference's step (`hinge check-step`)."""
