"""First letters: which latents stand for them, and where others stand in for those. Shapes: R tokens, D width, K active
latents, N latents, V vocabulary, C letters.

The task of arXiv 2409.14507, on the tokens of running text that begin a word: a probe of each letter on the activations,
k-sparse probes on latents that find the main ones, and the absorption of tokens on which the probe is right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.dictionary.absorption import absorption
from tasks.dictionary.probing import candidates, columns, f1, logistic, ranked, sparse
from tasks.lazy import np, torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tasks.saes.base import Latents

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BEGINS = re.compile(r"\s([A-Za-z])[A-Za-z]*")
_CANDIDATES = 256
"""Latents of a letter that its sparse probe chooses from."""

_SHOWN = 8


class Tokens(NamedTuple):
    """Some tokens that begin a word, as the model and the SAE see them."""

    x_RD: Tensor
    """Activations as the SAE reads them: normalised, float32."""

    latents: Latents
    token_R: Tensor
    """int64: token id."""


class Criteria(NamedTuple):
    """What counts."""

    most: int = 10
    """Latents of the largest sparse probe."""

    gain: float = 0.03
    """F1 that a further latent must add to be one of the main ones (arXiv 2409.14507: tau_fs)."""

    min_f1: float = 0.6
    """Of the probe on activations, below which a letter is left out of the means: there is no direction to speak of."""

    min_tokens: int = 10
    """Tokens of a letter, of train and of test each, without which it is not looked at."""


def first_letters(texts: Sequence[str]) -> np.ndarray:
    """int64 (V,): place in the alphabet of the first letter of each token that begins a word; -1 for all others."""
    found = np.full(len(texts), -1, np.int64)
    for token, text in enumerate(texts):
        if begins := _BEGINS.fullmatch(text):
            found[token] = LETTERS.index(begins[1].lower())
    return found


def studied(
    train: Tokens,
    test: Tokens,
    W_dec_ND: Tensor,
    texts: Sequence[str],
    criteria: Criteria = Criteria(),  # noqa: B008  a constant
    step: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """JSON: every letter's probe, main latents and absorption, and the means over letters. ``step`` is told of letters done."""
    letter_V = torch.as_tensor(first_letters(texts), device=train.token_R.device)
    of_train, of_test = letter_V[train.token_R], letter_V[test.token_R]
    known, left_out = [], []
    for place, letter in enumerate(LETTERS):
        n = int((of_train == place).sum()), int((of_test == place).sum())
        if min(n) >= criteria.min_tokens:
            known.append(place)
        elif max(n):
            left_out.append({"letter": letter, "n_train": n[0], "n_test": n[1]})
    found: dict[str, Any] = {"n_train": len(of_train), "n_test": len(of_test), "left_out": left_out, "letters": []}
    if known:
        label_RC = torch.stack([of_train == place for place in known], 1)
        probes = logistic(train.x_RD, label_RC)
        says_RC = probes.says(test.x_RD)
        for c, place in enumerate(known):
            row = _letter(train, test, label_RC[:, c], of_test == place, says_RC[:, c], probes.W_CD[c], W_dec_ND, texts, criteria)
            found["letters"].append({"letter": LETTERS[place], **row})
            step(1)
    return {**found, **_means(found["letters"], criteria)}


def _letter(
    train: Tokens, test: Tokens, train_R: Tensor, test_R: Tensor, says_R: Tensor, probe_D: Tensor, W_dec_ND: Tensor,
    texts: Sequence[str], criteria: Criteria,
) -> dict[str, Any]:  # fmt: skip
    n = len(W_dec_ND)
    unit_D = probe_D / probe_D.norm().clamp_min(1e-12)
    some = candidates(*train.latents, train_R, n, _CANDIDATES)
    order = some[ranked(columns(*train.latents, some, n), train_R)][: criteria.most] if len(some) else some
    row: dict[str, Any] = {
        "n_train": int(train_R.sum()), "n_test": int(test_R.sum()), "probe_f1": f1(says_R, test_R),
        "n_right": int((says_R & test_R).sum()),
    }  # fmt: skip
    if not len(order):
        return {**row, "latents": [], "sparse_f1": [], "n_main": 0, "full_rate": None, "mean_fraction": None, "absorbers": []}
    told = sparse(
        (columns(*train.latents, order, n), train_R), (columns(*test.latents, order, n), test_R), order.cpu().numpy(),
        criteria.gain,
    )  # fmt: skip
    cosine = lambda latent: float(W_dec_ND[latent].float() @ unit_D / W_dec_ND[latent].float().norm().clamp_min(1e-12))  # noqa: E731
    right = torch.nonzero(says_R & test_R)[:, 0]
    index, value = (part[right] for part in test.latents)
    became = absorption(index, value, W_dec_ND, probe_D, test.x_RD[right] @ unit_D, told.main)
    return {
        **row,
        "latents": [{"latent": latent, "cosine": cosine(latent)} for latent in told.latents],
        "sparse_f1": list(told.f1_K),
        "n_main": told.n_main,
        "full_rate": became.full_rate if len(right) else None,
        "mean_fraction": became.mean_fraction if len(right) else None,
        "absorbers": _absorbers(became, test.token_R[right], texts, cosine),
    }


def _absorbers(became: Any, token_R: Tensor, texts: Sequence[str], cosine: Callable[[int], float]) -> list[dict[str, Any]]:
    """The latents that absorb most tokens in full, with the tokens that they absorb."""
    tokens: dict[int, Counter[str]] = {}
    for latent, token in zip(became.absorber_R[became.full_R].tolist(), token_R[became.full_R].tolist(), strict=True):
        tokens.setdefault(latent, Counter())[texts[token]] += 1
    order = sorted(tokens, key=lambda latent: (-tokens[latent].total(), latent))
    return [
        {"latent": latent, "n": tokens[latent].total(), "cosine": cosine(latent), "tokens": tokens[latent].most_common(_SHOWN)}
        for latent in order[:_SHOWN]
    ]


def _means(letters: Sequence[dict[str, Any]], criteria: Criteria) -> dict[str, Any]:
    """Over letters that have a direction, each counted once."""
    good = [row for row in letters if row["probe_f1"] >= criteria.min_f1 and row["full_rate"] is not None]

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "n_letters": len(good),
        "probe_f1": mean([row["probe_f1"] for row in good]),
        "sparse_f1": mean([row["sparse_f1"][0] for row in good]),
        "full_rate": mean([row["full_rate"] for row in good]),
        "mean_fraction": mean([row["mean_fraction"] for row in good]),
        "n_main": mean([row["n_main"] for row in good]),
    }
