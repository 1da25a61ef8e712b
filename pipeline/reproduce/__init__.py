"""What the reproduction of the notes adds to the other experiments."""
