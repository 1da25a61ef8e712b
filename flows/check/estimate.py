"""What `hinge check --plan` says: the cost of a check by the black box, before it is run."""

from dask.system import CPU_COUNT

from flows.check.flow import CheckPlan
from pipeline.check import black_box
from pipeline.check.black_box import CostEstimate
from pipeline.cluster.connect import connect
from pipeline.cluster.placement import Worker, assign_shards, workers_of


def estimate_cost(plan: CheckPlan, workers: int | None, scheduler: str | None) -> CostEstimate:
    """Estimate what a planned check costs on the cluster of `scheduler`, or on this machine.

    `workers` is how many would be started here; None for one per core. Nothing is started.

    Raises PipelineError if the scheduler does not answer.
    """
    cluster = _workers(workers, scheduler)
    check, inputs, rows = plan.parameters, plan.inputs, plan.dataset.rows("train")
    return black_box.estimate_cost(
        inputs.black_box(check, plan.dataset.mean),
        coordinates=len(inputs.coordinates),
        examples=rows if inputs.rows is None else len(inputs.rows),
        shards=len(assign_shards(rows, cluster)),
        threads=sum(worker.threads for worker in cluster),
    )


def _workers(workers: int | None, scheduler: str | None) -> list[Worker]:
    """Return the workers of the scheduler's cluster, or those that would be started here."""
    if scheduler:
        with connect(scheduler=scheduler) as client:
            return workers_of(client)
    return [Worker("here", 1, 0)] * (workers or CPU_COUNT)
