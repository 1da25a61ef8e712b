"""The notes' numbers and claims, what came out here, and whether the two agree.

Some of the notes' numbers depend on random weights. Such a number agrees if it lies within the
range that other random weights give. A curve agrees if its features do. A law has no number in the
notes: it holds or does not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flows.landscape.results import LineResult
from flows.reproduce import notes
from flows.reproduce.measurements import Measurements


@dataclass(frozen=True)
class Claim:
    """A number or claim of the notes, what came out here, and whether it agrees."""

    name: str
    ours: str
    notes: str
    agrees: bool
    how: str
    """What decides whether they agree."""
    of_images: bool = True
    """Whether it can be compared only on the notes' own images."""


def examine_claims(measured: Measurements) -> list[Claim]:
    """Return all claims, in the notes' order."""
    return [
        *_slices(measured),
        *_searches(measured),
        *_gradients(measured),
        *_sweep(measured),
        *_descents(measured),
    ]


def _slices(measured: Measurements) -> list[Claim]:
    panels = measured.experiments.panels.record.result
    one, bowl = panels.line, panels.planes["100 examples"]
    line = measured.experiments.line.record.result
    assert isinstance(line, LineResult)
    low, high = line.slope_at_ends
    return [
        Claim(
            "one example's loss is made of straight pieces",
            f"{one.breakpoints + 1} pieces, off the evaluated points by {one.max_difference:.1e}",
            "piecewise linear",
            one.max_difference < 1e-12,
            "relative difference below 1e-12 at every point",
            of_images=False,
        ),
        Claim(
            "a hundred examples make a bowl",
            "lowest at a = {:.2f}, b = {:.2f}".format(*bowl.minimum_at),
            "a bowl",
            all(
                axis.low < at < axis.high
                for axis, at in zip(bowl.axes, bowl.minimum_at, strict=True)
            ),
            "the lowest point is not at the edge",
        ),
        Claim(
            "the loss is convex",
            f"{line.breakpoints:,} breakpoints, slope rising from {low:.3g} to {high:.3g}",
            "convex",
            line.slopes_rise,
            "the slope never falls, over all images",
            of_images=False,
        ),
    ]


def _searches(measured: Measurements) -> list[Claim]:
    random = measured.experiments.random_search.record.result
    local = measured.experiments.local_search.record.result
    lowest, highest = float(measured.random_losses.min()), float(measured.random_losses.max())
    lowest_of_notes, highest_of_notes = min(notes.RANDOM_LOSSES), max(notes.RANDOM_LOSSES)
    return [
        Claim(
            "losses of random weights",
            f"{lowest:.6f} to {highest:.6f}",
            f"{lowest_of_notes:.6f} to {highest_of_notes:.6f}",
            lowest <= lowest_of_notes and highest_of_notes <= highest,
            f"all the notes print lie among those of our {len(measured.random_losses):,}",
        ),
        Claim(
            "accuracy of the best of 1,000 random weights",
            f"{random.test_accuracy:.2%}",
            f"{notes.RANDOM_ACCURACY:.2%}",
            notes.CHANCE < random.test_accuracy < 0.2,
            "10% to 20%: more than guessing; which weights are luckiest is luck",
        ),
        Claim(
            "accuracy after 1,000 tries of local search",
            f"{local.test_accuracy:.2%}",
            f"{notes.LOCAL_ACCURACY:.1%}",
            abs(local.test_accuracy - notes.LOCAL_ACCURACY) <= 0.03,
            "within three percentage points",
        ),
        Claim(
            "local search is the better search",
            f"{local.test_accuracy:.2%} against {random.test_accuracy:.2%}",
            f"{notes.LOCAL_ACCURACY:.1%} against {notes.RANDOM_ACCURACY:.2%}",
            local.test_accuracy > random.test_accuracy,
            "the accuracy is higher",
        ),
    ]


def _gradients(measured: Measurements) -> list[Claim]:
    record = measured.experiments.gradient_check.record
    check, wrong = record.result, record.result.verdicts.wrong
    evaluations = check.coordinates + 1
    errors = {
        each.scheme: each.error
        for each in measured.experiments.differences.record.result.steps
        if math.isclose(each.step, record.parameters.step)
    }
    return [
        Claim(
            "evaluations for one numerical gradient",
            f"{evaluations:,}",
            f"{notes.WEIGHTS + 1:,}",
            evaluations == notes.WEIGHTS + 1,
            "equal",
            of_images=False,
        ),
        Claim(
            "the analytic gradient passes the check",
            f"{wrong} of {check.coordinates:,} wrong; absolute error "
            f"{check.max_error_after_kinks:.1e} once kinks are accounted for",
            "it should",
            wrong == 0,
            "no coordinate is wrong",
            of_images=False,
        ),
        Claim(
            "centred differences are better than forward ones",
            f"error {errors['centred']:.1e} against {errors['forward']:.1e} at h = 1e-5",
            "in practice they are",
            errors["centred"] < errors["forward"],
            "the root mean square error is smaller",
        ),
    ]


