"""What a run may be asked for, and where its weights start."""

import math
from typing import Any

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.parameters import Method, Placement, TrainingParameters
from pipeline.schedules import parse_schedule
from pipeline.weights import Init
from tests.bits import bits

# fmt: off
BAD = [
    ({}, "give either a number of steps or a number of epochs"),
    ({"steps": 1, "epochs": 1}, "give either a number of steps or a number of epochs"),
    ({"steps": 0}, "the steps must be at least 1, not 0"),
    ({"steps": -3}, "the steps must be at least 1, not -3"),
    ({"epochs": 0}, "the epochs must be at least 1, not 0"),
    ({"steps": 1, "batch_size": 0}, "the batch size must be at least 1, not 0"),
    ({"steps": 1, "step_size": 0.0}, "the step size must be a positive number or `exact`, "
     "not 0.0"),
    ({"steps": 1, "step_size": -1.0}, "the step size must be a positive number or `exact`, "
     "not -1.0"),
    ({"steps": 1, "step_size": math.inf}, "the step size must be a positive number or `exact`, "
     "not inf"),
    ({"steps": 1, "step_size": math.nan}, "the step size must be a positive number or `exact`, "
     "not nan"),
    ({"steps": 1, "reg": -0.5}, "the regulariser must be a number that is not negative, not -0.5"),
    ({"epochs": 1, "reg": math.nan}, "the regulariser must be a number that is not negative, "
     "not nan"),
    ({"steps": 1, "seed": -1}, "the seed must be from 0 to 2^64 - 1, not -1"),
    ({"steps": 1, "seed": 2**64}, "the seed must be from 0 to 2^64 - 1, not 18446744073709551616"),
    ({"steps": 1, "tolerance": -0.1}, "the tolerance must be from 0 to below 1, not -0.1"),
    ({"steps": 1, "tolerance": 1.0}, "the tolerance must be from 0 to below 1, not 1.0"),
    ({"steps": 1, "tolerance": math.nan}, "the tolerance must be from 0 to below 1, not nan"),
    ({"steps": 1, "momentum": 1.0}, "the momentum must be from 0 to below 1, not 1.0"),
    ({"steps": 1, "schedule": "linear"}, "no schedule is 'linear'; write constant, cosine:STEPS, "
     "inverse:STEPS or staircase:FACTOR:STEPS, such as cosine:3000"),
    ({"steps": 1, "batch_size": 64}, "the batch size is of minibatch; gd takes none"),
    ({"steps": 1, "method": Method.LBFGS, "momentum": 0.5},
     "the momentum is of gd and minibatch; lbfgs takes none"),
    ({"steps": 1, "gap": 0.1}, "the gap is of smoothed; gd takes none"),
    ({"steps": 1, "method": Method.MINIBATCH, "step_size": "exact"},
     "the exact step size is that of all images; take method gd"),
    ({"steps": 1, "step_size": "exact", "momentum": 0.5},
     "the exact step size takes no momentum and no schedule"),
    ({"steps": 1, "method": Method.SMOOTHED, "reg": 1.0}, "a lower bound needs a regulariser that "
     "takes the bias; give --reg above 0 and --reg-bias"),
    ({"steps": 1, "method": Method.LBFGS, "placement": Placement.ONE_WORKER},
     "lbfgs takes its passes over all workers"),
    ({"steps": 1, "dtype": "float16"}, "the dtype must be float32 or float64, not float16"),
]  # fmt: skip
# fmt: on


@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_parameters(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        TrainingParameters(**given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 1},
        {
            "epochs": 1,
            "method": Method.MINIBATCH,
            "batch_size": 1,
            "reg": 0.0,
            "seed": 0,
            "tolerance": 0.0,
        },
        {"steps": 10**9, "step_size": 5e-324, "seed": 2**64 - 1, "tolerance": 0.999},
    ],
)
def test_parameters_at_their_limits(given: dict[str, Any]) -> None:
    assert TrainingParameters(**given).total_steps(1) >= 1


