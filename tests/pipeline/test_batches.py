"""The rows of each step's batch, and the random streams that they are drawn from."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from pipeline.inputs.batches import Batches, ShuffledEpochs, UniformSamples, full_batch
from pipeline.inputs.errors import PipelineError
from pipeline.inputs.random_streams import Purpose, random_stream

SIZES = st.integers(1, 300).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(1, rows)))
SEEDS = st.integers(0, 2**64 - 1)


def test_full_batch_is_all_rows_at_every_step() -> None:
    rule: Batches = full_batch
    assert [rule(step) for step in range(3)] == [None, None, None]


@given(sizes=SIZES, seed=SEEDS, step=st.integers(0, 10**9))
def test_sample_has_the_requested_size_and_distinct_rows(
    sizes: tuple[int, int], seed: int, step: int
) -> None:
    rows, size = sizes
    sample = UniformSamples(rows, size, seed)(step)
    assert sample.shape == (size,)
    assert sample.dtype == np.int64
    assert len(set(sample.tolist())) == size
    assert 0 <= sample.min() <= sample.max() < rows


@given(sizes=SIZES, seed=SEEDS, epoch=st.integers(0, 1000))
def test_epoch_contains_every_row_once(sizes: tuple[int, int], seed: int, epoch: int) -> None:
    rows, size = sizes
    batches = ShuffledEpochs(rows, size, seed)
    first = epoch * batches.steps_per_epoch
    taken = [batches(first + step) for step in range(batches.steps_per_epoch)]
    assert sorted(np.concatenate(taken).tolist()) == list(range(rows))
    assert [len(batch) for batch in taken[:-1]] == [size] * (len(taken) - 1)
    assert len(taken[-1]) == rows - size * (len(taken) - 1)
    assert len(taken[-1]) >= 1


def test_epochs_have_different_orders() -> None:
    batches = ShuffledEpochs(rows=100, size=100, seed=0)
    orders = [batches(epoch).tolist() for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert list(range(100)) not in orders


@pytest.mark.parametrize("rule", [UniformSamples, ShuffledEpochs])
def test_batch_size_may_be_one_row_or_all_rows(rule: type[UniformSamples | ShuffledEpochs]) -> None:
    assert [len(rule(5, 1, 0)(step)) for step in range(11)] == [1] * 11
    assert sorted(rule(5, 5, 0)(3).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("rule", [UniformSamples, ShuffledEpochs])
@pytest.mark.parametrize("size", [-1, 0, 6])
def test_batch_size_out_of_range_raises_pipeline_error(
    rule: type[UniformSamples | ShuffledEpochs], size: int
) -> None:
    with pytest.raises(
        PipelineError, match=rf"^the batch size must be from 1 to 5, .*, not {size}$"
    ):
        rule(5, size, 0)


STEPS = [0, 1, 2, 7, 8, 52, 10_000]


def draw_batches(steps: list[int]) -> dict[int, tuple[list[int], list[int]]]:
    """Return the batches of both rules at some steps, requested in that order."""
    samples, epochs = UniformSamples(1000, 20, seed=5), ShuffledEpochs(1000, 300, seed=5)
    return {step: (samples(step).tolist(), epochs(step).tolist()) for step in steps}


def test_batches_do_not_depend_on_the_order_of_requests() -> None:
    backwards = draw_batches(STEPS[::-1])
    assert draw_batches(STEPS) == backwards
    assert {step: draw_batches([step])[step] for step in STEPS} == backwards


@pytest.mark.slow
def test_batches_are_the_same_in_every_process() -> None:
    code = f"from tests.pipeline.test_batches import draw_batches; print(draw_batches({STEPS}))"
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    ]
    assert printed == [str(draw_batches(STEPS))] * 2


def test_sampling_draws_every_row_equally_often() -> None:
    rows, steps = 50, 4000
    for size in (1, 7, 49):
        counts = np.zeros(rows)
        samples = UniformSamples(rows, size, seed=11)
        for step in range(steps):
            counts[samples(step)] += 1
        # a sample has distinct rows, so the counts vary less than with independent draws
        spread = (rows - size) / (rows - 1)
        statistic = chisquare(counts).statistic / spread
        # a chi-square value with 49 degrees of freedom is outside once in 1,000 draws
        assert 25 < statistic < 85, size


def test_first_row_of_an_epoch_is_uniformly_distributed() -> None:
    firsts = [int(ShuffledEpochs(10, 1, seed=2)(10 * epoch)[0]) for epoch in range(3000)]
    assert chisquare(np.bincount(firsts, minlength=10)).pvalue > 1e-3


def stream_numbers(seed: int, purpose: Purpose, index: int) -> tuple[int, ...]:
    return tuple(random_stream(seed, purpose, index).integers(2**63, size=2).tolist())


def test_streams_with_different_seed_purpose_or_index_differ() -> None:
    names = [
        (seed, purpose, index)
        for seed in (0, 1, 2, 3, 2**32, 2**64 - 1)
        for purpose in Purpose
        for index in (0, 1, 2, 3, 2**32, 2**40)
    ]
    assert len({stream_numbers(*name) for name in names}) == len(names)


def test_batches_depend_on_the_rule_and_on_the_seed() -> None:
    sample = UniformSamples(1000, 1000, seed=0)(0)
    order = ShuffledEpochs(1000, 1000, seed=0)(0)
    assert sample.tolist() != order.tolist()
    assert (
        UniformSamples(1000, 9, seed=0)(0).tolist() != UniformSamples(1000, 9, seed=1)(0).tolist()
    )


@given(seed=SEEDS, index=st.integers(0, 2**63))
def test_stream_restarts_at_every_request(seed: int, index: int) -> None:
    assert stream_numbers(seed, Purpose.SAMPLE, index) == stream_numbers(
        seed, Purpose.SAMPLE, index
    )


def test_batches_match_the_recorded_rows() -> None:
    # recorded once: a run that is resumed or repeated must draw the same rows
    assert UniformSamples(1000, 5, seed=0)(52).tolist() == [465, 695, 24, 49, 793]
    assert ShuffledEpochs(1000, 5, seed=0)(52).tolist() == [463, 336, 849, 34, 349]
    assert ShuffledEpochs(1000, 5, seed=0)(252).tolist() == [548, 722, 588, 841, 364]


def test_stream_matches_numpys_spawned_seed_sequence() -> None:
    [child] = np.random.SeedSequence(7, spawn_key=(int(Purpose.SHUFFLE),)).spawn(1)  # index 0
    expected = np.random.Generator(np.random.Philox(child)).integers(2**63, size=2)
    assert stream_numbers(7, Purpose.SHUFFLE, 0) == tuple(expected.tolist())
