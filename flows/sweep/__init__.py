"""The loss at many step sizes along one gradient: `hinge sweep`."""
