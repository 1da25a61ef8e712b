"""The environment variables of commands that tests run as a user with an empty home would."""

import os
from pathlib import Path


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Return only the environment variables that a program needs to start, and `more`."""
    names = "PATH", "NUMBA_CACHE_DIR", "HINGE_SERVER_IDLE_SECONDS", "TMPDIR", "LANG"
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "HOME": str(home), **more}
