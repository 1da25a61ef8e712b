"""The demo: `make demo`, or `python -m flows.demo`."""
