"""`hinge show`: its numbers match the formulas, and its pictures show them."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.runs.directory import RunDirectory
from flows.runs.environment import package_versions, this_machine, timestamp
from flows.runs.header import read_header
from flows.runs.record import RecordHeader, to_document
from flows.show.figures import draw_confusion, draw_examples, draw_weights
from flows.show.predictions import predict_split
from flows.show.results import open_dataset_of
from flows.style import GREEN, GREY, ORANGE
from storage.dataset import Dataset, open_dataset
from storage.schema import CLASSES, Split
from tests.flows.conftest import Command, User
from tests.flows.test_command import loss_in_numpy, read
from tests.flows.test_refusals import edit, left, refused
from tests.flows.test_sweep_figures import words

Floats = NDArray[np.float64]
PICTURES = {"weights.png", "examples.png", "confusion.png"}
CAT = CLASSES.index("cat")


@pytest.fixture
def dataset(store: Path) -> Dataset:
    return open_dataset(str(store))


@pytest.fixture
def save_run(dataset: Dataset, tmp_path: Path) -> Callable[[Floats], Path]:
    """Return a function that saves weights as those of a run on the small store."""

    def save(W: Floats) -> Path:
        run = RunDirectory(tmp_path / "runs" / "train-kept")
        run.path.mkdir(parents=True)
        header = RecordHeader(
            run=run.id,
            command="train",
            status="done",
            data=dataset.summary(),
            started=timestamp(),
            versions=package_versions(),
            machine=this_machine(),
        )
        run.write_document(to_document(header))
        run.write_weights(W)
        return run.path

    return save


def always_a_cat() -> Floats:
    """Return weights that are 0 except the bias of the class cat."""
    W = np.zeros((10, 3073))
    W[CAT, -1] = 1.0
    return W


# -- numbers


def confusion_by_counting(labels: list[int], predictions: list[int]) -> list[list[int]]:
    counts = [[0] * 10 for _ in range(10)]
    for label, prediction in zip(labels, predictions, strict=True):
        counts[label][prediction] += 1
    return counts


def check_numbers(result: dict[str, Any], W: Floats, X: Floats, y: NDArray[np.uint8]) -> None:
    """Compare all losses with the formulas in NumPy, and all counts with plain loops."""
    scores = X @ W.T
    labels, predictions = y.tolist(), scores.argmax(axis=1).tolist()
    assert len(set(predictions)) > 3  # so that some predictions are wrong
    assert result["confusion"] == confusion_by_counting(labels, predictions)
    right = [j for j, k in zip(labels, predictions, strict=True) if j == k]
    assert result["accuracy"] == len(right) / len(labels)
    assert result["loss"] == pytest.approx(loss_in_numpy(W, X, y), rel=1e-12)
    for j in range(10):
        assert result["recall"][j] == right.count(j) / labels.count(j)
        predicted = predictions.count(j)
        assert result["precision"][j] == (right.count(j) / predicted if predicted else None)
    for row, example in enumerate(result["examples"]):
        margins = scores[row] - scores[row, labels[row]] + 1
        assert example["row"] == row
        assert example["class"] == result["classes"][labels[row]]
        assert example["predicted"] == result["classes"][predictions[row]]
        assert example["loss"] == pytest.approx(
            loss_in_numpy(W, X[row : row + 1], y[row : row + 1])
        )
        np.testing.assert_allclose(example["scores"], scores[row], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(example["margins"], margins, rtol=1e-9, atol=1e-9)


def check_shown(hinge: Command, dataset: Dataset, run: Path) -> None:
    """Compare the results for both splits; the rest of the run must not change."""
    W, record, before = np.load(run / "weights.npy"), (run / "result.json").read_bytes(), left(run)
    splits: tuple[tuple[Split, int], ...] = (("test", 8), ("train", 16))
    for split, examples in splits:
        finished = hinge("show", run.name, "--json", "--split", split, "--examples", examples)
        assert (finished.status, finished.err) == (0, "")
        result = finished.result
        assert (result["run"], result["split"]) == (run.name, split)
        assert result["data"] == json.loads(record)["data"]
        assert result["classes"] == list(CLASSES)
        assert len(result["examples"]) == examples
        check_numbers(result, W, *read(dataset, split))
    assert {Path(picture) for picture in result["pictures"]} == {run / name for name in PICTURES}
    assert left(run) == before | PICTURES
    assert (run / "result.json").read_bytes() == record


def test_numbers_match_the_formulas(
    hinge: Command, dataset: Dataset, save_run: Callable[[Floats], Path]
) -> None:
    check_shown(hinge, dataset, save_run(1e-3 * np.random.default_rng(2).normal(size=(10, 3073))))


@pytest.mark.slow
def test_numbers_of_a_trained_run_match_the_formulas(
    user: User, hinge: Command, store: Path, dataset: Dataset, tmp_path: Path
) -> None:
    training = ("train", "--store", store, "--steps", 3, "--init", "normal:1e-3")
    assert hinge(*training, "--scheduler", user.scheduler).status == 0
    [run] = (tmp_path / "runs").iterdir()
    check_shown(hinge, dataset, run)


@pytest.mark.slow
def test_report_of_weights_that_always_predict_cat_is_exact(
    hinge: Command, dataset: Dataset, save_run: Callable[[Floats], Path]
) -> None:
    """The wrong-class margins are 0 for a cat, and otherwise 2 for cat and 1 for 8 classes."""
    run = save_run(always_a_cat())
    counts = np.bincount(dataset.labels("test"), minlength=10)
    share = counts[CAT] / counts.sum()
    finished = hinge("show", run)
    assert (finished.status, finished.err) == (0, "")
    lines = [line.split() for line in finished.out.splitlines()]
    assert lines[0][:4] == ["class", "images", "recall", "precision"]
    dog = ["dog", str(counts[5]), "0.00%", "none", "cat", f"({counts[5]})"]
    assert lines[1 + CLASSES.index("dog")] == dog
    assert lines[1 + CAT] == ["cat", str(counts[CAT]), "100.00%", f"{share:.2%}", "none"]
    summary = {line[0]: " ".join(line[1:]) for line in lines[11:]}
    assert summary["run"] == run.name
    assert summary["loss"].startswith(f"{10 * (1 - share):.4f} ")
    assert summary["accuracy"] == f"{share:.2%} of the {counts.sum()} test images"
    assert {word.rstrip(",") for word in summary["files"].split()} >= PICTURES


@pytest.mark.slow
def test_weights_with_infinite_loss_are_shown(
    hinge: Command, save_run: Callable[[Floats], Path]
) -> None:
    run = save_run(1e308 * np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (10, 3073)))
    finished = hinge("show", run, "--json")
    assert (finished.status, finished.err) == (0, "")
    assert finished.result["loss"] is None
    assert left(run) >= PICTURES


# -- pictures


def drawn_images(figure: Figure) -> list[NDArray[Any]]:
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.get_images()]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_weights_are_drawn_around_mid_grey_with_one_scale_per_class(
    tmp_path: Path, figures: list[Figure]
) -> None:
    W = np.zeros((10, 3073))
    W[0, 5 * 32 + 7] = 4e-5  # red, row 5, column 7
    W[6, [1024, 2048 + 31 * 32 + 31]] = [-3.0, 1.5]  # green at the first pixel, blue at the last
    W[6, -1] = -0.25
    draw_weights(tmp_path / "w.png", W, CLASSES, title="a run")
    [whole] = drawn_images(figures[0])
    assert whole.dtype == np.uint8
    grey = whole[(whole == 128).all(axis=-1)]
    assert len(grey) == 10 * 32 * 32 - 3
    assert np.sum((whole != 255).any(axis=-1)) == 10 * 32 * 32  # everything else is white
    coloured = [
        tuple(each) for each in whole[~((whole == 128) | (whole == 255)).all(axis=-1)].tolist()
    ]
    assert set(coloured) == {(128, 0, 128), (128, 128, 191)}
    [[red_row, red_column]] = np.argwhere((whole == (255, 128, 128)).all(axis=-1))
    [[row, column]] = np.argwhere((whole == (128, 0, 128)).all(axis=-1))
    [[last_row, last_column]] = np.argwhere((whole == (128, 128, 191)).all(axis=-1))
    assert (last_row - row, last_column - column) == (31, 31)
    assert row > red_row - 5 + 32  # frog is in the second row, one column to the right of airplane
    assert column > red_column - 7 + 32
    assert texts(figures[0])[::2] == list(CLASSES)
    assert texts(figures[0])[13] == "bias -0.25\nlargest weight 3"
    assert texts(figures[0])[1] == "bias +0\nlargest weight 4e-05"
    assert any("mid-grey" in text.get_text() for text in figures[0].texts)


def test_examples_are_drawn_with_their_margins_and_captions(
    dataset: Dataset, tmp_path: Path, figures: list[Figure]
) -> None:
    W = np.random.default_rng(1).normal(size=(10, 3073)) * 1e-3
    predictions = predict_split(dataset, W, "test", 3)
    draw_examples(tmp_path / "e.png", predictions.examples, CLASSES, title="a run")
    [figure] = figures
    images, labels = dataset.read("test", 0, 3)
    stored = [np.moveaxis(image.reshape(3, 32, 32), 0, -1) for image in images]
    drawn = drawn_images(figure)
    for image, number in zip(drawn, (0, 2, 1), strict=True):  # two columns, the left one first
        np.testing.assert_array_equal(image, stored[number])
    first = [axes.collections[0] for axes in figure.axes if axes.collections]
    bars = [each for each in first if isinstance(each, LineCollection)]  # one per column
    segments = np.concatenate([each.get_segments() for each in bars])
    colours = np.concatenate([each.get_color() for each in bars])
    X, _ = read(dataset, "test")
    scores = X[[0, 2, 1]] @ W.T
    labels = labels[[0, 2, 1]]
    margins = scores - scores[range(3), labels][:, None] + 1
    np.testing.assert_array_equal(segments[:, 0, 0], 0)
    np.testing.assert_allclose(segments[:, 1, 0].reshape(3, 10), margins, atol=1e-9)
    wanted = np.where(margins > 0, ORANGE, GREY)
    wanted[range(3), labels] = GREEN
    assert [to_hex(colour) for colour in colours] == wanted.ravel().tolist()
    captions = [text for text in texts(figure) if text.startswith("row ")]
    assert [text for text in texts(figure) if text not in captions] == [*CLASSES] * 3
    for caption, label, row in zip(captions, labels, scores, strict=True):
        true, predicted = CLASSES[label], CLASSES[row.argmax()]
        assert f": {true}\n" in caption
        assert (
            "predicted correctly," if true == predicted else f"predicted {predicted},"
        ) in caption
    assert len(words(figure)) == 4


def contrast(one: Any, other: Any) -> float:
    """Return the contrast ratio of two colours, as the W3C's accessibility guidelines define it."""

    def luminance(colour: Any) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear)) + 0.05

    low, high = sorted([luminance(one), luminance(other)])
    return high / low


