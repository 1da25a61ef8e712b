"""The page of a reproduction: one file of HTML with its pictures in it, which loads nothing."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jinja2
from markupsafe import Markup

from flows import notes
from flows.record import replacing


class Section(Protocol):
    """An experiment that has been taken."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What its run's record says."""
        ...

    @property
    def seconds(self) -> float:
        """How long it took."""
        ...

    @property
    def command(self) -> str:
        """What a user would type for it."""
        ...


@dataclass(frozen=True, eq=False)
class Report:
    """What a page is made of."""

    taken: Mapping[str, Section]
    """The experiments by name."""
    pictures: Mapping[str, Path]
    """The figures (PNG) by the names that the template has for them."""
    comparisons: list[dict[str, Any]]
    not_comparable: list[dict[str, Any]]
    words: Mapping[str, Any]
    """All else that the template names."""


def write_report(path: Path, report: Report) -> None:
    """Write the page to `path`, whole or not at all.

    The words are the template's, `templates/report.html.j2`; every number is of a record.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flows"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    css, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    html = environment.get_template("report.html.j2").render(
        taken=report.taken,
        comparisons=report.comparisons,
        not_comparable=report.not_comparable,
        notes=notes,
        css=Markup(css),
        uri=lambda name: _uri(report.pictures[name]),
        **{alias: report.taken[name].record for alias, name in _ALIASES.items()},
        **report.words,
    )
    with replacing(path) as written:
        written.write_text(html, encoding="utf-8")


_ALIASES = {
    "line": "line",
    "random": "random search",
    "local": "local search",
    "box": "numerical gradient",
    "check": "gradient check",
    "sweep": "sweep",
    "gd": "gradient descent",
    "sizes": "step sizes",
    "regularised": "regularised",
    "lbfgs": "l-bfgs",
    "path": "path",
}
"""What the template calls the records of the experiments."""


def _uri(picture: Path) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
