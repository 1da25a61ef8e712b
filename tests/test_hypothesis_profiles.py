"""The Hypothesis profiles of `tests.conftest`: the same examples in every run, or fresh ones."""

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st


def drawn(profile: str, fresh_seed: int | None = None) -> list[list[float]]:
    """Return the examples that a property test draws in one run."""
    examples = list[list[float]]()

    @settings(settings.get_profile(profile))
    @given(st.lists(st.floats(allow_nan=False)))
    def collect(example: list[float]) -> None:
        examples.append(example)

    (collect if fresh_seed is None else seed(fresh_seed)(collect))()
    return examples


def test_repeatable_profile_draws_the_same_examples_in_every_run(
    pytestconfig: pytest.Config,
) -> None:
    assert len(drawn("repeatable")) > 10
    assert drawn("repeatable") == drawn("repeatable")
    asked = pytestconfig.getoption("--hypothesis-profile")
    assert settings.get_current_profile_name() == (asked or "repeatable")


def test_explore_profile_draws_its_examples_from_the_seed() -> None:
    assert drawn("explore", 1) == drawn("explore", 1)
    assert drawn("explore", 1) != drawn("explore", 2)
    assert drawn("explore") != drawn("explore")


@pytest.mark.parametrize("profile", ["repeatable", "explore"])
def test_profiles_have_no_database_and_no_deadline(profile: str) -> None:
    found = settings.get_profile(profile)
    assert (found.database, found.deadline) == (None, None)
