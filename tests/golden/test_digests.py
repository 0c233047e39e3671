"""Digests of questions, literally: one that moves makes paid answers unfindable, and they are paid for anew."""

from __future__ import annotations

from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.base import Request


def test_a_question_is_called_what_it_was_called_when_it_was_paid_for():
    asked = AnthropicBatch().digest(Request("system", "user", {"type": "object"}, 100))
    assert asked == "2bb2847200804594ac13b881e05a6fc1ea998b29cffb90ac211eb9b5a17b361b"
    other = AnthropicBatch(model="claude-opus-5-5", effort=None).digest(Request("system", "user"))
    assert other == "326816b219df3dab95fafb69a3220fa5779303356e8dba0988535dd5d3164ffa"
