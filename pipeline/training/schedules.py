"""How a step size changes with the steps, as it is written on a command line."""

import math

from kernels.updates import Schedule, constant, cosine, inverse, staircase
from pipeline.inputs.errors import PipelineError

FORMS = "constant, cosine:STEPS, inverse:STEPS or staircase:FACTOR:STEPS"


def parse_schedule(text: str, step_size: float) -> Schedule:
    """Read a schedule that begins with `step_size`.

    `cosine:200` falls to 0 in 200 steps along a cosine; `inverse:200` is `1 / (1 + t / 200)`;
    `staircase:0.1:1000` falls to a tenth every 1,000 steps.

    Raises PipelineError for anything else.

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
    raise PipelineError(f"no schedule is {text!r}; write {FORMS}, such as cosine:3000")
