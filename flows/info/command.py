"""The command `hinge info`, which describes a store."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.command_line.exit_status import EXIT_DONE
from flows.command_line.options import output_options, store_option

if TYPE_CHECKING:
    from flows.info.results import StoreReport


@click.command()
@store_option
@output_options
def info(store: str, runs: Path, as_json: bool) -> int:  # noqa: ARG001
    """Describe the contents of a store."""
    from flows.info.results import describe_store
    from flows.runs.record import plain
    from flows.services.console import Console
    from storage.dataset import open_dataset

    report = describe_store(open_dataset(store))
    Console(json=as_json).result(plain(report), _summary(report))
    return EXIT_DONE


def _summary(report: "StoreReport") -> dict[str, str]:
    shards, counts = report.shards, report.class_counts
    by_class = zip(report.classes, counts["train"], counts["test"], strict=True)
    return {
        "store": report.url,
        "data": report.in_words(),
        "fingerprint": report.fingerprint,
        "shards": f"{shards['train']} + {shards['test']} of up to {report.shard_rows} images, "
        f"in chunks of {report.chunk_rows}",
        **{name: f"{train} + {test}" for name, train, test in by_class},
    }