@pytest.mark.parametrize("largest", [pytest.param(1, marks=pytest.mark.slow), 5000])
def test_confusion_matrix_shows_readable_counts_recall_and_accuracy(
    tmp_path: Path, figures: list[Figure], largest: int
) -> None:
    counts = np.linspace(0, largest, 100).astype(np.int64).reshape(10, 10)
    counts[CAT] = 0  # no image is a cat
    draw_confusion(tmp_path / "c.png", counts, CLASSES, title="a run")
    axes, _ = figures[0].axes
    [picture] = axes.get_images()
    colours = picture.to_rgba(np.asarray(picture.get_array()))
    for (row, column), text in zip(np.ndindex(10, 10), axes.texts, strict=True):
        assert text.get_position() == (column, row)
        assert text.get_text() == f"{counts[row, column]:,}"
        assert contrast(to_rgb(text.get_color()), colours[row, column]) > 4
    [right] = axes.child_axes
    recall_labels = [label.get_text() for label in right.get_yticklabels()]
    assert recall_labels[CAT] == "none"
    for row in {*range(10)} - {CAT}:
        whole = sum(counts[row].tolist())
        assert recall_labels[row] == (f"{counts[row, row] / whole:.1%}" if whole else "none")
    accuracy = sum(counts[j, j] for j in range(10)) / max(counts.sum(), 1)
    assert axes.get_title() == f"a run: accuracy {accuracy:.2%}"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


