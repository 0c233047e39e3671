from __future__ import annotations

import asyncio
import random

import pytest

from tasks.clients import _pace
from tasks.clients._pace import Bucket, Pace, backoff_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Time that passes only while somebody sleeps."""
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(_pace.asyncio, "sleep", sleep)
    return clock


def leave(pace: Pace, clock: Clock, tokens: list[float]) -> list[float]:
    async def all_of_them() -> list[float]:
        return [(await pace.turn(n), clock.now - 100.0)[1] for n in tokens]

    return asyncio.run(all_of_them())


def test_requests_leave_evenly_after_the_first(clock):
    when = leave(Pace(60, None, clock), clock, [1] * 6)
    assert when == pytest.approx([0, 0, 1, 2, 3, 4], abs=1e-6)


def test_tokens_leave_no_faster_than_a_minute_holds(clock):
    when = leave(Pace(None, 60_000, clock), clock, [500.0] * 200)
    for begin in range(150):
        in_a_minute = sum(500 for t in when if when[begin] <= t < when[begin] + 60)
        assert in_a_minute <= 60_000 + 1000 + 500  # a burst of a second, and one that was let go at the brim


def test_a_request_larger_than_the_allowance_leaves_and_the_next_waits_for_it(clock):
    assert leave(Pace(None, 60, clock), clock, [120, 1]) == pytest.approx([0, 119], abs=1e-6)


def test_tokens_that_were_not_used_are_given_back(clock):
    pace = Pace(None, 60, clock)
    leave(pace, clock, [100])
    pace.used(100, 10)
    assert leave(pace, clock, [1])[0] == pytest.approx(9, abs=1e-6)


def test_no_limit_never_waits(clock):
    assert leave(Pace(None, None, clock), clock, [1e9] * 100) == [0] * 100
    assert Bucket(None).wait_seconds() == 0.0


def test_a_server_that_is_busy_holds_everything_but_not_for_ever(clock):
    pace = Pace(None, None, clock)
    pace.hold(7)
    pace.hold(3)
    assert leave(pace, clock, [1]) == pytest.approx([7])
    pace.hold(1e6)
    assert pace.wait_seconds() == _pace.LONGEST_WAIT_SECONDS


def test_waits_grow_are_bounded_and_differ():
    draw = random.Random(0)
    waits = [backoff_seconds(n, None, draw) for n in range(1, 12)]
    assert 0.5 <= waits[0] <= 0.625 and 1.0 <= waits[1] <= 1.25 and max(waits) <= 1.25 * _pace.LONGEST_BACKOFF_SECONDS
    assert 2.0 <= backoff_seconds(4, 2.0, draw) <= 2.5 and backoff_seconds(1, 4e6, draw) <= 1.25 * _pace.LONGEST_WAIT_SECONDS
    assert backoff_seconds(6, 0.0, draw) >= 1.5, "a server that says at once is not asked at once without end"
    assert backoff_seconds(100_000, None, draw) <= 1.25 * _pace.LONGEST_BACKOFF_SECONDS
    assert len({backoff_seconds(1, 1.0, draw) for _ in range(10)}) == 10