def _sweep(measured: Measurements) -> list[Claim]:
    sweep = measured.experiments.sweep.record.result
    losses, initial = {each.step_size: each.loss for each in sweep.losses}, sweep.initial_loss
    best_of_notes = min(notes.SWEEP, key=lambda size: notes.SWEEP[size])
    lower, lower_in_notes = _lower(losses, initial), _lower(notes.SWEEP, notes.SWEEP_INITIAL)
    gain, gain_in_notes = _gain(losses, initial), _gain(notes.SWEEP, notes.SWEEP_INITIAL)
    overshoot, overshoot_in_notes = _overshoot(losses), _overshoot(notes.SWEEP)
    return [
        Claim(
            "the best of ten step sizes",
            f"{sweep.best_step_size:g}",
            f"{best_of_notes:g}",
            sweep.best_step_size == best_of_notes,
            "equal",
        ),
        Claim(
            "the step sizes that lower the loss",
            _in_words(lower),
            _in_words(lower_in_notes),
            lower == lower_in_notes,
            "the same ones",
        ),
        Claim(
            "ten times as small a step gains a tenth",
            f"{gain:.2f}",
            f"{gain_in_notes:.2f}",
            abs(gain / gain_in_notes - 1) < 0.05,
            "the gain from 1e-9 by that from 1e-10, within 5%",
        ),
        Claim(
            "ten times as large a step overshoots ten times as far",
            f"{overshoot:.4f}",
            f"{overshoot_in_notes:.4f}",
            abs(overshoot / overshoot_in_notes - 1) < 0.01,
            "the loss at 1e-1 by that at 1e-2, within 1%",
        ),
    ]


def _lower(losses: Mapping[float, float], initial: float) -> list[float]:
    """Return the step sizes that lower the loss."""
    return [size for size, loss in losses.items() if loss < initial]


def _gain(losses: Mapping[float, float], initial: float) -> float:
    """Return how many times more a step of 1e-9 gains than one of 1e-10."""
    return _ratio(initial - losses[1e-9], initial - losses[1e-10])


def _overshoot(losses: Mapping[float, float]) -> float:
    """Return how many times higher the loss is after a step of 0.1 than after one of 0.01."""
    return _ratio(losses[1e-1], losses[1e-2])


def _in_words(sizes: Sequence[float]) -> str:
    return f"{min(sizes):g} to {max(sizes):g}" if sizes else "none"


def _descents(measured: Measurements) -> list[Claim]:
    experiments, duplicates = measured.experiments, measured.duplicates
    descent = experiments.gradient_descent.record.result
    local = experiments.local_search.record.result
    trials = sorted(experiments.step_sizes.record.result.trials, key=lambda each: each.step_size)
    best = int(np.argmin([each.loss for each in trials]))
    full, batches = measured.images_to_descend
    return [
        Claim(
            "following the gradient is better than searching",
            f"{descent.test_accuracy:.2%} after {descent.steps} steps, "
            f"{local.test_accuracy:.2%} after {local.trials:,} tries",
            "it is",
            descent.test_accuracy > local.test_accuracy,
            "the accuracy is higher",
        ),
        Claim(
            "small steps are slow, and large ones overshoot",
            f"of {trials[0].step_size:g} to {trials[-1].step_size:g}, "
            f"{trials[best].step_size:g} comes lowest",
            "they do",
            0 < best < len(trials) - 1,
            "neither the smallest nor the largest is best",
        ),
        Claim(
            "mini-batches come down much faster",
            f"{full / batches:,.0f} times fewer images for the same loss"
            if batches
            else "never as low",
            "much faster",
            0 < 10 * batches < full,
            "at least ten times fewer images looked at",
        ),
        Claim(
            f"{duplicates.copies:,} copies of {duplicates.unique:,} images have the gradient of "
            f"the {duplicates.unique:,}",
            "the same bits" if duplicates.same_bits else "other bits",
            "the same",
            duplicates.same_bits,
            "loss and gradient are equal, bit for bit",
            of_images=False,
        ),
    ]


def _ratio(a: float, b: float) -> float:
    """Return a / b, or NaN (which agrees with nothing) if b is 0."""
    return a / b if b else math.nan
