"""The claims and numbers of the notes, compared with the results of this run.

Some numbers in the notes depend on random weights. For these, a range of values counts as
agreement. A curve agrees if its features agree, such as the best step size. Some claims have no
number in the notes; they are either true or false.
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
    """A number or claim of the notes, the result of this run, and whether the two agree."""

    name: str
    ours: str
    notes: str
    agrees: bool
    how: str
    """The criterion for agreement."""
    of_images: bool = True
    """Whether the comparison is valid only for the notes' own images."""


def examine_claims(measured: Measurements) -> list[Claim]:
    """Return all claims, in the order of the notes."""
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
            "the loss of one example along a line is piecewise linear",
            f"{one.breakpoints + 1} linear pieces; largest relative difference to the evaluated "
            f"points {one.max_difference:.1e}",
            "piecewise linear",
            one.max_difference < 1e-12,
            "the relative difference is below 1e-12 at every evaluated point",
            of_images=False,
        ),
        Claim(
            "the loss of 100 examples over a plane looks like a bowl",
            "lowest at a = {:.2f}, b = {:.2f}".format(*bowl.minimum_at),
            "bowl-shaped",
            all(
                axis.low < at < axis.high
                for axis, at in zip(bowl.axes, bowl.minimum_at, strict=True)
            ),
            "the lowest point is not on the edge of the plane",
        ),
        Claim(
            "the loss is convex",
            f"{line.breakpoints:,} breakpoints; the slope goes from {low:.3g} to {high:.3g}",
            "convex",
            line.slopes_rise,
            "along a line, the slope of the loss over all images never decreases",
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
            "all losses in the notes lie within the range of the "
            f"{len(measured.random_losses):,} losses of this run",
        ),
        Claim(
            "test accuracy of the best of 1,000 random weights",
            f"{random.test_accuracy:.2%}",
            f"{notes.RANDOM_ACCURACY:.2%}",
            notes.CHANCE < random.test_accuracy < 0.2,
            "this run's accuracy is between 10% (guessing) and 20%; it depends on the random draw",
        ),
        Claim(
            "test accuracy after 1,000 trials of local search",
            f"{local.test_accuracy:.2%}",
            f"{notes.LOCAL_ACCURACY:.1%}",
            abs(local.test_accuracy - notes.LOCAL_ACCURACY) <= 0.03,
            "the difference is at most 3 percentage points",
        ),
        Claim(
            "local search is better than random search",
            f"{local.test_accuracy:.2%} against {random.test_accuracy:.2%}",
            f"{notes.LOCAL_ACCURACY:.1%} against {notes.RANDOM_ACCURACY:.2%}",
            local.test_accuracy > random.test_accuracy,
            "the test accuracy of local search is higher",
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
            "loss evaluations for one numerical gradient",
            f"{evaluations:,}",
            f"{notes.WEIGHTS + 1:,}",
            evaluations == notes.WEIGHTS + 1,
            "the numbers are equal",
            of_images=False,
        ),
        Claim(
            "the analytic gradient passes the check",
            f"{wrong} of {check.coordinates:,} coordinates are wrong; largest absolute error with "
            f"kinks removed {check.max_error_after_kinks:.1e}",
            "it should pass",
            wrong == 0,
            "no coordinate is wrong",
            of_images=False,
        ),
        Claim(
            "centred differences are more accurate than forward differences",
            f"error {errors['centred']:.1e} against {errors['forward']:.1e} at h = 1e-5",
            "often more accurate in practice",
            errors["centred"] < errors["forward"],
            "the root mean square error of centred differences is smaller",
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
            "the best step sizes are equal",
        ),
        Claim(
            "the step sizes that lower the loss",
            _in_words(lower),
            _in_words(lower_in_notes),
            lower == lower_in_notes,
            "the step sizes are the same",
        ),
        Claim(
            "a 10 times smaller step lowers the loss about 10 times less",
            f"{gain:.2f}",
            f"{gain_in_notes:.2f}",
            abs(gain / gain_in_notes - 1) < 0.05,
            "decrease at 1e-9 divided by decrease at 1e-10; the ratios agree within 5%",
        ),
        Claim(
            "a 10 times larger step overshoots about 10 times as far",
            f"{overshoot:.4f}",
            f"{overshoot_in_notes:.4f}",
            abs(overshoot / overshoot_in_notes - 1) < 0.01,
            "loss at 1e-1 divided by loss at 1e-2; the ratios agree within 1%",
        ),
    ]


def _lower(losses: Mapping[float, float], initial: float) -> list[float]:
    """Return the step sizes that lower the loss."""
    return [size for size, loss in losses.items() if loss < initial]


def _gain(losses: Mapping[float, float], initial: float) -> float:
    """Return the decrease of the loss at step size 1e-9, divided by the decrease at 1e-10."""
    return _ratio(initial - losses[1e-9], initial - losses[1e-10])


def _overshoot(losses: Mapping[float, float]) -> float:
    """Return the loss at step size 0.1, divided by the loss at 0.01."""
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
            "gradient descent is better than local search",
            f"{descent.test_accuracy:.2%} after {descent.steps} steps against "
            f"{local.test_accuracy:.2%} after {local.trials:,} trials",
            "better",
            descent.test_accuracy > local.test_accuracy,
            "the test accuracy of gradient descent is higher",
        ),
        Claim(
            "small steps make slow progress, and large steps overshoot",
            f"of the step sizes {trials[0].step_size:g} to {trials[-1].step_size:g}, "
            f"{trials[best].step_size:g} gives the lowest loss",
            "slow progress with small steps, overshooting with large ones",
            0 < best < len(trials) - 1,
            "the best step size is neither the smallest nor the largest",
        ),
        Claim(
            "mini-batch gradient descent converges much faster",
            f"reads {full / batches:,.0f} times fewer images to reach the same loss"
            if batches
            else "does not reach the same loss",
            "much faster",
            0 < 10 * batches < full,
            "mini-batch gradient descent reads at least 10 times fewer images",
        ),
        Claim(
            f"{duplicates.copies:,} copies of each of {duplicates.unique:,} images have the same "
            f"gradient as the {duplicates.unique:,} images",
            "bit-identical" if duplicates.same_bits else "not bit-identical",
            "the same",
            duplicates.same_bits,
            "loss and gradient are bit-identical",
            of_images=False,
        ),
    ]


def _ratio(a: float, b: float) -> float:
    """Return a / b, or NaN if b is 0. A comparison with NaN never agrees."""
    return a / b if b else math.nan