# -- refusals


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["show"], ["RUN", "hinge show --help"]),
        (["show", "train-1970"], ["no run 'train-1970'"]),
        (["show", "train-kept", "--examples", "0"], ["--examples", "1<=x<=16"]),
        (["show", "train-kept", "--examples", "17"], ["--examples", "1<=x<=16"]),
        (["show", "train-kept", "--split", "all"], ["--split", "test", "train"]),
        (["show", "train-kept", "--store", "nothing.zarr"], ["nothing.zarr"]),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_refused(
    hinge: Command, save_run: Callable[[Floats], Path], given: list[str], words: list[str]
) -> None:
    run = save_run(always_a_cat())
    refused(hinge(*given), *words)
    assert left(run) == {"result.json", "weights.npy"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record["data"].update(fingerprint="0" * 64), ["000000", "--store"]),
        (lambda record: record["data"].update(url="/gone.zarr"), ["/gone.zarr", "--store"]),
        (lambda record: record["data"].pop("fingerprint"), ["train-kept", "data.fingerprint: "]),
        (lambda record: record["data"].update(url=3), ["train-kept", "data.url 3: "]),
        (lambda record: record.pop("machine"), ["train-kept", "cannot be read", "machine: "]),
        (lambda record: record.update(data=None), ["train-kept", "cannot be read"]),
    ],
    ids=[
        "other data",
        "missing store",
        "no fingerprint",
        "URL not a string",
        "no machine",
        "no data",
    ],
)
def test_run_with_unusable_record_or_missing_data_is_refused(
    hinge: Command,
    save_run: Callable[[Floats], Path],
    change: Callable[[dict[str, Any]], object],
    words: list[str],
) -> None:
    run = save_run(always_a_cat())
    edit(run, change)
    refused(hinge("show", run.name), *words)
    assert left(run) == {"result.json", "weights.npy"}


