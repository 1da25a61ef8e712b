"""Records of an earlier version are read as typed records without losing a field."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.landscape.flow import LANDSCAPE
from flows.landscape.panels_flow import PANELS
from flows.landscape.results import LineResult, PathSummary, PlaneResult
from flows.landscape.three_points_results import ThreePointsRecord
from flows.runs.directory import RunDirectory
from flows.runs.old_records import upgrade
from flows.runs.record import FinishedRecord, RecordHeader, read_as, to_document
from flows.services.console import to_json
from pipeline.inputs.errors import PipelineError

# Output of that version for the real images, without some kinks and one panel.

HEADER: dict[str, Any] = {
    "data": {
        "url": "cifar10.zarr",
        "name": "cifar10",
        "source": "CIFAR-10, binary version",
        "fingerprint": "4e553a0ce32eebf263dcc689c7ddffcf6ac3642318a9729eb20c3baea9422b9f",
        "format_version": 1,
        "classes": [
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ],
        "rows": {"train": 50000, "test": 10000},
        "shards": {"train": 10, "test": 2},
        "shard_rows": 5000,
        "chunk_rows": 250,
    },
    "cluster": {"workers": 2, "threads": 2},
    "versions": {
        "python": "3.11.7",
        "hinge": "0.1.0",
        "numpy": "2.4.6",
        "numba": "0.68.1",
        "dask": "2026.8.0",
        "distributed": "2026.8.0",
        "zarr": "3.1.6",
        "prefect": "3.8.8",
    },
    "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
}

LINE: dict[str, Any] = {
    "run": "landscape-20261126-190649-0b2d0dde",
    "command": "landscape",
    "status": "done",
    "parameters": {
        "dims": 1,
        "examples": "first:1",
        "around": "normal:1e-3",
        "directions": "random",
        "extent": None,
        "points": 7,
        "path": None,
        "reg": 0.0,
        "seed": 0,
    },
    "seed": 0,
    "started": "2026-11-26T19:06:49+00:00",
    "examples": 1,
    "axes": [
        {
            "label": "at random (1 is as long as the weights)",
            "low": -1.0,
            "high": 1.0,
            "length": 0.1740954769780479,
        }
    ],
    "points": 7,
    "minimum": 6.112985990904518,
    "minimum_at": [-1.0],
    "maximum": 37.300143139344414,
    "values": "landscape.npz",
    "seconds": 1.033335160000206,
    "weights_sha256": "7ba0d8f08ced615a10527a0afc9a92ba77806225cb040f70dd88fe92bc7917e8",
    "breakpoints": 6,
    "kinks": [
        {
            "a": -0.8175246316071189,
            "hinge_loss": 6.733802804947857,
            "slope_after": 5.656348050242971,
        },
        {
            "a": -0.1940829089558077,
            "hinge_loss": 10.26020617730672,
            "slope_after": 10.212419073334381,
        },
    ],
    "slope_at_ends": [3.4021951538504682, 25.41274603588713],
    "slopes_rise": True,
    "max_difference": 1.875266394386787e-16,
    "exact_minimum": {"a": -1.0, "hinge_loss": 6.112985990904518},
    "timings": {
        "passes": 0.8925176110001303,
        "points": 0.14081754900007581,
        "seconds": 10.152193334000003,
    },
    "finished": "2026-11-26T19:06:59+00:00",
}

PLANE: dict[str, Any] = {
    "run": "landscape-20261126-182504-3b10423a",
    "command": "landscape",
    "status": "done",
    "parameters": {
        "dims": 2,
        "examples": "all",
        "around": "normal:1e-3",
        "directions": "random",
        "extent": None,
        "points": 51,
        "path": None,
        "reg": 0.0,
        "seed": 0,
    },
    "seed": 0,
    "started": "2026-11-26T18:25:04+00:00",
    "examples": 50000,
    "axes": [
        {
            "label": "at random (1 is as long as the weights)",
            "low": -1.0,
            "high": 1.0,
            "length": 0.1740954769780479,
        },
        {
            "label": "at random (1 is as long as the weights)",
            "low": -1.0,
            "high": 1.0,
            "length": 0.17409547697804792,
        },
    ],
    "points": 2601,
    "minimum": 21.360470290837675,
    "minimum_at": [0.04, 0.12],
    "maximum": 35.249933901821066,
    "values": "landscape.npz",
    "seconds": 8.359285581999984,
    "weights_sha256": "7ba0d8f08ced615a10527a0afc9a92ba77806225cb040f70dd88fe92bc7917e8",
    "middle": 21.445739397918285,
    "timings": {
        "passes": 7.885093046999941,
        "points": 0.4741925350000429,
        "seconds": 14.76481670499993,
    },
    "finished": "2026-11-26T18:25:18+00:00",
}

PATH: dict[str, Any] = {
    "run": "landscape-20261126-190916-4d7c9731",
    "command": "landscape",
    "status": "done",
    "parameters": {
        "dims": 2,
        "examples": "all",
        "around": "normal:1e-3",
        "directions": "random",
        "extent": None,
        "points": 21,
        "path": "train-20261126-181844-1fcd576d",
        "reg": 0.0,
        "seed": 0,
    },
    "seed": 0,
    "started": "2026-11-26T19:09:16+00:00",
    "examples": 50000,
    "axes": [
        {
            "label": "the path's first direction: distance in weights",
            "low": -0.00561394089011311,
            "high": 0.0007322531595799709,
            "length": 1.0,
        },
        {
            "label": "its second (another scale): distance in weights",
            "low": -0.0017776223007947775,
            "high": 0.0006700694442697511,
            "length": 0.9999999999999998,
        },
    ],
    "points": 441,
    "minimum": 4.619026159028696,
    "minimum_at": [0.0007322531595799709, -0.00030900725375606047],
    "maximum": 8.896213974742286,
    "values": "landscape.npz",
    "seconds": 1.844425520999721,
    "weights_sha256": "086c007ba583aefb0e3237f6c2807f2fa810323b10f5f56922e3cd6128129216",
    "middle": 4.693049064093796,
    "path": {
        "run": "train-20261126-181844-1fcd576d",
        "looks": 51,
        "explained": [0.9669030602000668, 0.029177105982456084],
        "reg": 0.0,
    },
    "timings": {
        "passes": 1.4514658349999081,
        "points": 0.3929596859998128,
        "seconds": 108.51418032799984,
    },
    "finished": "2026-11-26T19:11:05+00:00",
}

PANELS_RECORD: dict[str, Any] = {
    "run": "landscape-panels-20261126-183616-413711cf",
    "command": "landscape --panels",
    "status": "done",
    "parameters": {"around": "normal:1e-3", "extent": None, "points": 21, "reg": 0.0, "seed": 0},
    "seed": 0,
    "started": "2026-11-26T18:36:16+00:00",
    "line": {
        "examples": 1,
        "axes": [
            {
                "label": "at random (1 is as long as the weights)",
                "low": -1.0,
                "high": 1.0,
                "length": 0.1740954769780479,
            }
        ],
        "points": 21,
        "minimum": 0.0,
        "minimum_at": [-1.0],
        "maximum": 26.660502944803408,
        "values": "landscape.npz",
        "seconds": 1.1363632479999524,
        "weights_sha256": "7ba0d8f08ced615a10527a0afc9a92ba77806225cb040f70dd88fe92bc7917e8",
        "breakpoints": 6,
        "kinks": [
            {"a": -0.6789442407637075, "hinge_loss": 0.0, "slope_after": 3.5016944783515527},
            {
                "a": -0.3342974455605256,
                "hinge_loss": 1.2068477797445405,
                "slope_after": 8.49518099730502,
            },
        ],
        "slope_at_ends": [0.0, 28.990606481191175],
        "slopes_rise": True,
        "max_difference": 1.9842045392596587e-16,
        "exact_minimum": {"a": -1.0, "hinge_loss": 0.0},
    },
    "planes": {
        "one example": {
            "examples": 1,
            "axes": [
                {
                    "label": "at random (1 is as long as the weights)",
                    "low": -1.0,
                    "high": 1.0,
                    "length": 0.1740954769780479,
                },
                {
                    "label": "at random (1 is as long as the weights)",
                    "low": -1.0,
                    "high": 1.0,
                    "length": 0.17409547697804792,
                },
            ],
            "points": 441,
            "minimum": 0.0,
            "minimum_at": [-1.0, -0.6],
            "maximum": 35.850593374851265,
            "values": "landscape.npz",
            "seconds": 0.18767563000005794,
            "weights_sha256": "7ba0d8f08ced615a10527a0afc9a92ba77806225cb040f70dd88fe92bc7917e8",
            "middle": 5.080812091082107,
        },
        "all examples": {
            "examples": 50000,
            "axes": [
                {
                    "label": "at random (1 is as long as the weights)",
                    "low": -1.0,
                    "high": 1.0,
                    "length": 0.1740954769780479,
                },
                {
                    "label": "at random (1 is as long as the weights)",
                    "low": -1.0,
                    "high": 1.0,
                    "length": 0.17409547697804792,
                },
            ],
            "points": 441,
            "minimum": 21.361684344159983,
            "minimum_at": [0.0, 0.1],
            "maximum": 35.249933901821066,
            "values": "landscape.npz",
            "seconds": 1.1496066469999278,
            "weights_sha256": "7ba0d8f08ced615a10527a0afc9a92ba77806225cb040f70dd88fe92bc7917e8",
            "middle": 21.445739397918285,
        },
    },
    "values": "panels.npz",
    "weights_sha256": "7ba0d8f08ced615a10527a0afc9a92ba77806225cb040f70dd88fe92bc7917e8",
    "seconds": 2.6152357879998362,
    "timings": {"seconds": 11.8986678629999},
    "finished": "2026-11-26T18:36:28+00:00",
}

THREE_POINTS: dict[str, Any] = {
    "run": "landscape-three-points-20261126-183658-7db9ebf5",
    "command": "landscape --three-points",
    "status": "done",
    "points": [2.0, -1.0, 4.0],
    "classes": [0, 1, 2],
    "weights": [0.0, 0.5, -0.25],
    "losses": {
        "L0": {
            "kinks": [
                {"w0": 0.25, "loss": 1.5, "slope_after": -2.0},
                {"w0": 1.0, "loss": 0.0, "slope_after": 0.0},
            ],
            "minimum": 0.0,
            "minimum_at": 1.0,
        },
        "mean": {
            "kinks": [{"w0": -0.5, "loss": 4.083333333333334, "slope_after": -0.3333333333333333}],
            "minimum": 3.8333333333333335,
            "minimum_at": 0.25,
        },
    },
    "started": "2026-11-26T18:36:48+00:00",
    "finished": "2026-11-26T18:36:58+00:00",
}


def write_run(tmp_path: Path, document: dict[str, Any]) -> RunDirectory:
    directory = RunDirectory(tmp_path / document["run"])
    directory.path.mkdir()
    directory.write_document(document)
    return directory


def as_document(record: RecordHeader) -> Any:
    """Return the record as a JSON document, without its version number and the newer summary."""
    document = json.loads(to_json(to_document(record)))
    assert document.pop("record_version") == 0
    assert bool(document.pop("summary", "")) == isinstance(record, FinishedRecord)
    return document


def read_record(tmp_path: Path, document: dict[str, Any]) -> FinishedRecord[Any, Any]:
    kind = PANELS if "--panels" in document["command"] else LANDSCAPE
    record = kind.read(write_run(tmp_path, document))
    assert isinstance(record, FinishedRecord)
    assert as_document(record) == document | {"command": kind.command}
    return record


def test_line_record_is_read_completely(tmp_path: Path) -> None:
    result = read_record(tmp_path, HEADER | LINE).result
    assert type(result) is LineResult
    assert result.minimum_at == (-1.0,)
    assert result.kinks[1].slope_after == 10.212419073334381
    assert result.exact_minimum.hinge_loss == result.minimum == 6.112985990904518


def test_plane_record_is_read_completely(tmp_path: Path) -> None:
    record = read_record(tmp_path, HEADER | PLANE)
    result = record.result
    assert type(result) is PlaneResult
    assert (result.minimum, result.minimum_at) == (21.360470290837675, (0.04, 0.12))
    assert (result.middle, result.path) == (21.445739397918285, None)
    assert record.seconds == 14.76481670499993


def test_path_record_is_read_completely(tmp_path: Path) -> None:
    result = read_record(tmp_path, HEADER | PATH).result
    assert type(result) is PlaneResult
    assert result.path == PathSummary(
        run="train-20261126-181844-1fcd576d",
        looks=51,
        explained=(0.9669030602000668, 0.029177105982456084),
        reg=0.0,
    )


def test_panels_record_is_read_completely(tmp_path: Path) -> None:
    result = read_record(tmp_path, HEADER | PANELS_RECORD).result
    assert type(result.line) is LineResult
    assert (result.line.breakpoints, len(result.line.kinks)) == (6, 2)
    assert list(result.planes) == ["one example", "all examples"]
    assert result.planes["all examples"].minimum == 21.361684344159983


def test_three_points_record_is_read_completely(tmp_path: Path) -> None:
    document = {"versions": HEADER["versions"], "machine": HEADER["machine"], **THREE_POINTS}
    directory = write_run(tmp_path, document)
    record = read_as(ThreePointsRecord, upgrade(directory.read_document()), directory, "")
    assert as_document(record) == document | {"command": "three-points"}
    assert record.points == (2.0, -1.0, 4.0)
    assert record.losses["L0"].kinks[0].slope_after == -2.0
    assert record.losses["mean"].minimum == 3.8333333333333335


@pytest.mark.parametrize("missing", ["middle", "minimum_at", "timings", "axes"])
def test_record_with_a_missing_field_raises_pipeline_error(tmp_path: Path, missing: str) -> None:
    document = HEADER | PLANE
    del document[missing]
    with pytest.raises(PipelineError, match=f"{document['run']} cannot be read: .*{missing}"):
        LANDSCAPE.read(write_run(tmp_path, document))
