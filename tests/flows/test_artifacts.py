"""Artifacts of tables and pictures, read back from the Prefect server with Prefect's client."""

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


def stored_artifact(client: Any, key: str) -> Any:
    """Return the only artifact with this key."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    [artifact] = client.read_artifacts(artifact_filter=wanted)
    return artifact


@flow
def create_artifacts(table: Table | None, picture: Path | None) -> None:
    if table is not None:
        artifacts.table("a Table: of the test", table, "what was tried")
    if picture is not None:
        artifacts.picture("a-picture-of-the-test", picture, "what it looks like")


def test_table_artifact_has_plain_values_and_a_valid_key(client: Any) -> None:
    rows: Any = [
        {"trial": np.int64(0), "loss": np.float32(0.5), "good": np.bool_(True), "name": "a"},
        {"trial": 1, "loss": np.float64("inf"), "good": False, "name": None},
        {"trial": 2, "loss": math.nan, "good": False, "name": "b"},
    ]
    create_artifacts.with_options(validate_parameters=False)(rows, None)
    table = stored_artifact(client, "a-table-of-the-test")
    assert (table.type, table.description) == ("table", "what was tried")
    assert json.loads(table.data, parse_constant=pytest.fail) == [
        {"trial": 0, "loss": 0.5, "good": True, "name": "a"},
        {"trial": 1, "loss": "inf", "good": False, "name": None},
        {"trial": 2, "loss": "nan", "good": False, "name": "b"},
    ]


def test_picture_artifact_contains_the_whole_png(client: Any, tmp_path: Path) -> None:
    content = bytes(range(256)) * 400  # as large as a figure
    (tmp_path / "a.png").write_bytes(content)
    create_artifacts.with_options(validate_parameters=False)(None, tmp_path / "a.png")
    picture = stored_artifact(client, "a-picture-of-the-test")
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
    ids=["missing in a row", "extra in a row", "other name in a row", "short column"],
)
def test_tables_with_missing_values_raise_value_error(table: Any) -> None:
    with pytest.raises(ValueError, match=r"row 1|shorter"):
        header_and_rows(table)


def test_rows_and_columns_give_the_same_table() -> None:
    rows: Table = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    columns: Table = {"a": np.array([1, 2]), "b": ["x", "y"]}
    assert header_and_rows(rows) == header_and_rows(columns)
    assert header_and_rows([]) == ([], [])
    assert header_and_rows({"a": []}) == (["a"], [])
