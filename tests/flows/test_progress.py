"""Progress: what reaches which place, and when."""

import time
from typing import NoReturn

import pytest

from flows.services.progress import Reading, Sink, watch_progress


def test_short_work_reaches_only_the_places_that_show_everything() -> None:
    everything, later = list[Reading](), list[Reading]()
    sinks = [Sink(everything.append, every=60), Sink(later.append, every=60, after=60)]
    with watch_progress("train", 40, sinks) as advance:
        for step in range(1, 41):
            advance(step, loss=1 / step)
    [reading] = everything
    assert (reading.what, reading.done, reading.total) == ("train", 40, 40)
    assert (reading.words, reading.loss) == ("loss 0.0250", 0.025)
    assert later == []


def test_long_work_is_shown_at_intervals_and_at_its_end() -> None:
    often, seldom = list[Reading](), list[Reading]()
    sinks = [Sink(often.append, every=0.05), Sink(seldom.append, every=0.2, after=0.2)]
    started = time.monotonic()
    with watch_progress("check", 60, sinks, done=10) as advance:
        for done in range(11, 61):
            time.sleep(0.01)
            advance(done)
    assert often[-1].done == seldom[-1].done == 60
    seconds = time.monotonic() - started
    assert 2 <= len(seldom) <= 1 + seconds / 0.2
    assert len(seldom) < len(often) <= 1 + seconds / 0.05
    rate = often[-1].rate
    assert rate is not None
    assert 5 < rate <= 100  # 50 in at least half a second; what was done before does not count
    assert often[-1].in_words().startswith("check: 60 of 60, ")


def test_place_that_fails_is_left_out_and_the_work_goes_on() -> None:
    shown, failures = list[Reading](), list[Reading]()

    def fail(reading: Reading) -> NoReturn:
        failures.append(reading)
        raise OSError("the server is gone")

    with watch_progress("train", None, [Sink(fail, 0.02), Sink(shown.append, 0.02)]) as advance:
        advance(1, "one")
        time.sleep(0.2)
        advance(2, "two")
    assert len(failures) == 1
    assert (shown[-1].done, shown[-1].words) == (2, "two")


def test_work_that_fails_shows_no_end() -> None:
    shown = list[Reading]()

    def fail() -> NoReturn:
        with watch_progress("train", 2, [Sink(shown.append, every=60)]) as advance:
            advance(1)
            raise ValueError("no way")

    with pytest.raises(ValueError, match="no way"):
        fail()
    assert shown == []
