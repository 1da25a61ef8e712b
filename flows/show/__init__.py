"""`hinge show`: a run's weights as images, margins of examples, and the confusion matrix."""
