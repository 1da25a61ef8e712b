"""`prefect.yaml`: the deployments for a work pool, which `prefect deploy --all` creates.

    python -m flows.deployments.prefect_yaml > prefect.yaml

writes it. A test checks that the file is that of the catalogue.
"""

import sys
from typing import Any

import yaml  # type: ignore[import-untyped]

from flows.deployments.catalogue import CATALOGUE, RUNS_AT_ONCE, CatalogueEntry

WORK_POOL = "hinge"

_HEADER = """\
# The deployments of hinge for a work pool (docs/guide/prefect.md says how to use them).
# Written by `python -m flows.deployments.prefect_yaml > prefect.yaml`.

"""

_PARAMETERS = {
    "runs": "{{ $PWD }}/runs",
    "store": "{{ $HINGE_STORE }}",
    "source": "{{ $HINGE_SOURCE }}",
}
"""Default parameters, from the environment of `prefect deploy`. Prefect omits what is not set."""


def prefect_yaml() -> str:
    """Return the content of the file."""
    content = {"name": "hinge", "deployments": [_deployment(entry) for entry in CATALOGUE]}
    text: str = yaml.safe_dump(content, sort_keys=False, width=100)
    return _HEADER + text


def _deployment(entry: CatalogueEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "entrypoint": entry.import_path,
        "tags": entry.all_tags,
        "parameters": dict(_PARAMETERS),
        "concurrency_limit": {"limit": RUNS_AT_ONCE, "collision_strategy": "ENQUEUE"},
        "enforce_parameter_schema": True,
        "work_pool": {"name": WORK_POOL},
    }


if __name__ == "__main__":
    sys.stdout.write(prefect_yaml())
