"""`hinge check`: a gradient beside finite differences, coordinate by coordinate."""

from pathlib import Path
from typing import Any

import click

from flows.commands.options import (
    cluster_options,
    output_options,
    refuse_changes,
    reg_option,
    resume_option,
    seed_option,
    store_option,
    take_cluster,
    typed,
)
from flows.commands.running import Where, result_of
from flows.errors import EXIT_DONE, EXIT_FAILED

_NOT_OF_STEPS = ("gradient", "method", "scheme", "step", "coordinates", "plan")


class _Count(click.ParamType[Any]):
    """A whole number of at least 1, or `all`."""

    name = "count"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Return it."""
        return value if value == "all" else click.IntRange(min=1).convert(value, parameter, context)


@click.command()
@store_option
@click.option(
    "--at",
    metavar="zeros|normal:SCALE|uniform:SCALE|RUN",
    default="normal:1e-3",
    show_default=True,
    help="The weights to check at: drawn, or those that a run came to.",
)
@click.option(
    "--gradient",
    type=click.Choice(["full", "minibatch", "data"]),
    default="full",
    show_default=True,
    help="That of the loss over all examples, or over a mini-batch; or each example's own in its "
    "pixels.",
)
@click.option(
    "--method",
    type=click.Choice(["structured", "black-box"]),
    default="structured",
    show_default=True,
    help="Take the differences of all hinges in one pass, or evaluate the loss at every moved "
    "weight.",
)
@click.option(
    "--scheme",
    type=click.Choice(["centred", "forward"]),
    default="centred",
    show_default=True,
    help="Which points a difference is taken between.",
)
@click.option(
    "--step",
    type=float,
    metavar="H",
    help="How far a coordinate is moved.  [default: 1e-5; 1e-2 for data]",
)
@click.option(
    "--coordinates",
    type=_Count(),
    metavar="all|N",
    default="all",
    show_default=True,
    help="Check all weights, or a sample of them.",
)
@click.option(
    "--examples",
    metavar="all|N|first:N",
    default="all",
    show_default=True,
    help="Over all training images, a sample of them, or the first.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    default=256,
    show_default=True,
    help="Images in a mini-batch.",
)
@reg_option
@click.option("--reg-bias", is_flag=True, help="Have the bias count in ||W||^2.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float64",
    show_default=True,
    help="What the gradient's scores are computed in; differences are float64 in any case.",
)
@click.option(
    "--steps",
    metavar="LARGEST:SMALLEST",
    help="Compare steps instead, such as 1e-3:1e-11, in both schemes.",
)
@click.option(
    "--points-per-decade",
    type=int,
    metavar="N",
    default=2,
    show_default=True,
    help="Steps from one power of 10 to the next, with --steps.",
)
@click.option("--plan", is_flag=True, help="Say what the black box would take, and take nothing.")
@seed_option("the weights, and which coordinates and examples are sampled")
@resume_option
@cluster_options
@output_options
@click.pass_context
def check(  # noqa: PLR0917
    context: click.Context,
    /,
    store: str,
    runs: Path,
    as_json: bool,
    resume: str | None,
    steps: str | None,
    points_per_decade: int,
    plan: bool,
    **options: Any,
) -> int:
    """Check a gradient by finite differences, in every coordinate.

    Every coordinate passes, or disagrees by what the kinks it crosses explain, or by no more than
    rounding makes, or is wrong: then the exit status is 1.
    """
    from flows.console import Console

    cluster = take_cluster(options)
    _refuse_the_others(context, steps, resume, plan)
    console, where = Console(json=as_json), (store, runs, resume)
    if steps is not None or (resume is not None and _is_of_steps(runs, resume)):
        return _study(console, cluster, where, options, steps, points_per_decade)
    parameters = _parameters(options)
    if plan:
        return _look_ahead(console, cluster, where, parameters)
    return _check(console, cluster, where, parameters)


def _refuse_the_others(
    context: click.Context, steps: str | None, resume: str | None, plan: bool
) -> None:
    """Refuse options that what was asked for has no use for."""
    if resume is not None:
        refuse_changes(context)
    given = typed(context)
    for name in _NOT_OF_STEPS if steps is not None else ("points_per_decade",):
        if name in given:
            mend = "leave it or --steps out" if steps is not None else "add --steps"
            raise click.UsageError(
                f"--{name.replace('_', '-')} does not go with a study of steps; {mend}"
                if steps is not None
                else f"--points-per-decade is of a study of steps; {mend}, or leave it out"
            )
    gradient, method = context.params["gradient"], context.params["method"]
    if "batch_size" in given and gradient != "minibatch":
        raise click.UsageError("--batch-size is of a mini-batch; add --gradient minibatch")
    if plan and method != "black-box":
        raise click.UsageError("--plan is of the black box; add --method black-box")


def _is_of_steps(runs: Path, resume: str) -> bool:
    from flows.record import Run

    return Run.find(runs, resume).record.get("command") == "check --steps"


def _parameters(options: dict[str, Any]) -> Any:
    """Return the check that the options stand for."""
    from kernels.finite_difference import Scheme
    from pipeline.check_parameters import DATA_STEP, STEP, CheckMethod, Gradient, GradientCheck

    gradient, step = Gradient(options["gradient"]), options["step"]
    if step is None:
        step = DATA_STEP if gradient is Gradient.DATA else STEP
    kinds = {
        "gradient": gradient,
        "method": CheckMethod(options["method"]),
        "scheme": Scheme(options["scheme"]),
        "step": step,
    }
    return GradientCheck(**options | kinds)


def _check(console: Any, cluster: dict[str, Any], where: Where, parameters: Any) -> int:
    """Check a gradient."""
    from flows.check import check_flow, plan_check

    store, runs, resume = where
    plan = plan_check(store, runs, parameters, resume)
    result = result_of(check_flow, plan, where, console, cluster)
    wrong = result["verdicts"]["wrong"]
    summary = _summary(result, plan.path_of(result))
    console.result(result, summary, _worst(result) if wrong else [])
    return EXIT_FAILED if wrong else EXIT_DONE


def _look_ahead(console: Any, cluster: dict[str, Any], where: Where, parameters: Any) -> int:
    """Say what the black box would take."""
    from dataclasses import asdict

    from dask.system import CPU_COUNT

    from flows.check import look_ahead, plan_check
    from pipeline.cluster import connect
    from pipeline.placement import Worker, plan_homes, workers_of

    store, runs, _ = where
    plan = plan_check(store, runs, parameters)
    workers = [Worker("here", 1, 0)] * (cluster["workers"] or CPU_COUNT)
    if cluster["scheduler"]:
        with connect(scheduler=cluster["scheduler"]) as client:
            workers = workers_of(client)
    threads = sum(worker.threads for worker in workers)
    shards = len(plan_homes(plan.dataset.rows("train"), workers))
    taken = look_ahead(plan, shards, threads)
    summary = {
        "evaluations": f"{taken.evaluations:,} of the loss",
        "tasks": f"{taken.tasks:,}, over {shards} shards",
        "memory": f"{taken.bytes_a_task / 1e6:,.1f} MB a task, beside its images",
        "time": f"about {taken.seconds:,.0f} s on {threads} threads, by a sample taken here",
    }
    console.result(asdict(taken) | {"shards": shards, "threads": threads}, summary)
    return EXIT_DONE


def _study(
    console: Any,
    cluster: dict[str, Any],
    where: Where,
    options: dict[str, Any],
    steps: str | None,
    points_per_decade: int,
) -> int:
    """Compare steps."""
    from flows.check_steps import check_steps_flow, plan_study
    from pipeline.step_study import StepStudy

    store, runs, resume = where
    given: dict[str, Any] = {}
    if steps is not None:
        given = {"steps": steps, "points_per_decade": points_per_decade}
    plan = plan_study(store, runs, StepStudy(_parameters(options), **given), resume)
    result = result_of(check_steps_flow, plan, where, console, cluster)
    console.result(result, _summary_of_steps(result, plan.path_of(result)), _table_of_steps(result))
    return EXIT_DONE


def _number(value: float | None) -> str:
    """Write a number; read from a record, one that is none is None."""
    return "no number" if value is None else f"{value:.3g}"


def _summary(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data

    verdicts = result["verdicts"]
    summary = {
        "run": result["run"],
        "data": described_data(result["data"]),
        "checked": f"{result['coordinates']:,} coordinates over {result['examples']:,} images",
        "verdicts": ", ".join(f"{count:,} {name}" for name, count in verdicts.items()),
        "kinks": f"{result['kink_crossings']:,} crossings",
        "relative error": f"at most {_number(result['max_relative_error'])}; once kinks are "
        f"accounted for {_number(result['max_relative_error_after_kinks'])}",
        "error": f"at most {_number(result['max_error'])}; once kinks are accounted for "
        f"{_number(result['max_error_after_kinks'])}, where rounding may make up to "
        f"{_number(result['largest_roundoff_bound'])}",
    }
    if "max_difference_to_structured" in result:
        apart = _number(result["max_difference_to_structured"])
        summary["black box"] = f"at most {apart} from the structured differences"
    return summary | {
        "took": f"{result['seconds']:.2f} s, {result['timings']['seconds']:.1f} s with all else",
        "look at": f"errors.png, histogram.png, worst.csv, result.json in {directory}",
    }


def _worst(result: dict[str, Any]) -> list[str]:
    """Return the coordinates that are the farthest off, in columns."""
    row = "{:>10} {:>7} {:>4} {:>6} {:>13} {:>13} {:>10} {:>10}  {}"
    names = ("class", "channel", "row", "column", "analytic", "numerical", "error", "less kinks")
    lines = [row.format(*names, "verdict")]
    for each in result["worst"]:
        where = (each["channel"], *("" if each[n] is None else each[n] for n in ("row", "column")))
        numbers = (each[n] for n in ("analytic", "numerical"))
        errors = (_number(each[n]) for n in ("error", "error_after_kinks"))
        written = ("no number" if n is None else f"{n:.6e}" for n in numbers)
        subject = each.get("class", each.get("example"))
        lines.append(row.format(subject, *where, *written, *errors, each["verdict"]))
    return lines


def _table_of_steps(result: dict[str, Any]) -> list[str]:
    row = "{:>8} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10}"
    names = ("step", "scheme", "error", "less kinks", "crossings", "theory", "rounding")
    return [
        row.format(*names),
        *(
            row.format(
                f"{each['step']:.1e}",
                each["scheme"],
                _number(each["error"]),
                _number(each["error_after_kinks"]),
                f"{each['crossings']:,}",
                _number(each["truncation"]),
                _number(each["rounding"]),
            )
            for each in result["steps"]
        ),
    ]


def _summary_of_steps(result: dict[str, Any], directory: Path) -> dict[str, str]:
    from flows.console import described_data

    return {
        "run": result["run"],
        "data": described_data(result["data"]),
        "best step": ", ".join(
            f"{scheme} {step:.1e} (error {result['least_error'][scheme]:.2g})"
            for scheme, step in result["best_step"].items()
        ),
        "took": f"{result['seconds']:.1f} s",
        "look at": f"steps.png, steps.csv, result.json in {directory}",
    }
