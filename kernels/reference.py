"""Reference implementation of the loss and its gradient: loops over examples and classes.

It follows the notes of Stanford's course CS231n, "Optimization: Stochastic Gradient Descent". It
is slow and simple on purpose, and uses Python floats. The tests compare all other implementations
with it. An example `x` contains centred pixels and a final 1 for the bias.
"""

from collections.abc import Sequence


def score(W: Sequence[Sequence[float]], x: Sequence[float], j: int) -> float:
    """Return the score of class `j`, `W_j . x`."""
    total = 0.0
    for weight, pixel in zip(W[j], x, strict=True):
        total += float(weight) * float(pixel)
    return total


def example_loss(
    W: Sequence[Sequence[float]], x: Sequence[float], y: int, delta: float = 1.0
) -> float:
    """Return one example's loss, `sum_{j != y} max(0, s_j - s_y + delta)`.

    Examples:
        >>> example_loss([[1.0, 0.0], [0.0, 0.0], [-1.0, 4.0]], [2.0, 1.0], 1)
        6.0
    """
    correct = score(W, x, y)
    loss = 0.0
    for j in range(len(W)):
        if j != y:
            loss += max(0.0, score(W, x, j) - correct + delta)
    return loss


def example_gradient(
    W: Sequence[Sequence[float]], x: Sequence[float], y: int, delta: float = 1.0
) -> list[list[float]]:
    """Return one example's subgradient (C, D + 1), with indicator 0 at a kink."""
    gradient = [[0.0] * len(x) for _ in W]
    correct = score(W, x, y)
    for j in range(len(W)):
        if j != y and score(W, x, j) - correct + delta > 0:
            for d in range(len(x)):
                gradient[j][d] += float(x[d])
                gradient[y][d] -= float(x[d])
    return gradient


def loss(
    W: Sequence[Sequence[float]],
    X: Sequence[Sequence[float]],
    y: Sequence[int],
    delta: float = 1.0,
    reg: float = 0.0,
) -> float:
    """Return the mean loss plus `reg` times the sum of squared weights without the bias."""
    total = 0.0
    for example, label in zip(X, y, strict=True):
        total += example_loss(W, example, label, delta)
    squares = sum(float(weight) ** 2 for row in W for weight in row[:-1])
    return total / len(y) + reg * squares


def gradient(
    W: Sequence[Sequence[float]],
    X: Sequence[Sequence[float]],
    y: Sequence[int],
    delta: float = 1.0,
    reg: float = 0.0,
) -> list[list[float]]:
    """Return the subgradient of `loss` (C, D + 1); the bias is not regularised."""
    total = [[0.0] * len(row) for row in W]
    for example, label in zip(X, y, strict=True):
        part = example_gradient(W, example, label, delta)
        for j, row in enumerate(part):
            for d, value in enumerate(row):
                total[j][d] += value / len(y)
    for j, weights in enumerate(W):
        for d, weight in enumerate(weights[:-1]):
            total[j][d] += 2.0 * reg * float(weight)
    return total
