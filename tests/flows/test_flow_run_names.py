"""The names of flow runs: what is done, with the decisive parameters."""

from typing import Any

import pytest

from pipeline.check.parameters import CheckMethod, Gradient, GradientCheck
from pipeline.check.step_study import StepStudy
from pipeline.landscape.parameters import Landscape, Panels
from pipeline.reproduce.parameters import Reproduction
from pipeline.search.local_search import LocalSearch
from pipeline.search.random_search import RandomSearch
from pipeline.sweep.parameters import Sweep
from pipeline.training.grid import TrainingGrid
from pipeline.training.parameters import LBFGS, GradientDescent, MiniBatches, SmoothedHinge

NAMES: list[tuple[Any, str]] = [
    (RandomSearch(), "random-search 1000 x 1e-4 seed 0"),
    (RandomSearch(32, 0.5, 7), "random-search 32 x 0.5 seed 7"),
    (LocalSearch(), "local-search 1000 x 1e-4 from 1e-3 seed 0"),
    (GradientDescent(), "gd 200 x 1e-7"),
    (GradientDescent(step_size="exact", reg=2.5e4), "gd 200 x exact reg 2.5e4"),
    (GradientDescent(epochs=3), "gd 3 epochs x 1e-7"),
    (MiniBatches(), "minibatch 3000 x 256 x 1e-7 seed 0"),
    (MiniBatches(epochs=2, batch_size=64), "minibatch 2 epochs x 64 x 1e-7 seed 0"),
    (MiniBatches(reg=2.5e4), "minibatch 3000 x 256 x 1e-7 reg 2.5e4 seed 0"),
    (LBFGS(reg=1e3), "lbfgs 30 reg 1000"),
    (SmoothedHinge(), "smoothed 200 gap 1e-3 reg 1000"),
    (Sweep(), "sweep 1e-10..1e-1 at W0"),
    (Sweep("-8:-6", 10, seed=3), "sweep 1e-8..1e-6 x 10 at W0 seed 3"),
    (Sweep(at="runs/train-1"), "sweep 1e-10..1e-1 at train-1"),
    (TrainingGrid(), "grid 5 x 1 x 1 trials, 500 steps seed 0"),
    (GradientCheck(), "check full structured at normal:1e-3"),
    (
        GradientCheck(method=CheckMethod.BLACK_BOX, coordinates=16, seed=2),
        "check full black-box 16 coordinates at normal:1e-3 seed 2",
    ),
    (GradientCheck(gradient=Gradient.DATA, at="zeros"), "check data structured at zeros"),
    (StepStudy(), "check-step 1e-3..1e-11 at normal:1e-3"),
    (Landscape(), "landscape 2d random around normal:1e-3 seed 0"),
    (Landscape(directions="../a,b"), "landscape 2d a, b around normal:1e-3 seed 0"),
    (Landscape(path="../x/train-9"), "landscape path of train-9"),
    (Panels(), "panels around normal:1e-3 seed 0"),
    (Reproduction(4), "reproduce seed 4"),
]


@pytest.mark.parametrize(("parameters", "name"), NAMES, ids=[name for _, name in NAMES])
def test_name_says_what_is_done(parameters: Any, name: str) -> None:
    assert parameters.in_words() == name
