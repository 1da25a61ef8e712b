"""The page of a reproduction: one file that loads nothing, whole, and true to what it was given."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import pytest
from PIL import Image

from flows import notes
from flows.report import Report, write_report
from flows.reproduce_results import PICTURES

DRAWN_FOR_THE_PAGE = ("three-points", "convergence", "weights", "examples", "confusion")
WITHOUT_AN_END = {"meta", "link", "img", "br", "hr", "input", "col", "wbr"}
LEADS_SOMEWHERE = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background"}


# -- reading a page


@dataclass
class Page(HTMLParser):
    """A page as a browser takes it apart, and what is wrong with it."""

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
        page.wrong += [f"<{tag}> has no end" for tag in page._open]
        page.wrong += [f"id {name} twice" for name in set(page.ids) if page.ids.count(name) > 1]
        page.wrong += [f"nothing is called #{name}" for name in {*page.targets} - {*page.ids}]
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
        if tag not in WITHOUT_AN_END:
            self._open.append(tag)
        if tag in {"script", "iframe", "object", "embed", "base", "form"}:
            self.wrong.append(f"<{tag}>")
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "img":
            self.images.append(given)
            if not given.get("alt", "").strip():
                self.wrong.append("a picture without words")
        for name, value in given.items():
            self._check(tag, name, value)

    def _check(self, tag: str, name: str, value: str) -> None:
        if name.startswith("on") or "url(" in value or "javascript:" in value:
            self.wrong.append(f"<{tag} {name}={value}>")
        if name not in LEADS_SOMEWHERE:
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
            self.wrong.append(f"</{tag}> ends what has not begun")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            if "url(" in data or "@import" in data:
                self.wrong.append("a style that loads")
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
def test_what_is_wrong_with_a_page_is_found(wrong: str) -> None:
    good = f"<h2 id='a'>A</h2><a href='#a'>up</a><a href='{notes.ADDRESS}'>notes</a><br>"
    good += "<img src='data:image/png;base64,AA==' alt='a picture'><style>p { margin: 0; }</style>"
    assert Page.of(good).wrong == []
    assert Page.of(good + wrong).wrong != []


# -- a page by hand


@dataclass(frozen=True)
class Part:
    """An experiment that nobody took."""

    record: dict[str, Any]
    command: str = "hinge something --store s.zarr"
    seconds: float = 12.34


def records() -> dict[str, dict[str, Any]]:
    """What the page needs of the records; no two numbers are equal."""
    sweep = [{"step_size": size, "loss": loss + 0.5} for size, loss in notes.SWEEP.items()]
    verdicts = {"pass": 30_101, "kink": 617, "roundoff": 8, "wrong": 4}
    return {
        "panels": {},
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
            "timings": {"black_box": 3.3},
            "max_difference_to_structured": 2.2e-12,
        },
        "gradient check": {
            "coordinates": 30_730,
            "kink_crossings": 54_321,
            "verdicts": verdicts,
            "max_error_after_kinks": 4.4e-9,
            "timings": {"differences": 0.7},
        },
        "differences": {},
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
        "mini-batches": {},
        "regularised": {"parameters": {"reg": 2.5e4}, "steps": 3_004, "test_accuracy": 0.4012},
        "l-bfgs": {"test_accuracy": 0.4123, "passes": 77},
        "path": {"path": {"explained": [0.625, 0.25]}},
    }


def comparison(name: str, *, agrees: bool) -> dict[str, Any]:
    return {"name": name, "ours": "1.11", "notes": "2.22", "agrees": agrees, "how": "equal"}


def words() -> dict[str, Any]:
    return {
        "name": "CIFAR-10",
        "real": True,
        "part_of": False,
        "all_images": 50_000,
        "resumed": False,
        "run": "reproduce-by-hand",
        "seed": 13,
        "command": "hinge reproduce --store s.zarr --seed 13",
        "three_points": ["2", "-1", "4"],
        "one": {"breakpoints": 5},
        "copies": {
            "unique": 1_000,
            "copies": 1_200,
            "rows": 1_200_000,
            "same_bits": True,
            "seconds_unique": 0.01,
            "seconds_copied": 9.09,
            "seconds": 9.9,
        },
        "batch_size": 256,
        "full_images": 10_000_000,
        "few_images": 204_800,
        "box_minutes": 98.7,
        "seconds": 111.0,
        "data": {
            "source": "CIFAR-10, binary version",
            "rows": {"train": 50_000, "test": 10_000},
            "fingerprint": "f" * 64,
        },
        "cluster": {"workers": 2, "threads": 2},
        "machine": {"cores": 2, "processor": "abacus", "system": "Linux"},
        "versions": {"python": "3.11.7", "numpy": "2.4.6"},
        "started": "2026-01-01T00:00:00+00:00",
    }


@dataclass
class Given:
    """What a page is made of, to be spoiled."""

    records: dict[str, Any] = field(default_factory=records)
    words: dict[str, Any] = field(default_factory=words)
    commands: dict[str, str] = field(default_factory=dict)
    comparisons: list[dict[str, Any]] = field(default_factory=lambda: [
        comparison("what agrees", agrees=True), comparison("what differs", agrees=False)
    ])  # fmt: skip

    def write(self, directory: Path) -> Page:
        """Write the page, and read it."""
        write_report(directory / "index.html", self.report(directory))
        return Page.of((directory / "index.html").read_text(encoding="utf-8"))

    def report(self, directory: Path) -> Report:
        pictures = {}
        for number, name in enumerate([*PICTURES, *DRAWN_FOR_THE_PAGE]):
            pictures[name] = directory / f"{name}.png"
            Image.new("RGB", (1, 1), (number, 0, 0)).save(pictures[name])
        taken = {
            name: Part({"run": f"run-of-{name}"} | record, self.commands.get(name, "hinge part"))
            for name, record in self.records.items()
        }
        cannot = {"name": "another loss", "ours": "3.33", "notes": "4.44", "why": "it is another"}
        return Report(taken, pictures, self.comparisons, [cannot], self.words)


def test_a_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    page = Given().write(tmp_path)
    assert page.wrong == []
    assert len(page.images) == len(PICTURES) + len(DRAWN_FOR_THE_PAGE)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert len({image["src"] for image in page.images}) == len(page.images)  # none is shown twice
    assert {"html", "head", "title", "body", "main", "nav", "h1"} <= {*page.tags}
    assert len(page.targets) == len(page.ids) == page.tags.count("h2") > 10
    assert "Content-Security-Policy" in (tmp_path / "index.html").read_text()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_page_says_the_numbers_of_the_records(tmp_path: Path) -> None:
    text = Given().write(tmp_path).text
    for said in (
        *("50,000", "10,000", "98,765", "-4.56", "7.89", "1,001", "8.123456", "attempt 432"),
        *("14.32%", "1,002", "321", "9.8765", "6.5432", "21.09%", "2e-05", "30,731", "17", "3.3 s"),
        *("99 minutes", "2.2e-12", "30,730", "30,101", "617", "54,321", "4.4e-09", "2.718281"),
        *("1.414213", "8.765e-07", "222,333", "203", "3e-07", "4.6931", "37.41%", "204,800"),
        *("10,000,000", "49 times fewer", "25000", "3,004", "40.12%", "87.5%", "1,200,000"),
        *("9.09 s", "to the last bit", "77 passes", "41.23%", "111 s", "2, -1, 4", "abacus"),
        *("f" * 64, "numpy 2.4.6", "reproduce-by-hand", "run-of-l-bfgs", "12.3", "1 of 2"),
    ):
        assert said in text, said
    for size, loss in notes.SWEEP.items():
        assert f"{size:.0e} {loss + 0.5:.6f} {loss:.6f}" in text, size
    assert "what agrees 1.11 2.22 ✓ agrees equal" in text
    assert "what differs 1.11 2.22 ✗ differs equal" in text
    assert "another loss 3.33 4.44 it is another" in text


def test_a_page_says_what_did_not_come_out(tmp_path: Path) -> None:
    given = Given()
    given.words["few_images"] = 0
    given.words["copies"]["same_bits"] = False
    text = given.write(tmp_path).text
    assert "times fewer" not in text
    assert "did not come as low" in text
    assert "not the same bits" in text


@pytest.mark.parametrize("real", [True, False])
def test_images_that_are_not_the_notes_are_loudly_said_to_be(tmp_path: Path, real: bool) -> None:
    given = Given()
    given.words |= {"real": real, "name": "CIFAR-10" if real else "synthetic"}
    given.words["data"]["source"] = "synthetic images (seed 0)"
    page = given.write(tmp_path)
    assert page.wrong == []
    assert ("loud" in page.classes) is not real
    warning = "These are not the CIFAR-10 images of the notes, but synthetic images (seed 0)"
    assert (warning in page.text) is not real


def test_a_part_of_the_notes_images_is_said_to_be_one(tmp_path: Path) -> None:
    given = Given()
    given.words |= {"real": False, "part_of": True}
    given.words["data"]["rows"]["train"] = 600
    page = given.write(tmp_path)
    assert "not the CIFAR-10 images of the notes, but 600 of their 50,000" in page.text


HOSTILE = "<b>\"'&amp;</p><script>alert(1)</script><img src=x onerror=y>"


@pytest.mark.parametrize(
    "place",
    [
        lambda given: given.words.update(command=f"hinge reproduce --store '{HOSTILE}'"),
        lambda given: given.words.update(name=HOSTILE),
        lambda given: given.words["data"].update(source=HOSTILE),
        lambda given: given.words["machine"].update(system=HOSTILE),
        lambda given: given.words["versions"].update({HOSTILE: "1"}),
        lambda given: given.commands.update({"sweep": f"hinge sweep --store {HOSTILE}"}),
        lambda given: given.records["path"].update(run=HOSTILE),
        lambda given: given.comparisons[0].update(ours=HOSTILE),
        lambda given: given.comparisons[1].update(name=HOSTILE),
    ],
)
def test_what_looks_like_html_is_shown_as_it_is(
    tmp_path: Path, place: Callable[[Given], None]
) -> None:
    given = Given()
    plain = given.write(tmp_path)
    place(given)
    page = given.write(tmp_path)
    assert page.wrong == []
    assert page.tags == plain.tags
    assert HOSTILE in page.text


def paths(value: Any, *way: str) -> list[tuple[str, ...]]:
    """The ways to all values in dictionaries within each other; of versions any may be there."""
    if not isinstance(value, dict) or way == ("words", "versions"):
        return [way]
    return [each for name, inner in value.items() for each in paths(inner, *way, name)]


WAYS = paths({"records": records(), "words": words()})
ONLY_OF_OTHER_IMAGES = {("words", "part_of"), ("words", "all_images")}
NONE_IS_BEST = ("records", "step sizes", "best", "step_size")


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [way for way in WAYS if way not in {*ONLY_OF_OTHER_IMAGES, NONE_IS_BEST}], ids="/".join
)
def test_a_number_that_is_missing_is_an_error_and_leaves_no_page(
    tmp_path: Path, way: tuple[str, ...]
) -> None:
    given = Given()
    place: Any = vars(given)
    for name in way[:-1]:
        place = place[name]
    del place[way[-1]]
    with pytest.raises((jinja2.UndefinedError, KeyError, TypeError)):
        given.write(tmp_path)
    assert not list(tmp_path.glob("index*"))


def test_a_picture_that_is_missing_is_an_error_and_leaves_what_there_was(tmp_path: Path) -> None:
    before = Given().write(tmp_path).text
    report = Given().report(tmp_path)
    report.pictures["curves"].unlink()
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "index.html", report)
    assert Page.of((tmp_path / "index.html").read_text(encoding="utf-8")).text == before


def test_the_same_records_make_the_same_page(tmp_path: Path) -> None:
    given = Given()
    pages = []
    for each in (given, copy.deepcopy(given)):
        each.write(tmp_path)
        pages.append((tmp_path / "index.html").read_bytes())
    assert pages[0] == pages[1]
