"""Schedules of the step size, as written on the command line."""

import math

from kernels.updates import Schedule, constant, cosine, inverse, staircase
from pipeline.inputs.errors import PipelineError

FORMS = "constant, cosine:STEPS, inverse:STEPS or staircase:FACTOR:STEPS"


def parse_schedule(text: str, step_size: float) -> Schedule:
    """Return the schedule that `text` describes, starting at `step_size`.

    `constant` keeps the step size. `cosine:200` decreases to 0 in 200 steps along a cosine.
    `inverse:200` multiplies the step size by `1 / (1 + t / 200)` at step t. `staircase:0.1:1000`
    multiplies it by 0.1 every 1,000 steps.

    Raises PipelineError for any other text.

    Examples:
        >>> [parse_schedule("staircase:0.5:100", 8.0)(t) for t in (0, 99, 100, 200)]
        [8.0, 8.0, 4.0, 2.0]
    """
    kind, *numbers = text.split(":")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    steps = int(values[-1]) if values and math.isfinite(values[-1]) else 0
    match kind, values:
        case "constant", [] if not numbers:
            return constant(step_size)
        case "cosine", [_] if steps == values[-1] >= 1:
            return cosine(step_size, steps)
        case "inverse", [_] if steps == values[-1] >= 1:
            return inverse(step_size, steps)
        case "staircase", [factor, _] if 0 < factor < math.inf and steps == values[-1] >= 1:
            return staircase(step_size, factor, steps)
    raise PipelineError(f"the schedule cannot be {text!r}; write {FORMS}, such as cosine:3000")
