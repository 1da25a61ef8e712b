"""`hinge reproduce`: every experiment of the lecture notes, with an HTML report."""
