"""Which lines and planes in the space of weights to look along."""
