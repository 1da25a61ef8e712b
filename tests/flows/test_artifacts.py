"""What Prefect's server has of a table and a picture, by its own client."""

import base64
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.runs import artifacts
from flows.runs.tables import Table, header_and_rows
from flows.services.prefect_server import prefect_server
from tests.flows.conftest import User


@pytest.fixture
def client(user: User) -> Iterator[Any]:
    with user.settings(), prefect_server(), get_client(sync_client=True) as client:
        yield client


def kept(client: Any, key: str) -> Any:
    """The one artifact of this key."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    [artifact] = client.read_artifacts(artifact_filter=wanted)
    return artifact


@flow
def showing(table: Table | None, picture: Path | None) -> None:
    if table is not None:
        artifacts.table("a Table: of the test", table, "what was tried")
    if picture is not None:
        artifacts.picture("a-picture-of-the-test", picture, "what it looks like")


def test_a_table_is_kept_as_plain_values_under_a_key_that_prefect_takes(client: Any) -> None:
    rows: Any = [
        {"trial": np.int64(0), "loss": np.float32(0.5), "good": np.bool_(True), "name": "a"},
        {"trial": 1, "loss": np.float64("inf"), "good": False, "name": None},
        {"trial": 2, "loss": math.nan, "good": False, "name": "b"},
    ]
    showing.with_options(validate_parameters=False)(rows, None)
    table = kept(client, "a-table-of-the-test")
    assert (table.type, table.description) == ("table", "what was tried")
    assert json.loads(table.data, parse_constant=pytest.fail) == [
        {"trial": 0, "loss": 0.5, "good": True, "name": "a"},
        {"trial": 1, "loss": "inf", "good": False, "name": None},
        {"trial": 2, "loss": "nan", "good": False, "name": "b"},
    ]


def test_a_picture_is_whole_in_the_text(client: Any, tmp_path: Path) -> None:
    content = bytes(range(256)) * 400  # as large as a figure
    (tmp_path / "a.png").write_bytes(content)
    showing.with_options(validate_parameters=False)(None, tmp_path / "a.png")
    picture = kept(client, "a-picture-of-the-test")
    assert (picture.type, picture.description) == ("markdown", "what it looks like")
    before, data = picture.data.split("data:image/png;base64,")
    assert before == "![what it looks like]("
    assert base64.b64decode(data.removesuffix(")"), validate=True) == content


@pytest.mark.parametrize(
    "table",
    [
        [{"a": 1, "b": 2}, {"a": 1}],
        [{"a": 1}, {"a": 1, "b": 2}],
        [{"a": 1}, {"b": 1}],
        {"a": [1, 2], "b": [1]},
    ],
)
def test_a_table_with_holes_is_refused(table: Any) -> None:
    with pytest.raises(ValueError, match=r"row 1|shorter"):
        header_and_rows(table)


def test_rows_and_columns_say_the_same() -> None:
    rows: Table = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    columns: Table = {"a": np.array([1, 2]), "b": ["x", "y"]}
    assert header_and_rows(rows) == header_and_rows(columns)
    assert header_and_rows([]) == ([], [])
    assert header_and_rows({"a": []}) == (["a"], [])
