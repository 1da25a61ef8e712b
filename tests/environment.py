"""The environment variables of commands that tests run as a user with an empty home would."""

import os
from pathlib import Path


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Return only the environment variables that a program needs to start, and `more`."""
    kept = {name: os.environ[name] for name in ("PATH", "NUMBA_CACHE_DIR", "TMPDIR", "LANG")
            if name in os.environ}  # fmt: skip
    return {**kept, "HOME": str(home), **more}
