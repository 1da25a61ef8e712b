"""The cost estimate of a black-box check, which `hinge check --plan` prints."""

from flows.check.flow import CheckPlan
from pipeline.check import black_box
from pipeline.check.black_box import CostEstimate
from pipeline.cluster.connect import connect, local_shape
from pipeline.cluster.placement import Worker, assign_shards, workers_of


def estimate_cost(plan: CheckPlan, workers: int | None, scheduler: str | None) -> CostEstimate:
    """Estimate the cost of a planned check on the cluster of `scheduler`, or on this machine.

    `workers` is the number of worker processes that the check would start on this machine; None
    means one process with one thread per core. The estimate itself starts no workers.

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
    """Return the workers of the scheduler's cluster, or those that this machine would start."""
    if scheduler:
        with connect(scheduler=scheduler) as client:
            return workers_of(client)
    processes, threads = local_shape(workers)
    return [Worker("here", threads, 0)] * processes
