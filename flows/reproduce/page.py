"""The report of a reproduction: one HTML file that contains its figures and loads nothing."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from flows.landscape.three_points import MEAN, POINTS
from flows.reproduce import notes
from flows.reproduce.comparisons import Comparison, NotComparable
from flows.reproduce.measurements import Measurements
from flows.runs.record import RunRecord
from pipeline.journals.atomic_file import replace_file
from pipeline.reproduce.parameters import Reproduction
from storage.dataset import DatasetSummary


@dataclass(frozen=True, eq=False, kw_only=True)
class PageContents:
    """The contents of the report."""

    record: RunRecord[Reproduction]
    """The record of the reproduction, as of its start."""
    data: DatasetSummary
    command: str
    """The command that repeats the reproduction."""
    measured: Measurements
    comparisons: tuple[Comparison, ...]
    not_comparable: tuple[NotComparable, ...]
    pictures: Mapping[str, Path]
    """The figures (PNG), keyed by their names in the template."""
    seconds: float
    """The duration of the reproduction."""
    resumed: bool

    @property
    def images(self) -> str:
        """The name that the report uses for the images of the data set."""
        return "CIFAR-10" if self.data.name == notes.DATA_SET else f"{self.data.name} images"

    @property
    def all_notes_images(self) -> bool:
        """Whether the data set contains all training images of the notes."""
        return notes.are_the_notes_images(self.data)

    @property
    def some_notes_images(self) -> bool:
        """Whether the data set contains only a part of the notes' training images."""
        return self.data.name == notes.DATA_SET and not self.all_notes_images

    @property
    def three_points(self) -> list[str]:
        """The points of the three-point data set in the notes."""
        return [f"{x:g}" for x in (POINTS[:, 0] - MEAN).tolist()]

    def picture_address(self, name: str) -> str:
        """Return the figure as a data URI."""
        data = base64.b64encode(self.pictures[name].read_bytes()).decode()
        return f"data:image/png;base64,{data}"


def write_page(path: Path, page: PageContents) -> None:
    """Write the report to `path` atomically.

    The text is in `templates/report.html.j2`. All measured numbers in it are taken from `page`.

    Raises FileNotFoundError if a figure is missing. An existing report is then left unchanged.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flows.reproduce"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    css, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    template = environment.get_template("report.html.j2")
    html = template.render(page=page, notes=notes, css=Markup(css))
    with replace_file(path) as file:
        file.write(html.encode())
