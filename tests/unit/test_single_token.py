"""Single-token latents, judged by their strongest windows and by a sample of all."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from tasks.mining.single_token import SingleTokens, SingleTokenSpec, commonest

SPEC = SingleTokenSpec(n_top=10, top_share=0.9, n_sample=40, sample_share=0.75, min_windows=5)


def judged(tokens, spec=SPEC):
    found = SingleTokens(spec, 1)
    found.look(0, np.array(tokens, np.int32), Random(0))
    return bool(found.weak[0]), bool(found.strong[0]), int(found.token[0]), float(found.share[0])


@pytest.mark.parametrize(
    "tokens, weak, strong",
    [
        ([7] * 30, True, True),
        ([7] * 9 + [1] + [7] * 20, True, True),  # nine of ten of the strongest
        ([7] * 8 + [1, 2] + [7] * 20, False, False),  # eight are too few, however clear the rest is
        ([7] * 10 + list(range(100, 120)), True, False),  # loud on one token, faint on any
        (list(range(100, 110)) + [7] * 30, False, False),  # the other way round: what is faint does not count alone
        ([7] * 10 + [8] * 30, True, False),  # another token where it is faint
        ([7] * 4, False, False),  # too few windows to tell
        ([7] * 5, True, True),
        ([], False, False),
    ],
)
def test_weak_by_the_strongest_windows_strong_by_a_sample_of_all_besides(tokens, weak, strong):
    assert judged(tokens)[:2] == (weak, strong)


def test_the_share_and_the_top_token_are_of_the_sample():
    assert judged([7] * 10 + [8] * 30)[2:] == (8, 0.75)
    assert judged([])[2:] == (-1, 0.0)
    token, share = judged([1] * 500 + [2] * 500, SingleTokenSpec(n_sample=100))[2:]
    assert token in (1, 2) and 0.5 <= share < 0.7


def test_equally_common_tokens_go_by_their_id():
    assert commonest(np.array([5, 3, 3, 5])) == (3, 0.5) and commonest(np.zeros(0)) == (-1, 0.0)
