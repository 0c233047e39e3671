"""Probes and absorption: by hand on single tokens, and on a planted dictionary in which it is known what absorbs what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tasks.dictionary.absorption import absorption
from tasks.dictionary.letters import LETTERS, Criteria, Tokens, first_letters, studied
from tasks.dictionary.probing import candidates, columns, f1, logistic, ranked, sparse
from tasks.saes.base import Latents

UP = torch.tensor([1.0, 0.0, 0.0])
ROWS = torch.tensor([
    [1.0, 0, 0],                      # 0: the main latent
    [0.6, 0.8, 0],                    # 1: aligned
    [0.0, 1, 0],                      # 2: not at all
    [0.05, math.sqrt(1 - 0.0025), 0], # 3: a little: enough for one, too little for several
    [-1.0, 0, 0],                     # 4: the other way
    [1.2, 1.6, 0],                    # 5: as 1, of length 2
])  # fmt: skip


def one(latents: dict[int, float], projection: float, main: tuple[int, ...] = (0,)):
    index, value = torch.tensor([list(latents)]), torch.tensor([list(latents.values())])
    return absorption(index, value, ROWS, UP * 7, torch.tensor([projection]), main)


def test_a_token_whose_main_latent_does_it_all_is_not_absorbed():
    found = one({0: 2.0, 2: 1.0}, 2.0)
    assert not found.full_R[0] and found.fraction_R[0] == 0


def test_a_silent_main_latent_with_an_aligned_one_in_its_place_is_absorption_in_full():
    found = one({1: 2.0, 2: 5.0}, 2.0)
    assert found.full_R[0] and found.fraction_R[0] == 1 and found.absorber_R[0] == 1
    assert found.share_R[0] == pytest.approx(0.6) and found.mean_fraction == found.full_rate == 1


def test_the_length_of_a_decoder_row_counts_for_what_it_writes():
    assert one({5: 1.0}, 2.0).share_R[0] == pytest.approx(0.6) == one({1: 2.0}, 2.0).share_R[0]


def test_one_that_writes_too_little_absorbs_nothing():
    found = one({1: 1.0}, 2.0)  # 0.3 of it
    assert not found.full_R[0] and found.fraction_R[0] == 0 and found.absorber_R[0] == 1


def test_a_barely_aligned_latent_may_absorb_all_but_not_a_part():
    found = one({3: 20.0}, 2.0)  # writes 1 of 2, at cosine 0.05
    assert found.full_R[0] and found.fraction_R[0] == 0


def test_a_part_is_what_absorbers_write_of_what_is_written():
    """Main 1.0 and absorber 0.6 x 1.5 = 0.9 of a projection of 2: 0.9 / 1.9; of 1.5, only 0.5 was lacking: 0.5 / 1.5."""
    assert one({0: 1.0, 1: 1.5}, 2.0).fraction_R[0] == pytest.approx(0.9 / 1.9)
    assert one({0: 1.0, 1: 1.5}, 1.5).fraction_R[0] == pytest.approx(0.5 / 1.5)
    assert one({0: 2.0, 1: 1.5}, 1.5).fraction_R[0] == 0, "the main latent writes all of it"
    assert not one({0: 1.0, 1: 1.5}, 2.0).full_R[0]


def test_what_is_written_against_the_probe_is_no_absorption():
    found = one({4: 3.0}, 2.0)
    assert found.absorber_R[0] == -1 and not found.full_R[0] and found.fraction_R[0] == 0
    assert not one({1: 3.0}, -1.0).full_R[0], "nor where the activation has none of the property"


def test_padding_fires_nothing():
    """An entry of value 0 may name any latent, the main one too."""
    found = absorption(torch.tensor([[1, 0, 0]]), torch.tensor([[2.0, 0.0, 0.0]]), ROWS, UP, torch.tensor([2.0]), (0,))
    assert found.full_R[0] and found.fraction_R[0] == 1


def test_no_more_than_three_absorb_together():
    """Four that write 0.15 each of a projection of 1 are 0.45 by three, which is enough; of 1.2 it is not."""
    rows = F.normalize(torch.tensor([[0.6, *[3.0 * (i == j) for i in range(5)]] for j in range(5)]), dim=1)
    up, index, value = torch.eye(6)[0], torch.tensor([[1, 2, 3, 4]]), torch.full((1, 4), 0.15) / rows[0, 0]
    assert absorption(index, value, rows, up, torch.tensor([1.0]), (0,)).fraction_R[0] == 1
    assert absorption(index, value, rows, up, torch.tensor([1.2]), (0,)).fraction_R[0] == 0


# probes


def test_a_logistic_probe_is_the_minimum_of_its_loss():
    """The gradient by hand is 0 there; with weights that make both classes count the same."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 4, generator=draw), torch.rand(300, 2, generator=draw) < torch.tensor([0.5, 0.1])
    found = logistic(x.double(), y, l2=0.01)
    error = torch.sigmoid(x.double() @ found.W_CD.T + found.b_C) - y.double()
    weight = torch.where(y, 0.5 / y.double().mean(0), 0.5 / (1 - y.double().mean(0)))
    slope = (weight * error).T @ x.double() / 300 + 0.01 * found.W_CD
    assert slope.abs().max() < 1e-4 and (weight * error).mean(0).abs().max() < 1e-4


