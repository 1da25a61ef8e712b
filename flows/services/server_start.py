"""`python -m flows.services.server_start ARGUMENTS`: `python -m prefect ARGUMENTS`, started faster.

Prefect's server creates a million objects while it imports its modules, and nearly all of them
stay. With Python's default threshold, the garbage collector looks at them over and over, which
takes a fifth of the processor time of the start.
"""

import gc
import runpy

_NEW_OBJECTS = 100_000
"""The number of new objects between two garbage collections."""

if __name__ == "__main__":
    gc.set_threshold(_NEW_OBJECTS)
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
