"""The numbers that the lecture notes print, and the data set that they use.

Source: A. Karpathy and J. Johnson, CS231n: Convolutional Neural Networks for Visual Recognition,
notes on "Optimization: Stochastic Gradient Descent", https://cs231n.github.io/optimization-1/.
"""

from storage.dataset import DatasetSummary

ADDRESS = "https://cs231n.github.io/optimization-1/"

DATA_SET, TRAINING_IMAGES = "cifar10", 50_000
"""The data set of the notes, and its number of training images."""

RANDOM_LOSSES = (9.401632, 8.959668, 9.044034, 9.278948, 8.857370, 8.943151, 8.605604)
"""The losses of the first seven random weights; the notes print no others."""

RANDOM_ACCURACY = 0.1555
"""The test accuracy of the best of 1,000 random weights."""

LOCAL_ACCURACY = 0.214
"""The test accuracy after 1,000 trials of a random local search."""

CHANCE = 0.1
"""The accuracy of guessing."""

SWEEP_INITIAL = 2.200718
"""The loss of the sweep before the step."""

SWEEP = {
    1e-10: 2.200652,
    1e-9: 2.200057,
    1e-8: 2.194116,
    1e-7: 2.135493,
    1e-6: 1.647802,
    1e-5: 2.844355,
    1e-4: 25.558142,
    1e-3: 254.086573,
    1e-2: 2539.370888,
    1e-1: 25392.214036,
}
"""The loss after one step, keyed by step size."""

WEIGHTS = 30_730
"""The number of weights: ten classes, each with 3,072 pixels and a bias."""


def are_the_notes_images(data: DatasetSummary) -> bool:
    """Return whether the data set contains all training images of the notes."""
    return data.name == DATA_SET and data.rows["train"] == TRAINING_IMAGES