def test_probes_of_several_properties_do_not_mix():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(1)).double()
    y = x > 0
    both, alone = logistic(x, y, 0.1), logistic(x, y[:, :1], 0.1)
    torch.testing.assert_close(both.W_CD[:1], alone.W_CD, atol=1e-3, rtol=1e-3)
    assert (both.says(x) == y).double().mean() > 0.95


def test_the_latents_that_speak_for_a_property_come_first_and_the_others_not_at_all():
    draw = np.random.default_rng(0)
    y = torch.tensor(draw.random(2000) < 0.2)
    fires = [
        np.where(y, draw.random(2000) < 0.9, draw.random(2000) < 0.01),  # the best
        np.where(y, draw.random(2000) < 0.5, draw.random(2000) < 0.05),
        draw.random(2000) < 0.3,  # knows nothing of it
        np.where(y, 0, draw.random(2000) < 0.5),  # fires where it is absent
    ]
    x = torch.tensor(np.stack(fires, 1) * np.array([0.01, 3, 1, 1]), dtype=torch.float32)  # units do not matter
    assert ranked(x, y).tolist()[:2] == [0, 1] and 3 not in ranked(x, y).tolist()
    index = torch.arange(4).expand(2000, 4)
    assert candidates(index, x, y, 6, 4).tolist()[:2] == [0, 1] and 3 not in candidates(index, x, y, 6, 4).tolist()


def test_columns_of_some_latents_are_dense_and_padding_adds_nothing():
    index, value = torch.tensor([[5, 2, 2], [0, 5, 1]]), torch.tensor([[3.0, 1.0, 0.0], [4.0, 2.0, 1.0]])
    assert columns(index, value, torch.tensor([2, 5]), 6).tolist() == [[1, 3], [0, 2]]


def test_f1_by_hand():
    assert f1(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])) == 0.5
    assert f1(torch.tensor([False]), torch.tensor([False])) == 0


def test_a_property_that_two_latents_share_is_split_and_one_is_not():
    draw = np.random.default_rng(1)
    y = torch.tensor(draw.random(2000) < 0.3)
    first = y & torch.tensor(draw.random(2000) < 0.5)
    halves = torch.stack([first, y & ~first], 1).float()
    whole = torch.stack([y, torch.tensor(draw.random(2000) < 0.3)], 1).float()
    for x, n_main in ((halves, 2), (whole, 1)):
        found = sparse((x[:1000], y[:1000]), (x[1000:], y[1000:]), np.array([7, 9]), 0.03)
        assert found.n_main == n_main and found.main == (7, 9)[:n_main] and found.f1_K[n_main - 1] == 1


# the whole task, on a planted dictionary


WORDS = [f" {letter}{tail}" for letter in "abcde" for tail in "xyzuvwrstp"]
D = 96


def planted(absorbed: list[str], n: int, seed: int, both: float = 0.0) -> Tokens:
    """Tokens whose activation is a direction of their letter plus one of their own. Latents 0 to 4 are the letters; those of
    absorbed words, from 5 on, hold their letter's direction too, and the letter's own is silent (``both``: fires with that
    value) there; those of all others, from 55 on, only their own."""
    draw = np.random.default_rng(seed)
    letter_D, own_D = directions()
    token = draw.integers(0, len(WORDS), n)
    index, value = np.zeros((n, 2), int), np.ones((n, 2))
    x = 0.01 * draw.standard_normal((n, D))
    for row, one in enumerate(token):
        letter = "abcde".index(WORDS[one][1])
        x[row] += letter_D[letter] + own_D[one]
        gone = WORDS[one] in absorbed
        index[row] = [letter, 5 + one if gone else 55 + one]
        value[row] = [both if gone else 1, 1]
    latents = Latents(torch.tensor(index), torch.tensor(value, dtype=torch.float32))
    return Tokens(torch.tensor(x, dtype=torch.float32), latents, torch.tensor(token))


