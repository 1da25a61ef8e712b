"""Tables of results, given as rows or as columns, for CSV files and Prefect artifacts."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from flows.services.console import python_scalar

Table = Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any] | NDArray[Any]]
"""Rows with the same column names, or columns of equal length by name."""


def header_and_rows(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Return the names of the columns, and the rows as lists of values without NumPy scalars.

    Raises ValueError if the rows have different columns, or the columns different lengths.

    Examples:
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
                raise ValueError(
                    f"row {number} has columns {sorted(row)}, row 0 has {sorted(names)}"
                )
        rows = [[row[name] for name in names] for row in table]
    return names, [[python_scalar(value) for value in row] for row in rows]
