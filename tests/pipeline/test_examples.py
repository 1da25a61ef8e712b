"""The choice of training images: how the text is parsed, and which rows it selects."""

import numpy as np
import pytest

from pipeline.inputs.errors import PipelineError
from pipeline.inputs.examples import Examples, sample_numbers
from pipeline.inputs.random_streams import Purpose


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "few", "ALL", "all ", "all:3", "None"),
        *("0", "-1", "+1", "1.5", "1e3", "1_000", "1,000", " 7", "²"),
        *("first", "first:", "first:0", "first:-2", "first:1.0", "first:all", "first:first:3"),
        *("sample:7", "last:7", ":7", "first :7", "7:first"),
        "1000000000",  # more digits than the size of any data set
    ],
)
def test_invalid_text_raises_pipeline_error(text: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Examples.parse(text)
    assert str(caught.value) == (
        "examples must be `all`, a number of images to sample, or `first:N`, with numbers of at "
        f"least 1, not {text!r}"
    )


@pytest.mark.parametrize(
    ("text", "kind", "number"),
    [
        ("all", "all", 0),
        ("1", "sample", 1),
        ("999999999", "sample", 999_999_999),
        ("first:1", "first", 1),
        ("first:050", "first", 50),
    ],
)
def test_valid_text_is_parsed(text: str, kind: str, number: int) -> None:
    assert Examples.parse(text) == Examples(kind, number)


def test_all_examples_give_no_row_numbers() -> None:
    assert Examples.parse("all").rows(600, seed=3) is None


@pytest.mark.parametrize("number", [1, 7, 600])
def test_first_n_are_the_first_rows_for_any_seed(number: int) -> None:
    for seed in (0, 1):
        rows = Examples.parse(f"first:{number}").rows(600, seed)
        np.testing.assert_array_equal(rows, np.arange(number))


@pytest.mark.parametrize("number", [1, 7, 599, 600])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_sample_is_the_sorted_numpy_draw(number: int, seed: int) -> None:
    rows = Examples.parse(str(number)).rows(600, seed)
    sequence = np.random.SeedSequence(seed, spawn_key=(6, 0))
    generator = np.random.Generator(np.random.Philox(sequence))
    expected = generator.choice(600, number, replace=False, shuffle=False)
    np.testing.assert_array_equal(rows, np.sort(expected))
    assert len(set(expected.tolist())) == number


def test_samples_differ_by_seed_and_purpose() -> None:
    drawn = [
        sample_numbers(seed, purpose, 600, 50).tolist()
        for seed in (0, 1)
        for purpose in (Purpose.EXAMPLES, Purpose.COORDINATES)
    ]
    assert len({str(rows) for rows in drawn}) == 4
    assert drawn[0] == sample_numbers(0, Purpose.EXAMPLES, 600, 50).tolist()


@pytest.mark.parametrize("text", ["601", "first:601", "first:999999999"])
def test_more_examples_than_rows_raise_pipeline_error(text: str) -> None:
    number = int(text.removeprefix("first:"))
    with pytest.raises(PipelineError) as caught:
        Examples.parse(text).rows(600, 0)
    assert str(caught.value) == f"cannot take {number:,} of 600 examples; take at most 600"
