from __future__ import annotations

import pytest

from tasks.clients.base import Reply, TokenLogprobs, Usage
from tasks.replies import Replies


def reply(i: int, text: str = "") -> Reply:
    logprobs = (TokenLogprobs("true", -0.1, {"true": -0.1, "false": -2.5}),)
    return Reply(f"digest {i}", "ok", text or f"text {i}", Usage(i, 2, 0.5), reused=bool(i % 2), logprobs=logprobs)


@pytest.mark.parametrize("in_memory", [1 << 20, 100])
def test_replies_come_back_as_they_were_from_memory_and_from_disk(in_memory):
    kept = Replies(in_memory)
    for i in range(50):
        kept.add(reply(i))
        assert kept["digest 0"] == reply(0)  # reading between writing spoils nothing
    assert len(kept) == 50 and list(kept) == [f"digest {i}" for i in range(50)]
    assert [kept[f"digest {i}"] for i in reversed(range(50))] == [reply(i) for i in reversed(range(50))]
    assert "digest 50" not in kept and kept._file._rolled == (in_memory == 100)


def test_a_later_reply_to_the_same_request_takes_the_place_of_the_earlier_one():
    kept = Replies()
    kept.add(reply(1))
    kept.add(reply(2))
    kept.add(reply(1, "better"))
    assert len(kept) == 2 and kept["digest 1"].text == "better" and kept["digest 2"] == reply(2)
    with pytest.raises(KeyError):
        kept["nobody"]
