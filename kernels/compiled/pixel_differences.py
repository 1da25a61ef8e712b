"""Compiled loops over the finite differences of each row's hinges in its own pixels.

`kernels.data_difference` checks the arrays and is the entry point.
"""

from typing import Any

from kernels.compiled.compilation import cached_njit
from kernels.compiled.differences import departure, hinge


@cached_njit()
def add_differences(
    margins: Any,
    labels: Any,
    pixels: Any,
    step: Any,
    reach: Any,
    centred: Any,
    numerical: Any,
    kinks: Any,
    crossings: Any,
    sizes: Any,
) -> None:
    """Add the hinges' differences to `numerical`, and their departures at kinks to `kinks`.

    A departure is the difference minus the subgradient's prediction. Crossed kinks are counted in
    `crossings`, and the absolute values of the margins whose hinges may be positive are added to
    `sizes`. `step` is the difference step h, and `reach` is the largest change of a margin.

    Shapes: `margins` (n, C); `pixels` (C, D), the weights of the pixels; `labels` and `sizes`
    (n,); `numerical`, `kinks` and `crossings` (n, D).
    """
    for i in range(len(labels)):
        own = pixels[labels[i]]
        for j in range(margins.shape[1]):
            margin = margins[i, j]
            if margin + reach <= 0:
                continue  # both hinges are 0
            sizes[i] += abs(margin)
            row, weights = numerical[i], pixels[j]
            for d in range(pixels.shape[1]):
                move = step * (weights[d] - own[d])
                back = margin - move if centred else margin
                row[d] += hinge(margin + move) - hinge(back)
            if margin <= reach:
                _cross(margin, weights, own, step, centred, kinks[i], crossings[i])


@cached_njit()
def _cross(
    margin: Any, weights: Any, own: Any, step: Any, centred: Any, kinks: Any, crossings: Any
) -> None:
    """Count the columns in which one margin crosses its kink, and add its departures there."""
    for d in range(len(weights)):
        move = step * (weights[d] - own[d])
        moved, back = margin + move, margin - move if centred else margin
        if (moved > 0) != (back > 0):
            crossings[d] += 1
            kinks[d] += departure(margin, moved, back)
