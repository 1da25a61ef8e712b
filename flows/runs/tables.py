"""Tables of results, given by rows or by columns: for a CSV file, or for Prefect to show."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from flows.services.console import python_scalar

Table = Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any] | NDArray[Any]]
"""Rows that have the same names, or columns of one length under their names."""


def header_and_rows(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Return the columns' names, and each row's values in their order, without NumPy's scalars.

    Raises ValueError if rows have other names than the first, or columns other lengths.

    >>> import numpy as np
    >>> header_and_rows([{"trial": 0, "loss": np.float64(9.5)}, {"loss": 9.25, "trial": 1}])
    (['trial', 'loss'], [[0, 9.5], [1, 9.25]])
    >>> header_and_rows({"trial": range(2), "loss": np.array([9.5, 9.25])})
    (['trial', 'loss'], [[0, 9.5], [1, 9.25]])
    """
    if isinstance(table, Mapping):
        names = list(table)
        rows = [list(row) for row in zip(*table.values(), strict=True)]
    else:
        names = list(table[0]) if table else []
        for number, row in enumerate(table):
            if row.keys() != set(names):
                raise ValueError(f"row {number} has {sorted(row)}, and the first {sorted(names)}")
        rows = [[row[name] for name in names] for row in table]
    return names, [[python_scalar(value) for value in row] for row in rows]
