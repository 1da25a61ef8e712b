"""The page of a reproduction: one HTML file that holds its pictures and loads nothing."""

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
    """What a page is made of."""

    record: RunRecord[Reproduction]
    """Of the reproduction, as it started."""
    data: DatasetSummary
    command: str
    """What a user types to make the same reproduction."""
    measured: Measurements
    comparisons: tuple[Comparison, ...]
    not_comparable: tuple[NotComparable, ...]
    pictures: Mapping[str, Path]
    """The figures (PNG) by the names that the template has for them."""
    seconds: float
    """How long the reproduction took."""
    resumed: bool

    @property
    def images(self) -> str:
        """What the page calls the images."""
        return "CIFAR-10" if self.data.name == notes.DATA_SET else f"{self.data.name} images"

    @property
    def all_notes_images(self) -> bool:
        """Whether these are all of the notes' images."""
        return notes.are_the_notes_images(self.data)

    @property
    def some_notes_images(self) -> bool:
        """Whether these are only a part of the notes' images."""
        return self.data.name == notes.DATA_SET and not self.all_notes_images

    @property
    def three_points(self) -> list[str]:
        """The points of the notes' smallest data set."""
        return [f"{x:g}" for x in (POINTS[:, 0] - MEAN).tolist()]

    def picture_address(self, name: str) -> str:
        """Return an address that holds the whole picture."""
        data = base64.b64encode(self.pictures[name].read_bytes()).decode()
        return f"data:image/png;base64,{data}"


def write_page(path: Path, page: PageContents) -> None:
    """Write the page to `path`, whole or not at all.

    Its text is in `templates/report.html.j2`; every number in it comes from a record.
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
