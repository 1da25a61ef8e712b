"""`hinge info`: what a store holds."""

from pathlib import Path
from typing import Any

import click

from flows.commands.options import output_options, store_option
from flows.errors import EXIT_DONE


@click.command()
@store_option
@output_options
def info(store: str, runs: Path, as_json: bool) -> int:  # noqa: ARG001
    """Say what a store holds."""
    import numpy as np

    from flows.console import Console, described_data
    from storage.dataset import open_dataset
    from storage.schema import SPLITS

    dataset = open_dataset(store)
    described: dict[str, Any] = dataset.describe()
    counts = {
        split: np.bincount(dataset.labels(split), minlength=len(dataset.classes)).tolist()
        for split in SPLITS
    }
    described["class_counts"] = counts
    Console(json=as_json).result(
        described,
        {
            "store": described["url"],
            "data": described_data(described),
            "fingerprint": described["fingerprint"],
            "shards": "{train} + {test} of up to {size} images, in chunks of {chunk}".format(
                **described["shards"],
                size=described["shard_rows"],
                chunk=described["chunk_rows"],
            ),
            **{
                name: f"{train} + {test}"
                for name, train, test in zip(dataset.classes, *counts.values(), strict=True)
            },
        },
    )
    return EXIT_DONE
