"""The report of a reproduction: one valid HTML file that loads nothing and shows the records."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
import numpy as np
import pytest
from PIL import Image

from flows.reproduce import notes
from flows.reproduce.comparisons import Comparison, NotComparable
from flows.reproduce.flow import REPRODUCE
from flows.reproduce.measurements import Duplicates, Measurements
from flows.reproduce.page import PageContents, write_page
from flows.reproduce.results import pictures_of
from flows.runs.directory import RunDirectory
from flows.runs.record import RunRecord
from pipeline.reproduce.parameters import Reproduction
from tests.flows.handwritten_records import documents, experiments

PICTURES = (
    *("panels", "line", "trials", "tries", "errors", "differences", "steps", "descent"),
    *("curves", "passes", "path"),
)
"""The figures on the page that the experiments draw."""

DRAWN_FOR_THE_PAGE = ("three-points", "convergence", "weights", "examples", "confusion")
VOID_ELEMENTS = {"meta", "link", "img", "br", "hr", "input", "col", "wbr"}
URL_ATTRIBUTES = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background"}


# -- reading a page


@dataclass
class Page(HTMLParser):
    """A parsed page, with a list of its faults in `wrong`."""

    ids: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def of(cls, html: str) -> "Page":
        page = cls()
        page.feed(html)
        page.close()
        page.wrong += [f"<{tag}> is not closed" for tag in page._open]
        page.wrong += [
            f"id {name} is used twice" for name in set(page.ids) if page.ids.count(name) > 1
        ]
        page.wrong += [f"no element has the id {name}" for name in {*page.targets} - {*page.ids}]
        return page

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.classes += given.get("class", "").split()
        if tag in {"td", "th"}:
            self.words.append(" ")
        if tag not in VOID_ELEMENTS:
            self._open.append(tag)
        if tag in {"script", "iframe", "object", "embed", "base", "form"}:
            self.wrong.append(f"<{tag}>")
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "img":
            self.images.append(given)
            if not given.get("alt", "").strip():
                self.wrong.append("an image without alternative text")
        for name, value in given.items():
            self._check(tag, name, value)

    def _check(self, tag: str, name: str, value: str) -> None:
        if name.startswith("on") or "url(" in value or "javascript:" in value:
            self.wrong.append(f"<{tag} {name}={value}>")
        if name not in URL_ATTRIBUTES:
            return
        if value.startswith("#"):
            self.targets.append(value[1:])
        elif tag == "a" and name == "href":
            if value != notes.ADDRESS:
                self.wrong.append(f"a link to {value}")
        elif not value.startswith("data:"):
            self.wrong.append(f"<{tag} {name}={value}>")

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> does not match an open tag")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            if "url(" in data or "@import" in data:
                self.wrong.append("a style that loads a resource")
        else:
            self.words.append(data)


@pytest.mark.parametrize(
    "wrong",
    [
        "<script>1</script>",
        "<img src='data:,' alt=''>",
        "<img src='data:,'>",
        "<img src='picture.png' alt='a picture'>",
        "<img src='//example.org/x.png' alt='a picture'>",
        "<link rel='stylesheet' href='https://example.org/x.css'>",
        "<style>@import 'x.css';</style>",
        "<style>p { background: url(x.png); }</style>",
        "<p style='background: url(x.png)'></p>",
        "<p onclick='x()'></p>",
        "<a href='https://example.org'>elsewhere</a>",
        "<a href='#nowhere'>nowhere</a>",
        "<p id='here'></p><p id='here'></p>",
        "<p><b></p></b>",
        "<p>",
        "</p>",
    ],
)
def test_page_parser_finds_planted_faults(wrong: str) -> None:
    good = f"<h2 id='a'>A</h2><a href='#a'>up</a><a href='{notes.ADDRESS}'>notes</a><br>"
    good += "<img src='data:image/png;base64,AA==' alt='a picture'><style>p { margin: 0; }</style>"
    assert Page.of(good).wrong == []
    assert Page.of(good + wrong).wrong != []


# -- a handwritten page


def records() -> dict[str, dict[str, Any]]:
    """Return the values of the records that the page shows; no two numbers are equal."""
    sweep = [{"step_size": size, "loss": loss + 0.5} for size, loss in notes.SWEEP.items()]
    verdicts = {"pass": 30_101, "kink": 617, "roundoff": 8, "wrong": 4}
    return {
        "panels": {"line": {"breakpoints": 5}},
        "line": {"breakpoints": 98_765, "slope_at_ends": [-4.56, 7.89]},
        "random search": {
            "trials": 1_001,
            "best_loss": 8.123456,
            "best_trial": 432,
            "test_accuracy": 0.1432,
        },
        "local search": {
            "trials": 1_002,
            "accepted": 321,
            "initial_loss": 9.8765,
            "best_loss": 6.5432,
            "test_accuracy": 0.2109,
        },
        "numerical gradient": {
            "parameters": {"step": 2e-5},
            "coordinates": 17,
            "timings": {"black_box": 3.2765},
            "max_difference_to_structured": 2.2e-12,
        },
        "gradient check": {
            "coordinates": 30_730,
            "kink_crossings": 54_321,
            "verdicts": verdicts,
            "max_error_after_kinks": 4.4e-9,
            "timings": {"differences": 0.7},
        },
        "sweep": {
            "parameters": {"init": "uniform:2e-3"},
            "losses": sweep,
            "initial_loss": 2.718281,
            "best_step_size": 1e-6,
            "exact_minimum": {"step_size": 8.765e-7, "loss": 1.414213, "breakpoints": 222_333},
        },
        "gradient descent": {
            "steps": 203,
            "parameters": {"step_size": 3e-7},
            "loss": 4.6931,
            "test_accuracy": 0.3741,
        },
        "step sizes": {"parameters": {"steps": 505}, "best": {"step_size": 2e-7}},
        "regularised": {"parameters": {"reg": 2.5e4}, "steps": 3_004, "test_accuracy": 0.4012},
        "l-bfgs": {"test_accuracy": 0.4123, "passes": 77},
        "path": {"path": {"explained": [0.625, 0.25]}},
    }


def duplicates() -> dict[str, Any]:
    return {
        "unique": 1_000,
        "copies": 1_200,
        "rows": 1_200_000,
        "loss": 9.0,
        "same_bits": True,
        "seconds_unique": 0.01,
        "seconds_copied": 9.09,
        "seconds": 9.9,
    }


def reproduction() -> dict[str, Any]:
    """Return the record of the reproduction itself."""
    return {
        "run": "reproduce-by-hand",
        "command": "reproduce",
        "status": "running",
        "parameters": {"seed": 13},
        "data": {
            "url": "s.zarr",
            "name": "cifar10",
            "source": "CIFAR-10, binary version",
            "fingerprint": "f" * 64,
            "format_version": 1,
            "classes": ["cat", "dog"],
            "rows": {"train": 50_000, "test": 10_000},
            "shards": {"train": 10, "test": 2},
            "shard_rows": 5_000,
            "chunk_rows": 250,
        },
        "cluster": {"workers": 2, "threads": 3},
        "machine": {"cores": 4, "processor": "abacus", "system": "Linux"},
        "versions": {"python": "3.11.7", "numpy": "2.4.6"},
        "started": "2026-01-01T00:00:00+00:00",
    }


def comparison(name: str, *, agrees: bool) -> Comparison:
    return Comparison(name=name, ours="1.11", notes="2.22", agrees=agrees, how="equal")


@dataclass
class Given:
    """The contents of a page, which a test can change."""

    records: dict[str, Any] = field(default_factory=records)
    duplicates: dict[str, Any] = field(default_factory=duplicates)
    record: dict[str, Any] = field(default_factory=reproduction)
    command: str = "hinge reproduce --store s.zarr --seed 13"
    commands: dict[str, str] = field(default_factory=dict)
    rows: int = 50_000
    batch_size: int = 256
    batch_losses: tuple[float, ...] = (9.0,) * 750 + (4.0,) * 50
    """The mean of the last 50 reaches the final loss of full-batch descent after 800 batches."""
    seconds: float = 111.0
    resumed: bool = False
    comparisons: list[Comparison] = field(default_factory=lambda: [
        comparison("what agrees", agrees=True), comparison("what differs", agrees=False)
    ])  # fmt: skip

    def write(self, directory: Path) -> Page:
        """Write the page, and parse it."""
        write_page(directory / "index.html", self.contents(directory))
        return Page.of((directory / "index.html").read_text(encoding="utf-8"))

    def contents(self, directory: Path) -> PageContents:
        pictures = {}
        for number, name in enumerate([*PICTURES, *DRAWN_FOR_THE_PAGE]):
            pictures[name] = directory / f"{name}.png"
            Image.new("RGB", (1, 1), (number, 0, 0)).save(pictures[name])
        record = self.read_record()
        assert record.data is not None
        cannot = NotComparable(name="another loss", ours="3.33", notes="4.44", why="it is another")
        return PageContents(
            record=record,
            data=record.data,
            command=self.command,
            measured=self.measured(),
            comparisons=tuple(self.comparisons),
            not_comparable=(cannot,),
            pictures=pictures,
            seconds=self.seconds,
            resumed=self.resumed,
        )

    def read_record(self) -> RunRecord[Reproduction]:
        with TemporaryDirectory() as directory:
            Path(directory, "result.json").write_text(
                json.dumps({"record_version": 1} | self.record)
            )
            return REPRODUCE.read(RunDirectory(Path(directory)))

    def measured(self) -> Measurements:
        return Measurements(
            experiments=experiments(documents(self.records), commands=self.commands),
            duplicates=Duplicates(**self.duplicates),
            random_losses=np.array([8.0, 9.0]),
            descent_losses=np.linspace(9.0, 4.0, 201),
            batch_losses=np.array(self.batch_losses),
            rows=self.rows,
            batch_size=self.batch_size,
        )


def test_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    page = Given().write(tmp_path)
    assert page.wrong == []
    assert len(page.images) == len(PICTURES) + len(DRAWN_FOR_THE_PAGE)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert len({image["src"] for image in page.images}) == len(page.images)  # no duplicates
    assert {"html", "head", "title", "body", "main", "nav", "h1"} <= {*page.tags}
    assert len(page.targets) == len(page.ids) == page.tags.count("h2") > 10
    assert "Content-Security-Policy" in (tmp_path / "index.html").read_text()
    assert not list(tmp_path.glob("*.tmp"))


def test_page_shows_the_numbers_of_the_records(tmp_path: Path) -> None:
    text = Given().write(tmp_path).text
    for said in (
        *("50,000", "10,000", "98,765", "-4.56", "7.89", "1,001", "8.123456", "trial 432"),
        *("14.32%", "1,002", "321", "9.8765", "6.5432", "21.09%", "2e-05", "30,731", "17", "3.3 s"),
        *("99 minutes", "2.2e-12", "30,730", "30,101", "617", "54,321", "4.4e-09", "2.718281"),
        *("1.414213", "8.765e-07", "222,333", "203", "3e-07", "4.6931", "37.41%", "204,800"),
        *("10,000,000", "49 times fewer", "25000", "3,004", "40.12%", "87.5%", "1,200,000"),
        *("9.09 s", "are bit-identical", "77 passes", "41.23%", "111 s", "2, -1, 4", "abacus"),
        *("f" * 64, "numpy 2.4.6", "reproduce-by-hand", "run-of-l-bfgs", "12.3", "1 of 2"),
    ):
        assert said in text, said
    for size, loss in notes.SWEEP.items():
        assert f"{size:.0e} {loss + 0.5:.6f} {loss:.6f}" in text, size
    assert "what agrees 1.11 2.22 ✓ agrees equal" in text
    assert "what differs 1.11 2.22 ✗ differs equal" in text
    assert "another loss 3.33 4.44 it is another" in text


def test_page_reports_results_that_disagree(tmp_path: Path) -> None:
    given = Given()
    given.batch_losses = (9.0,) * 800
    given.duplicates["same_bits"] = False
    text = given.write(tmp_path).text
    assert "times fewer" not in text
    assert "did not reach the same loss" in text
    assert "are not bit-identical" in text


@pytest.mark.parametrize("real", [True, False])
def test_page_warns_if_the_images_are_not_those_of_the_notes(tmp_path: Path, real: bool) -> None:
    given = Given()
    given.record["data"]["name"] = "cifar10" if real else "synthetic"
    given.record["data"]["source"] = "synthetic images (seed 0)"
    page = given.write(tmp_path)
    assert page.wrong == []
    assert ("loud" in page.classes) is not real
    assert f"Optimisation on {'CIFAR-10' if real else 'synthetic images'}, " in page.text
    warning = "This run used synthetic images (seed 0), not the CIFAR-10 images of the notes."
    assert (warning in page.text) is not real


def test_page_warns_if_only_a_part_of_the_notes_images_is_used(tmp_path: Path) -> None:
    given = Given()
    given.record["data"]["rows"]["train"] = 600
    page = given.write(tmp_path)
    assert "used only 600 of the 50,000 CIFAR-10 training images of the notes." in page.text


def change_comparison(given: Given, which: int, **values: Any) -> None:
    given.comparisons[which] = replace(given.comparisons[which], **values)


HOSTILE = "<b>\"'&amp;</p><script>alert(1)</script><img src=x onerror=y>"


@pytest.mark.parametrize(
    "place",
    [
        lambda given: setattr(given, "command", f"hinge reproduce --store '{HOSTILE}'"),
        lambda given: given.record["data"].update(name=HOSTILE),
        lambda given: given.record["data"].update(source=HOSTILE),
        lambda given: given.record["machine"].update(system=HOSTILE),
        lambda given: given.record["versions"].update({HOSTILE: "1"}),
        lambda given: given.commands.update({"sweep": f"hinge sweep --store {HOSTILE}"}),
        lambda given: given.records["path"].update(run=HOSTILE),
        lambda given: change_comparison(given, 0, ours=HOSTILE),
        lambda given: change_comparison(given, 1, name=HOSTILE),
    ],
)
def test_page_escapes_html_in_values(tmp_path: Path, place: Callable[[Given], None]) -> None:
    given = Given()
    given.record["data"]["name"] = "synthetic"  # the page then shows more of the data set
    plain = given.write(tmp_path)
    place(given)
    page = given.write(tmp_path)
    assert page.wrong == []
    assert page.tags == plain.tags
    assert HOSTILE in page.text


def paths(value: Any, *way: str) -> list[tuple[str, ...]]:
    """Return the paths to all values in nested dictionaries."""
    if not isinstance(value, dict):
        return [way]
    return [each for name, inner in value.items() for each in paths(inner, *way, name)]


NOT_SHOWN = {
    *(("record", name) for name in ("command", "status")),
    *(("record", "data", name) for name in ("url", "format_version", "classes", "shards")),
    *(("record", "data", name) for name in ("shard_rows", "chunk_rows")),
    ("duplicates", "loss"),
}
WAYS = [
    way
    for way in paths({
        "records": records(),
        "duplicates": duplicates(),
        "record": reproduction(),
        **dict.fromkeys(("command", "rows", "batch_size", "seconds", "resumed")),
    })
    if way not in NOT_SHOWN and way[:3] not in NOT_SHOWN
]  # fmt: skip
"""The paths of the values that a page shows."""


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, list):
        return [other(each) for each in value]
    if isinstance(value, dict):
        return {name: each if name == "step_size" else other(each) for name, each in value.items()}
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "uniform:5e-4" if ":" in value else f"{value}-other"
    return value * 2


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids="/".join)
def test_page_changes_with_every_value_that_it_shows(tmp_path: Path, way: tuple[str, ...]) -> None:
    given = Given()
    before = given.write(tmp_path).text
    *within, last = way
    place: Any = vars(given)
    for name in within:
        place = place[name]
    place[last] = other(place[last])
    assert given.write(tmp_path).text != before


def test_failed_rendering_leaves_no_page(tmp_path: Path) -> None:
    given = Given()
    page = replace(given.contents(tmp_path), measured=None)  # type: ignore[arg-type]
    with pytest.raises(jinja2.UndefinedError):
        write_page(tmp_path / "index.html", page)
    assert not list(tmp_path.glob("index*"))


def test_experiments_draw_the_figures_that_the_page_embeds() -> None:
    assert tuple(pictures_of(experiments(documents({})))) == PICTURES


def test_missing_figure_raises_and_keeps_the_previous_page(tmp_path: Path) -> None:
    before = Given().write(tmp_path).text
    contents = Given().contents(tmp_path)
    contents.pictures["curves"].unlink()
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "index.html", contents)
    assert Page.of((tmp_path / "index.html").read_text(encoding="utf-8")).text == before


def test_same_records_produce_identical_pages(tmp_path: Path) -> None:
    given = Given()
    pages = []
    for each in (given, copy.deepcopy(given)):
        each.write(tmp_path)
        pages.append((tmp_path / "index.html").read_bytes())
    assert pages[0] == pages[1]
