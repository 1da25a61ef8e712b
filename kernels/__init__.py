"""Pure functions over arrays: the hinge loss, its gradient and the update rules."""
