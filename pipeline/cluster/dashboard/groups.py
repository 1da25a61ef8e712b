"""The page `/groups` of the Dask dashboard, in place of Dask's own.

Dask's page draws every group of tasks to the right of the groups that it depends on. It asks
`dask.order.order` for an order in which dependencies come first. Since Dask 2024.10 this function
ignores the dependencies it is given and sorts by name, so the page answers 500 whenever a name
sorts before that of a dependency (distributed 2026.8.0).
"""

from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from bokeh.document import Document
from distributed import Scheduler
from distributed.dashboard.components.scheduler import TaskGroupGraph, individual_doc

UPDATE_MILLISECONDS = 200


class Cell(NamedTuple):
    """Where a group is drawn."""

    column: int
    row: int


def lay_out(needed: Mapping[str, Set[str]]) -> dict[str, Cell]:
    """Return a cell for each group, to the right of all groups that it needs.

    `needed` has an item for each group that a group needs. Groups that need each other, as other
    programs' may, get some cells.

    Examples:
        >>> lay_out({"sum": {"draw"}, "draw": {"inputs"}, "inputs": set()})["sum"]
        Cell(column=2, row=0)
    """
    columns = dict.fromkeys(needed, 0)
    for _ in needed:  # a path has at most as many groups
        moved = {
            name: max((columns[each] + 1 for each in others), default=0)
            for name, others in needed.items()
        }
        if moved == columns:
            break
        columns = moved
    cells: dict[str, Cell] = {}
    taken: set[Cell] = set()
    for name in sorted(needed, key=lambda name: columns[name]):
        row = max((cells[each].row for each in needed[name] if each in cells), default=0)
        while (cell := Cell(columns[name], row)) in taken:
            row += 1
        cells[name] = cell
        taken.add(cell)
    return cells


class TaskGroups(TaskGroupGraph):
    """Dask's graph of task groups, with a layout of our own, and with the groups' names."""

    def __init__(self, scheduler: Scheduler, **options: Any) -> None:
        super().__init__(scheduler, **options)  # type: ignore[no-untyped-call]
        self.root.text(  # type: ignore[union-attr]
            *("x", "y", "name"),
            source=self.nodes_source,
            text_align="center",
            text_baseline="bottom",
            text_font_size="13px",
            background_fill_color="white",
            background_fill_alpha=0.7,
        )

    def update_layout(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return each group's position, and the ends of the arrows that lead to it.

        A group remembers the groups that it needed even if the scheduler has forgotten them.
        """
        groups = self.scheduler.task_groups
        needed = {
            name: ({each.name for each in group.dependencies} & groups.keys()) - {name}
            for name, group in groups.items()
        }
        nodes = {name: {"x": cell.column, "y": cell.row} for name, cell in lay_out(needed).items()}
        arrows = {
            name: {"nstart": others, "nend": [name] * len(others)}
            for name, others in needed.items()
        }
        return nodes, arrows


def show_groups(scheduler: Scheduler, extra: Mapping[str, Any], document: Document) -> None:
    """Fill a document with the graph, and keep it up to date while it is open."""
    individual_doc(TaskGroups, UPDATE_MILLISECONDS)(scheduler, extra, document)
    document.title = "Dask: Task Groups Graph"
