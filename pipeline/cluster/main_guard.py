"""A check that a script does not start worker processes again in each worker process.

Worker processes are spawned. Python runs the user's script again in each of them, under another
`__name__`, so that functions of the script can be unpickled there. A script that starts a cluster
at its top level would start another cluster in each worker, and so on.
"""

import ast
import inspect
import sys
from pathlib import Path
from typing import Any

from pipeline.inputs.errors import PipelineError


def check_main_guard() -> None:
    """Raise PipelineError if the caller runs at the top level of a script without a guard.

    The guard is any `if` statement about `__name__` at or before the line that runs. If there is
    no script (a notebook, `python -c`, an interactive session), workers run nothing again and no
    guard is needed.
    """
    script = _script_that_workers_run()
    if script is None:
        return
    line = _line_of_top_level(vars(sys.modules["__main__"]))
    if line is not None and not _guarded(script, line):
        raise PipelineError(_explanation(script, line))


def _script_that_workers_run() -> Path | None:
    """Return the file of `__main__`, if a spawned process runs it (`multiprocessing.spawn`)."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    spec = getattr(main, "__spec__", None)
    if file is None or (spec and spec.name.rpartition(".")[2] == "__main__"):
        return None
    return Path(file)


def _line_of_top_level(variables: dict[str, Any]) -> int | None:
    """Return the line that the top level of a module is running, or None if it is not running.

    `variables` are the module's globals.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals is variables and frame.f_code.co_name == "<module>":
            return frame.f_lineno
        frame = frame.f_back
    return None


def _guarded(script: Path, line: int) -> bool:
    """Return whether the top level has an `if` about `__name__` at or before this line."""
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError):  # not Python source: cannot tell
        return True
    return any(
        isinstance(statement, ast.If)
        and statement.lineno <= line
        and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(statement.test))
        for statement in tree.body
    )


def _explanation(script: Path, line: int) -> str:
    return (
        f"line {line} of {script} starts worker processes, and each of them runs the script again. "
        "Move the script's code into a function main(), and end the script with\n\n"
        '    if __name__ == "__main__":\n'
        "        main()\n"
    )
