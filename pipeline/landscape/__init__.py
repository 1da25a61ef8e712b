"""Parameters and axes of slices of the loss: lines and planes in the space of weights."""
