"""What a run shows in Prefect's pages, which may have no network: tables, and pictures whole."""

import base64
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.runs.tables import Table, header_and_rows


def table(key: str, rows: Table, description: str) -> None:
    """Show a table under `key`; a number that JSON has not (inf, nan) is shown in letters."""
    names, values = header_and_rows(rows)
    shown = [dict(zip(names, map(_shown, row), strict=True)) for row in values]
    create_table_artifact(table=shown, key=_key(key), description=description)


def summary(key: str, values: Mapping[str, Any], description: str) -> None:
    """Show named values under `key`, one per row."""
    table(key, {"result": list(values), "value": list(values.values())}, description)


def picture(key: str, png_path: Path, description: str) -> None:
    """Show the picture (PNG) under `key`, its bytes in the page's own text."""
    data = base64.b64encode(png_path.read_bytes()).decode()
    markdown = f"![{description}](data:image/png;base64,{data})"
    create_markdown_artifact(markdown=markdown, key=_key(key), description=description)


def _key(name: str) -> str:
    """Return the name in the letters that Prefect takes.

    >>> _key("search random: best trials")
    'search-random-best-trials'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
