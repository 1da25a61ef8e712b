"""The command `hinge`. What a command needs is imported when it runs, so that help is quick."""

import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from flows.errors import INPUT_ERRORS

F = TypeVar("F", bound=Callable[..., Any])

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

_WHERE_A_RUN_MAY_DIFFER = {
    "store",
    "resume",
    "workers",
    "scheduler",
    "checkpoint_every",
    "runs",
    "as_json",
}


def main() -> None:
    """Run the command that was typed, and exit: 0 done, 1 the run failed, 2 bad usage or input."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not have all letters
    status = run_command(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def run_command(arguments: Sequence[str]) -> int:
    """Run `hinge` with these arguments and return its exit status."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect asks as it is imported
    try:
        status: int = hinge.main(
            list(arguments) or ["--help"], prog_name="hinge", standalone_mode=False
        )
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        more = f" (`{context.command_path if context else 'hinge'} --help` says more)"
        return _complain(error.format_message() + more)
    except INPUT_ERRORS as error:
        return _complain(str(error))
    except OSError as error:  # a full disk, or a reader of standard output who has seen enough
        return (
            EXIT_DONE if isinstance(error, BrokenPipeError) else _complain(str(error), EXIT_FAILED)
        )
    except (click.Abort, KeyboardInterrupt) as error:
        what_next = str(error.__cause__ or error)
        print("hinge: interrupted" + (what_next and f"; {what_next}"), file=sys.stderr)
        return EXIT_INTERRUPTED
    return status


def _complain(message: str, status: int = EXIT_USAGE) -> int:
    print(f"hinge: {' '.join(message.split())}", file=sys.stderr)
    return status


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hinge")
def hinge() -> None:
    """Optimise a multiclass SVM on CIFAR-10 with Dask, Zarr and Prefect."""


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Join some options to one decorator; they are listed in this order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_store = click.option(
    "--store", required=True, metavar="URL", help="The Zarr store: a path or a URL."
)
_output = _options(
    click.option(
        "--runs",
        type=click.Path(path_type=Path, file_okay=False),
        default="runs",
        show_default=True,
        callback=lambda _context, _option, runs: runs.expanduser(),
        help="Where runs are kept.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object."),
)
_cluster = _options(
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Worker processes of a cluster on this machine.  [default: one a core]",
    ),
    click.option("--scheduler", metavar="ADDRESS", help="Use the Dask cluster of this scheduler."),
)


@hinge.command()
@click.argument("source")
@_store
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the first N images of each split.",
)
@click.option(
    "--shard-rows",
    type=click.IntRange(min=1),
    metavar="N",
    default=5000,
    show_default=True,
    help="Images in a shard, the work of one task.",
)
@_cluster
@_output
def ingest(source: str, store: str, runs: Path, as_json: bool, **options: Any) -> int:
    """Ingest CIFAR-10 into a Zarr store.

    SOURCE is a directory or .tar.gz of the binary or python version of CIFAR-10; `download`
    for the data set's own page; or `synthetic`, `synthetic:N` for N made images.
    """
    from flows.console import Console
    from flows.ingest import check_ingest, ingest_flow
    from flows.record import check_runs
    from flows.session import command_session

    check_runs(runs)
    check_ingest(source, store, options["limit"])
    console = Console(json=as_json)
    cluster = {name: options[name] for name in ("workers", "scheduler")}
    _check_cluster(**cluster)
    with command_session(console, **cluster):
        result = ingest_flow(source, store, runs=str(runs), **options)
    data = result["data"]
    console.result(
        result,
        {
            "store": f"{data['url']}: {result['status']}",
            "data": _data(data),
            "shards": "{written} written, {reused} already there".format(**result["shards"]),
            "took": f"{result['timings']['seconds']:.1f} s",
            "record": str(runs / result["run"] / "result.json"),
        },
    )
    return EXIT_DONE


@hinge.command()
@_store
@_output
def info(store: str, runs: Path, as_json: bool) -> int:  # noqa: ARG001
    """Say what a store holds."""
    import numpy as np

    from flows.console import Console
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
            "data": _data(described),
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


