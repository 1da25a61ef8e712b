"""Gradient checks (`hinge check`) and studies of the difference step (`hinge check-step`)."""
