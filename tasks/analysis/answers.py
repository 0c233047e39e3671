"""What the single answers of a judge say: pooled rates, and curves over the strength and the sort of the windows.

Tables are those of ``answers.parquet``, without the window's id; there may be millions of rows, so nothing here goes through
them one by one in Python.
"""

from __future__ import annotations

from typing import Any

from tasks.analysis.estimates import NOTHING, Estimate, around, mean
from tasks.auroc import auroc
from tasks.lazy import np, pa, pc

COLUMNS = ["latent", "truth", "predicted", "quantile", "probability", "group", "status", "control"]

_RATES = {"balanced accuracy": "balanced_accuracy", "recall": "true_positive_rate"}
"""Metrics of which windows have a part, by the name of their pooled rate."""


def rates(answers: pa.Table) -> dict[str, Any]:
    """Right answers to all windows together: true-positive and true-negative rate, and their mean.

    Windows without an answer are counted, and count neither as right nor as wrong.
    """
    known = answers.filter(pc.is_valid(answers["predicted"]))
    found: dict[str, Any] = {"n": known.num_rows, "n_missing": answers.num_rows - known.num_rows}
    owner, right, truth = _owner(known), _right(known), _booleans(known, "truth")
    influence, told = 0.0, []
    for name, which in (("true_positive_rate", truth), ("true_negative_rate", ~truth)):
        estimate, moved = _share(owner, right, which)
        found[f"n_{name.split('_')[1]}"], found[name] = int(which.sum()), estimate.json
        influence = influence + moved / 2
        told.append(estimate.value)
    both = None not in told
    balanced = around(sum(told) / 2, influence.tolist()).within((0, 1)) if both else NOTHING  # type: ignore[arg-type, union-attr]
    return {**found, "balanced_accuracy": balanced.json}


def _share(owner: np.ndarray, right: np.ndarray, which: np.ndarray) -> tuple[Estimate, np.ndarray]:
    """The share of right answers among some, and how far each latent, by its place, moves it: (its right answers less the
    share of its answers) over all answers."""
    n_of = np.bincount(owner, which, len(owner) and int(owner.max()) + 1)
    n = int(which.sum())
    if n == 0:
        return NOTHING, n_of
    value = float(right[which].mean())
    influence = np.bincount(owner, which * (right - value), len(n_of)) / n
    return around(value, influence[n_of > 0].tolist()).within((0, 1)), influence


def _owner(answers: pa.Table) -> np.ndarray:
    """The place of each answer's latent among all of them."""
    return np.unique(answers["latent"].to_numpy(), return_inverse=True)[1]


def _right(answers: pa.Table) -> np.ndarray:
    return _booleans(answers, "predicted") == _booleans(answers, "truth")


def _booleans(answers: pa.Table, name: str) -> np.ndarray:
    return answers[name].to_numpy(zero_copy_only=False).astype(bool)


def statuses(answers: pa.Table) -> dict[str, int]:
    """How many there are (``ok``), and how many are missing, by why."""
    return {row["values"]: row["counts"] for row in pc.value_counts(answers["status"]).to_pylist()}


def pooled(metric: str, values: list[float], n: list[int], answers: pa.Table, of_rates: dict[str, Any]) -> Estimate:
    """A scorer's value over all judged windows together: each window, and not each latent, counts once.

    Of metrics that windows have no part of by themselves (correlations), the mean weighted by windows.
    """
    if metric in _RATES:
        return Estimate(**of_rates[_RATES[metric]])
    if metric == "AUROC":
        rated = answers.filter(pc.is_finite(answers["probability"]))
        truth, number = _booleans(rated, "truth"), rated["probability"].to_numpy()
        area = auroc(number[truth], number[~truth])
        return Estimate(area and area.value, None, None, len(pc.unique(rated["latent"])))
    return mean(values, n)


def curve(answers: pa.Table, truth: bool) -> list[dict[str, Any]]:
    """Per quantile of activating windows (0 the strongest), or per sort of non-activating ones: the share told right, with
    an interval by the spread between latents, and the mean number that the judge gave."""
    by = "quantile" if truth else "group"
    rows = answers.filter(pc.equal(answers["truth"], truth))
    found = []
    for value in sorted(pc.unique(rows[by]).to_pylist()):
        part = rows.filter(pc.equal(rows[by], value))
        known = part.filter(pc.is_valid(part["predicted"]))
        right = _right(known)
        told, _ = _share(_owner(known), right, np.ones_like(right))
        found.append({
            by: value, "n": known.num_rows, "n_right": int(right.sum()), "share": told.value, "low": told.low, "high": told.high,
            "n_missing": part.num_rows - known.num_rows, "probability": pc.mean(part["probability"]).as_py(),
        })  # fmt: skip
    return found