def directions() -> tuple[np.ndarray, np.ndarray]:
    base = np.linalg.qr(np.random.default_rng(9).standard_normal((D, 5 + len(WORDS))))[0].T
    return base[:5], base[5:]


def dictionary(weight: float = 1.0) -> torch.Tensor:
    letter_D, own_D = directions()
    of = ["abcde".index(word[1]) for word in WORDS]
    return torch.tensor(np.concatenate([letter_D, own_D + weight * letter_D[of], own_D]), dtype=torch.float32)


def test_nothing_is_absorbed_where_every_letter_has_its_latent():
    found = studied(planted([], 3000, 0), planted([], 1500, 1), dictionary(), WORDS)
    assert [row["letter"] for row in found["letters"]] == list("abcde") and found["n_letters"] == 5
    for place, row in enumerate(found["letters"]):
        assert row["probe_f1"] > 0.99 and row["latents"][0]["latent"] == place and row["n_main"] == 1
        assert row["latents"][0]["cosine"] > 0.6 and row["absorbers"] == []
    assert found["full_rate"] == found["mean_fraction"] == 0 and found["sparse_f1"] > 0.99


def test_planted_absorption_is_found_on_the_planted_tokens_and_nowhere_else():
    """One word in ten of a and of b has a latent that takes the letter over; F1 loses too little for a split."""
    gone = [" ax", " by"]
    test = planted(gone, 4000, 1)
    found = studied(planted(gone, 4000, 0), test, dictionary(), WORDS, Criteria(gain=0.08))
    at = {row["letter"]: row for row in found["letters"]}
    for word in gone:
        row = at[word[1]]
        n = int((test.token_R == WORDS.index(word)).sum())
        assert row["n_right"] == row["n_test"] and row["full_rate"] == pytest.approx(n / row["n_test"])
        assert row["mean_fraction"] == pytest.approx(row["full_rate"])
        (absorber,) = row["absorbers"]
        assert (absorber["latent"], absorber["n"], absorber["tokens"]) == (5 + WORDS.index(word), n, [(word, n)])
    assert all(at[letter]["full_rate"] == 0 for letter in "cde")
    assert found["full_rate"] == pytest.approx((at["a"]["full_rate"] + at["b"]["full_rate"]) / 5)


def test_a_latent_that_adds_enough_to_f1_is_a_main_one_and_absorbs_nothing():
    gone = [" ax", " ay", " az"]
    found = studied(planted(gone, 4000, 0), planted(gone, 2000, 1), dictionary(), WORDS)
    first = found["letters"][0]
    assert first["n_main"] == 4 and {row["latent"] for row in first["latents"][:4]} == {0, 5, 6, 7}
    assert first["full_rate"] == 0 and found["n_main"] == (4 + 4) / 5


def test_a_main_latent_that_fires_more_weakly_is_absorbed_in_part_only():
    """It writes 0.3 and the other the rest, so 0.7 of it; probe and directions are not quite the same."""
    gone = [" ax"]
    found = studied(planted(gone, 4000, 0, 0.3), planted(gone, 4000, 1, 0.3), dictionary(0.7), WORDS)
    row = found["letters"][0]
    assert row["n_main"] == 1 and row["full_rate"] == 0
    share = int((planted(gone, 4000, 1, 0.3).token_R == 0).sum()) / row["n_test"]
    assert row["mean_fraction"] == pytest.approx(0.7 * share, rel=0.15)


def test_a_letter_with_too_few_tokens_is_named_and_not_counted():
    some = planted([], 3000, 0)
    keep = (some.token_R >= 10) | (torch.arange(3000) < 20)
    few = Tokens(some.x_RD[keep], Latents(*(part[keep] for part in some.latents)), some.token_R[keep])
    found = studied(few, planted([], 1000, 1), dictionary(), WORDS)
    assert [row["letter"] for row in found["left_out"]] == ["a"] and found["n_letters"] == 4


def test_letters_without_a_direction_are_left_out_of_the_means():
    train, test = planted([], 1000, 0), planted([], 1000, 1)
    noise = [t._replace(x_RD=torch.randn(1000, D, generator=torch.Generator().manual_seed(i))) for i, t in enumerate((train, test))]
    found = studied(*noise, dictionary(), WORDS)
    assert found["n_letters"] == 0 and found["full_rate"] is None and len(found["letters"]) == 5


def test_only_tokens_that_begin_a_word_have_a_first_letter():
    texts = [" the", "the", " The", " x", " 3d", " don't", " été", "\n", " ", " zoo", "\u2581a", " a b"]
    found = first_letters(texts)
    assert [LETTERS[i] if i >= 0 else "" for i in found] == ["t", "", "t", "x", "", "", "", "", "", "z", "", ""]
