"""A run's weights as images, margins and confusion matrix: `hinge show`."""
