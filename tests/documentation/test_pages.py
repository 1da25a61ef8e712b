"""Tests of the examples in README.md, CONTRIBUTING.md and docs/, and of the code that runs them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import SkipTest

import pytest
from sybil import Example
from sybil.example import SybilFailure

from tests.documentation.workspace import (
    PAGES,
    ROOT,
    make_terminal,
    real_terminal,
    shared_workbench,
)

FENCE = re.compile(r"^ *```[^\n]*\n.*?^ *```$", re.DOTALL | re.MULTILINE)

SOURCE_FILE = re.compile(r"`((?:flows|kernels|pipeline|storage|tests)/[\w/]+(?:\.\w+|/))`")


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment in which commands find a workbench that all pages share."""
    with shared_workbench(tmp_path_factory.mktemp("workbench")) as environment:
        yield environment


def run_examples(examples: list[Example]) -> None:
    """Run the examples of a page in order, except those that the page skips."""
    for example in examples:
        try:
            example.evaluate()
        except SkipTest:
            continue


def is_python(example: Example) -> bool:
    return example.document.text[example.start :].lstrip().startswith(("```python", ">>>"))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_python_examples_run(page: Path, tmp_path: Path) -> None:
    document = make_terminal(tmp_path).read(ROOT / page)
    run_examples([example for example in document if is_python(example)])


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_print_what_the_page_shows(
    page: Path, tmp_path: Path, real_cifar10: Path, workbench: Mapping[str, str]
) -> None:
    terminal = real_terminal(tmp_path, real_cifar10, workbench)
    run_examples(list(terminal.read(ROOT / page)))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_code_block_runs_or_has_a_reason_to_be_skipped(page: Path, tmp_path: Path) -> None:
    document = make_terminal(tmp_path).read(ROOT / page)
    run = {example.start for example in document}
    for block in FENCE.finditer(document.text):
        before = document.text[: block.start()].rstrip().rpartition("\n")[2]
        skipped = re.fullmatch(r"<!-- skip: next \"[^\"]+\" -->", before)
        runs = any(start in run for start in range(block.start(), block.end()))
        assert skipped or runs, f"{page}: {block[0]}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_source_files_named_in_the_text_exist(page: Path) -> None:
    named = set(SOURCE_FILE.findall((ROOT / page).read_text()))
    assert not [path for path in named if "NAME" not in path and not (ROOT / path).exists()]


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("$ echo one\ntwo\n", "two"),  # other output
        ("$ echo one\none\ntwo\n", "two"),  # the page shows a line that is not printed
        ("$ exit 3\n", "exit status 3"),  # a command that fails
        ("echo one\n", "starts with"),  # the block has no command
    ],
)
def test_wrong_console_blocks_fail(block: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises((SybilFailure, AssertionError, ValueError), match=problem):
        run_page(f"```console\n{block}```\n", tmp_path)


@pytest.mark.parametrize(
    "block",
    [
        "$ echo one\none\n",
        "$ echo one two three\none ... three\n",  # an ellipsis
        "$ echo one \\\n    two\none two\n",  # a command of two lines
        "$ echo one\n$ echo two\ntwo\n",  # the page omits the output of the first command
    ],
)
def test_correct_console_blocks_pass(block: str, tmp_path: Path) -> None:
    run_page(f"```console\n{block}```\n", tmp_path)


def test_command_in_text_block_fails(tmp_path: Path) -> None:
    with pytest.raises(SybilFailure, match="not run"):
        run_page("```text\n$ echo one\n```\n", tmp_path)


def test_figure_whose_source_file_was_written_passes(tmp_path: Path) -> None:
    (tmp_path / "loss.png").touch()
    text = "```console\n$ mkdir runs; touch runs/loss.png\n```\n"
    run_page(text + "<!-- figure: loss.png from runs/*.png -->\n", tmp_path)


@pytest.mark.parametrize(
    ("figure", "problem"),
    [
        ("lost.png from runs/*.png", "does not exist"),  # no committed figure
        ("loss.png from lost/*.png", "should name one file"),  # no file of a run
    ],
)
def test_figure_with_a_missing_file_fails(figure: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "loss.png").touch()
    text = "```console\n$ mkdir runs; touch runs/loss.png\n```\n"
    with pytest.raises(SybilFailure, match=problem):
        run_page(text + f"<!-- figure: {figure} -->\n", tmp_path)


def run_page(text: str, directory: Path) -> None:
    page = directory / "page.md"
    page.write_text(text)
    run_examples(list(make_terminal(directory).read(page)))
