"""Every experiment of the lecture notes, and a page of them: `hinge reproduce`."""