BAD_STARTS = [
    "", "one", "zeros:", "zeros:1", "normal", "normal:", "normal:x", "normal:0", "normal:-1",
    "normal:inf", "normal:nan", "Normal:1", "uniform", "uniform:-1", "normal:1:2",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_STARTS)
def test_bad_starts(text: str) -> None:
    message = (
        f"weights cannot start from {text!r}; write `zeros`, or `normal:SCALE` or "
        "`uniform:SCALE` with a positive number, such as `normal:1e-3`"
    )
    with pytest.raises(PipelineError) as caught:
        Init.parse(text)
    assert str(caught.value) == message
    with pytest.raises(PipelineError):
        TrainingParameters(steps=1, init=text)


def test_starts() -> None:
    zeros = Init.parse("zeros").weights(10, seed=3)
    assert zeros.dtype == np.float64
    np.testing.assert_array_equal(zeros, np.zeros((10, 3073)))
    one, other = (Init.parse("normal:1e-3").weights(10, seed) for seed in (1, 2))
    assert one.shape == (10, 3073)
    assert one.std() == pytest.approx(1e-3, rel=0.02)
    assert abs(one.mean()) < 3e-5  # 5 standard errors
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03
    assert bits(one) == bits(Init.parse("normal:0.001").weights(10, seed=1))
    uniform = Init.parse("uniform:1e-3").weights(10, seed=1)
    assert 0 <= uniform.min() < 1e-6
    assert 0.999e-3 < uniform.max() < 1e-3
    assert uniform.mean() == pytest.approx(0.5e-3, rel=0.02)
    np.testing.assert_array_equal(Init.parse("normal:2e-3").weights(10, seed=1), 2 * one)


# fmt: off
STEPS = [
    # parameters, steps over 1,000 rows
    ({"steps": 7}, 7),
    ({"epochs": 7}, 7),                                                   # of all rows: one a time
    ({"steps": 7, "method": Method.MINIBATCH}, 7),
    ({"epochs": 2, "method": Method.MINIBATCH, "batch_size": 100}, 20),
    ({"epochs": 2, "method": Method.MINIBATCH, "batch_size": 300}, 8),    # the fourth has 100
    ({"epochs": 1, "method": Method.MINIBATCH, "batch_size": 1}, 1000),
    ({"epochs": 3, "method": Method.MINIBATCH, "batch_size": 1000}, 3),
]
# fmt: on


@pytest.mark.parametrize(("given", "steps"), STEPS)
def test_the_number_of_steps(given: dict[str, Any], steps: int) -> None:
    assert TrainingParameters(**given).total_steps(1000) == steps


@pytest.mark.parametrize("length", [{"steps": 5}, {"epochs": 5}])
def test_a_batch_larger_than_the_set_is_refused(length: dict[str, int]) -> None:
    parameters = TrainingParameters(method=Method.MINIBATCH, batch_size=1001, **length)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="a batch of 1001 of 1000 images is not possible"):
        parameters.recipe(1000)


def test_a_recipe_has_the_batches_of_its_method() -> None:
    assert TrainingParameters(steps=5).recipe(10).batches(3) is None
    sampled = TrainingParameters(steps=5, method=Method.MINIBATCH, batch_size=4).recipe(10)
    shuffled = TrainingParameters(epochs=5, method=Method.MINIBATCH, batch_size=4).recipe(10)
    for recipe, sizes in ((sampled, [4, 4, 4]), (shuffled, [4, 4, 2])):
        batches = [recipe.batches(step) for step in range(3)]
        assert [batch is not None and len(batch) for batch in batches] == sizes


@pytest.mark.parametrize(
    "text",
    ["", "cosine", "cosine:0", "cosine:1.5", "cosine:x", "constant:1", "inverse:-3", "inverse:inf",
     "staircase:0.1", "staircase:0:5", "staircase:0.1:5:6", "staircase:nan:5", "cosine:nan"],
)  # fmt: skip
def test_bad_schedules(text: str) -> None:
    with pytest.raises(PipelineError, match="no schedule is"):
        parse_schedule(text, 1.0)