@hinge.command()
@_store
@click.option(
    "--method",
    type=click.Choice(["gd", "minibatch"]),
    default="gd",
    show_default=True,
    help="Step along the gradient over all images, or over a batch of them.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps; batches are uniform samples.  [default: 200 for gd, 3000 for minibatch]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Instead of steps: times over all images, in shuffled batches.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    default=256,
    show_default=True,
    help="Images in a mini-batch.",
)
@click.option(
    "--step-size",
    type=float,
    metavar="SIZE",
    default=1e-7,
    show_default=True,
    help="What the gradient is multiplied by; it does not change.",
)
@click.option(
    "--reg",
    type=float,
    metavar="R",
    default=0.0,
    show_default=True,
    help="R in the loss's R ||W||^2 (without the bias).",
)
@click.option(
    "--init",
    metavar="zeros|normal:SCALE",
    default="zeros",
    show_default=True,
    help="The weights to start from: zeros, or normals of this standard deviation.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Decides the weights of `normal` and the rows of every batch.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="PART",
    default=0.0,
    show_default=True,
    help="Stop when the mean loss changes by at most this part of it (of 10 steps against the "
    "10 before; of 500 for mini-batches).",
)
@click.option(
    "--placement",
    type=click.Choice(["auto", "all-workers", "one-worker"]),
    default="auto",
    show_default=True,
    help="Who takes the steps; it changes no bit of the result.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="What scores are computed in; sums are exact and weights float64 in any case.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    metavar="N",
    help="Steps between checkpoints, 0 for none.  [default: 100 for gd, 1000 for minibatch]",
)
@click.option("--resume", metavar="RUN", help="Go on with a run that was interrupted.")
@_cluster
@_output
@click.pass_context
def train(  # noqa: PLR0917
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    checkpoint_every: int | None,
    workers: int | None,
    scheduler: str | None,
    **options: Any,
) -> int:
    """Train the SVM on a store's images and test it."""
    from flows.console import Console
    from flows.record import check_runs
    from flows.session import command_session
    from flows.train import TrainingPlan, train_flow
    from pipeline.training import Method, Placement, TrainingParameters

    _check_cluster(workers, scheduler)
    if resume is None:
        if options["steps"] is None and options["epochs"] is None:
            options["steps"] = {"gd": 200, "minibatch": 3000}[options["method"]]
        options |= {
            "method": Method(options["method"]),
            "placement": Placement(options["placement"]),
        }
        plan = TrainingPlan.new(store, TrainingParameters(**options))
        check_runs(runs)
    else:
        _refuse_changes(context)
        plan = TrainingPlan.resumed(store, runs, resume)
    console = Console(json=as_json)
    result = plan.finished
    if result is None:
        with command_session(console, workers=workers, scheduler=scheduler):
            result = train_flow(store, plan.parameters, resume, str(runs), checkpoint_every)
    directory = plan.run.path if plan.run else runs / result["run"]
    console.result(result, _training_summary(result, directory))
    return EXIT_FAILED if result["status"] == "diverged" else EXIT_DONE


def _check_cluster(workers: int | None, scheduler: str | None) -> None:
    if workers and scheduler:
        raise click.UsageError(
            "--workers starts a cluster here and --scheduler uses another; give one of them"
        )


def _refuse_changes(context: click.Context) -> None:
    """Refuse options that would make a resumed run another run."""
    for name, source in ((name, context.get_parameter_source(name)) for name in context.params):
        if source is ParameterSource.COMMANDLINE and name not in _WHERE_A_RUN_MAY_DIFFER:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"a resumed run keeps its parameters; leave {option} out, or start a new run"
            )


def _data(data: dict[str, Any]) -> str:
    rows = data["rows"]
    return f"{data['source']}, {rows['train']:,} + {rows['test']:,} images"


def _training_summary(result: dict[str, Any], directory: Path) -> dict[str, str]:
    loss = result["loss"]  # None as it is read from a record
    return {
        "run": result["run"],
        "data": _data(result["data"]),
        "status": f"{result['status']} after {result['steps']:,} steps, "
        f"{result['steps_per_second']:,.1f} a second ({result['cluster']['placement']})",
        "loss": "no finite number" if loss in (None, math.inf) else f"{loss:.4f}",
        "accuracy": f"{result['test_accuracy']:.2%} of the test images, "
        f"{result['train_accuracy']:.2%} of the training images",
        "weights": f"{directory / 'weights.npy'}, SHA-256 {result['weights_sha256'][:16]}…",
        "look at": f"{directory / 'loss.png'}, {directory / 'result.json'}",
    }
