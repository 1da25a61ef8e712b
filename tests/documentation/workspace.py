"""The environment of a page's examples: an empty home, the real images, a workbench."""

import os
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flows.serve.background import workbench_in_background
from tests.documentation.examples import Terminal
from tests.environment import clean_environment

ROOT = Path(__file__).parents[2]

PAGES = sorted(
    page.relative_to(ROOT)
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"))
)
"""The pages whose examples are run, relative to the root of the repository."""


def make_terminal(directory: Path, **environment: str) -> Terminal:
    """Return a terminal in a new folder of `directory`, with an empty home directory beside it."""
    home, working = directory / "home", directory / "work"
    home.mkdir()
    working.mkdir()
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    return Terminal(working, clean_environment(home, PATH=path, COLUMNS="100", **environment))


@contextmanager
def shared_workbench(directory: Path) -> Iterator[Mapping[str, str]]:
    """Hold a workbench in the block, and yield the environment in which commands find it.

    So the commands of the pages need not start a server and a cluster each.
    """
    home = directory / "prefect"
    environment = {"PREFECT_HOME": str(home)}
    serving = clean_environment(directory, **environment)
    with workbench_in_background(home, directory / "runs", serving) as workbench:
        yield environment | {"PREFECT_API_URL": workbench.api}


def real_terminal(directory: Path, cifar10: Path, workbench: Mapping[str, str]) -> Terminal:
    """Return a terminal whose `HINGE_CIFAR10` names the real images.

    `workbench` is the environment that `shared_workbench` yields.
    """
    return make_terminal(directory, HINGE_CIFAR10=str(cifar10.absolute()), **workbench)
