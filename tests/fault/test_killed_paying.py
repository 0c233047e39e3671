"""kill -9 while paid batches are made, waited for, fetched: over and over in one world, with a server that fails too.

Each round lets one to three processes die, at a random step or a random moment, then goes on to the end. After it
every question has one answer, each was paid once, and dollars on the server equal dollars in the ledger.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from random import Random

import pytest

from tasks.clients.base import ClientError
from tests import fake_anthropic as fake
from tests.fault import batch_child
from tests.fault.sides import SIDES, Side, assert_settled, quick  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick")
STEPS = 26
"""About as many steps as a run of two rounds of batches has."""

SHORT, LONG = 5, 60
"""Rounds per API: in every test run, and in the long loop."""


@pytest.fixture(scope="module")
def fork():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fault.batch_child"])
    return context


def settle(api) -> None:
    """Let the server work off what reached it before its sender died: in the field, ``SETTLE_SECONDS`` are for that."""
    n = -1
    while n < len(api.seen):
        n = len(api.seen)
        time.sleep(0.05)


def killed_at_random(fork, side: Side, root, seed: int) -> int:
    """One round; returns how many processes were really killed."""
    draw, killed = Random(f"{seed}/{side.kind}/kills"), 0
    spoilt = {
        "create": [fake.DROP_AFTER_ACCEPTING, fake.DROP_BEFORE_ACCEPTING, fake.status(429), fake.status(500)],
        "retrieve": [fake.status(529)],
        "results": [fake.CUT_IN_A_LINE, fake.MISSING, fake.DUPLICATE],
    }
    with side.server(polls_until_ended=draw.randrange(2)) as api:
        for where, faults in spoilt.items():
            api.fault(where, *(draw.choice(faults) if draw.random() < 0.15 else None for _ in range(8)))
        for _ in range(draw.randint(1, 3)):
            by_step = draw.random() < 0.6
            step = ("any", draw.randint(1, STEPS)) if by_step else ("", 1)
            child = fork.Process(target=batch_child.ask, args=(api.url, str(root), None, *step, side.kind))
            child.start()
            if not by_step:
                time.sleep(draw.uniform(0.0, 0.35))
                if child.is_alive() and child.pid:
                    os.kill(child.pid, signal.SIGKILL)
            child.join(60)
            settle(api)
            killed += child.exitcode == -signal.SIGKILL
        replies = []
        for _ in range(4):
            try:
                replies = side.ask(api, root)
                break
            except ClientError:
                continue  # the command is given again
        assert {reply.status for reply in replies} == {"ok"}, seed
        assert_settled(side, api, root, replies, batch_child.N)
    return killed


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
def test_a_process_killed_anywhere_costs_nothing_twice(tmp_path, fork, side):
    assert sum(killed_at_random(fork, side, tmp_path / str(seed), seed) for seed in range(SHORT)) >= SHORT // 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
def test_a_hundred_processes_killed_anywhere_cost_nothing_twice(tmp_path, fork, side):
    killed = sum(killed_at_random(fork, side, tmp_path / str(seed), seed) for seed in range(SHORT, SHORT + LONG))
    assert killed >= LONG