def test_moved_store_is_opened_at_the_given_url(
    dataset: Dataset, save_run: Callable[[Floats], Path]
) -> None:
    run = save_run(always_a_cat())
    edit(run, lambda record: record["data"].update(url="/gone.zarr"))
    assert open_dataset_of(RunDirectory(run), dataset.url) == dataset


def test_run_of_the_first_version_is_shown(
    hinge: Command, dataset: Dataset, save_run: Callable[[Floats], Path]
) -> None:
    """Its record has no version, an old command name, and additional fields."""
    run = save_run(always_a_cat())
    record = {
        "run": run.name,
        "command": "sweep --train",
        "status": "done",
        "parameters": {"method": "minibatch", "step_sizes": [1e-09, 1e-07], "steps": 30},
        "seed": 0,
        "data": asdict(dataset.summary()),
        "cluster": {"workers": 2, "threads": 2},
        "started": "2026-11-26T18:37:30+00:00",
        "versions": {"python": "3.11.7", "hinge": "0.1.0", "numpy": "2.4.6"},
        "machine": {"system": "Linux-6.18", "processor": "x86_64", "cores": 2},
        "best": 1,
        "timings": {"loading": 1.25, "trials": 20.5, "seconds": 25.0},
        "finished": "2026-11-26T18:37:55+00:00",
    }
    (run / "result.json").write_text(json.dumps(record))
    assert read_header(RunDirectory(run)).command == "grid"
    finished = hinge("show", run.name, "--json")
    assert (finished.status, finished.err) == (0, "")
    counts = np.bincount(dataset.labels("test"), minlength=10)
    assert finished.result["accuracy"] == counts[CAT] / counts.sum()


SHOW = """
import sys
from flows.cli import run_command
status = run_command(["show", sys.argv[1], "--json"])
late = {"prefect", "distributed"} & sys.modules.keys()
sys.exit(f"imported: {late}" if late else status)
"""


def test_show_does_not_import_prefect_or_dask(
    user: User, save_run: Callable[[Floats], Path], tmp_path: Path
) -> None:
    """Importing them takes longer than everything else that the command does."""
    command = [sys.executable, "-c", SHOW, str(save_run(always_a_cat()))]
    shown = subprocess.run(
        command, cwd=tmp_path, env=user.environment(), capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize(
    "W", [np.zeros((3, 3073)), np.zeros((10, 3072)), np.full((10, 3073), math.nan)]
)
def test_weights_of_wrong_shape_or_with_nan_are_refused(
    hinge: Command, save_run: Callable[[Floats], Path], W: Floats
) -> None:
    run = save_run(W)
    refused(hinge("show", run.name), "weights.npy", "(10, 3073)")
    assert left(run) == {"result.json", "weights.npy"}


def test_run_without_weights_is_refused(hinge: Command, save_run: Callable[[Floats], Path]) -> None:
    run = save_run(always_a_cat())
    (run / "weights.npy").unlink()
    refused(hinge("show", run.name), "train-kept", "no weights")
    assert left(run) == {"result.json"}
