"""The demonstration: `python -m flows.demo`, or `make demo`."""
