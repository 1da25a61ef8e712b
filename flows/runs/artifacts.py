"""Prefect artifacts of a run: tables, links, and pictures that need no network."""

import base64
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from flows.runs.tables import Table, header_and_rows


def table(key: str, rows: Table, description: str) -> None:
    """Create a table artifact under `key`; inf and nan, which JSON lacks, are shown as text."""
    names, values = header_and_rows(rows)
    shown = [dict(zip(names, map(_shown, row), strict=True)) for row in values]
    create_table_artifact(table=shown, key=key_of(key), description=description)


def summary(key: str, values: Mapping[str, Any], description: str) -> None:
    """Create a table artifact of named values under `key`, one per row."""
    table(key, {"result": list(values), "value": list(values.values())}, description)


def picture(key: str, png_path: Path, description: str) -> None:
    """Create an artifact of the picture (PNG) under `key`, as a data URI in markdown."""
    data = base64.b64encode(png_path.read_bytes()).decode()
    markdown = f"![{description}](data:image/png;base64,{data})"
    create_markdown_artifact(markdown=markdown, key=key_of(key), description=description)


def links(key: str, targets: Mapping[str, str], description: str) -> None:
    """Create an artifact of links under `key`, one per line.

    The path of a file is shown as text, because a browser follows no link to a file from a page.
    """
    lines = [
        f"- [{name}]({target})" if target.startswith("http") else f"- {name}: `{target}`"
        for name, target in targets.items()
    ]
    create_markdown_artifact("\n".join(lines), key=key_of(key), description=description)


def link(key: str, url: str, text: str, description: str) -> None:
    """Create an artifact of one link under `key`."""
    create_link_artifact(url, link_text=text, key=key_of(key), description=description)


def key_of(name: str) -> str:
    """Return the name as an artifact key: lower-case letters, digits and dashes.

    Examples:
        >>> key_of("search random: best trials")
        'search-random-best-trials'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
