"""`dask_map` returns the same results as Python's `map`, and raises the function's errors."""

import os

import numpy as np
import pytest
from distributed import Client
from numpy.typing import NDArray

from kernels.finite_difference import EvaluationError, numerical_gradient
from pipeline.cluster.dask_map import dask_map
from tests.bits import bits
from tests.pipeline.workers import process_ids


def cubes(x: NDArray[np.float64]) -> float:
    return float((x**3).sum())


def process_of(_item: int) -> int:
    return os.getpid()


def fails_at_seven(x: NDArray[np.float64]) -> float:
    if x[7] != 7:
        raise ZeroDivisionError("undefined here")
    return 0.0


def test_results_are_in_order_and_come_from_all_workers(client: Client) -> None:
    cluster_map = dask_map(client)
    assert list(cluster_map(abs, range(-20, 20))) == [abs(item) for item in range(-20, 20)]
    assert set(cluster_map(process_of, range(40))) == set(process_ids(client).values())
    assert list(cluster_map(abs, [])) == []


@pytest.mark.parametrize("scheme", ["centred", "forward"])
def test_numerical_gradient_is_bit_identical_to_a_local_one(client: Client, scheme: str) -> None:
    x = np.random.default_rng(0).normal(size=(9, 11))
    here = numerical_gradient(cubes, x, scheme=scheme)
    there = numerical_gradient(cubes, x, scheme=scheme, map=dask_map(client), block=7)
    assert bits(there) == bits(here)


def test_error_of_the_function_names_the_coordinate(client: Client) -> None:
    with pytest.raises(EvaluationError, match=r"ZeroDivisionError at x\[7\].*undefined here"):
        numerical_gradient(fails_at_seven, np.arange(10.0), map=dask_map(client))
