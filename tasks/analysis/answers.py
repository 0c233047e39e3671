"""What the single answers of a judge say: pooled rates, and curves over the strength and the sort of the windows.

Tables are those of ``answers.parquet``, without the window's id; there may be millions of rows, so nothing here goes through
them one by one in Python.
"""

from __future__ import annotations

from typing import Any

from tasks.analysis.estimates import NOTHING, Estimate, around, mean, share
from tasks.auroc import auroc
from tasks.lazy import np, pa, pc

COLUMNS = ["latent", "truth", "predicted", "quantile", "probability", "group", "control"]


def rates(answers: pa.Table) -> dict[str, Any]:
    """Right answers to all windows together: true-positive and true-negative rate, and their mean.

    Windows without an answer are counted, and count neither as right nor as wrong.
    """
    known = answers.filter(pc.is_valid(answers["predicted"]))
    found: dict[str, Any] = {"n": known.num_rows, "n_missing": answers.num_rows - known.num_rows}
    latent = known["latent"].to_numpy()
    truth = known["truth"].to_numpy(zero_copy_only=False).astype(bool)
    right = known["predicted"].to_numpy(zero_copy_only=False).astype(bool) == truth
    _, owner = np.unique(latent, return_inverse=True)
    n_latents, influence = int(owner.max()) + 1 if len(owner) else 0, 0.0
    values: list[float | None] = []
    for name, which in (("true_positive_rate", truth), ("true_negative_rate", ~truth)):
        n = int(which.sum())
        found[f"n_{name.split('_')[1]}"] = n
        rate = float(right[which].mean()) if n else None
        if rate is not None:
            # How each latent moves the rate: (its right answers - rate * its answers) / all answers.
            of_latent = np.bincount(owner[which], right[which] - rate, n_latents) / n
            found[name] = around(rate, of_latent[np.bincount(owner[which], minlength=n_latents) > 0].tolist()).within((0, 1)).json
            influence = influence + of_latent / 2
        else:
            found[name] = NOTHING.json
        values.append(rate)
    both = None not in values
    balanced = around(sum(values) / 2, influence.tolist()).within((0, 1)) if both else NOTHING  # type: ignore[arg-type, union-attr]
    return {**found, "balanced_accuracy": balanced.json}


def pooled(metric: str, values: list[float], n: list[int], answers: pa.Table, of_rates: dict[str, Any]) -> Estimate:
    """A scorer's value over all judged windows together: each window, and not each latent, counts once.

    Of metrics that windows have no part of by themselves (correlations), the mean weighted by windows.
    """
    if metric == "balanced accuracy":
        return Estimate(**of_rates["balanced_accuracy"])
    if metric == "AUROC":
        rated = answers.filter(pc.is_finite(answers["probability"]))
        truth = rated["truth"].to_numpy(zero_copy_only=False).astype(bool)
        number = rated["probability"].to_numpy()
        area = auroc(number[truth], number[~truth])
        return Estimate(area and area.value, None, None, len(pc.unique(rated["latent"])))
    return mean(values, n)


def curve(answers: pa.Table, truth: bool) -> list[dict[str, Any]]:
    """Per quantile of activating windows (0 the strongest), or per sort of non-activating ones: the share told right, with
    its Wilson interval, and the mean number that the judge gave."""
    by = "quantile" if truth else "group"
    rows = answers.filter(pc.equal(answers["truth"], truth))
    if rows.num_rows == 0:
        return []
    right = pc.cast(pc.equal(rows["predicted"], truth), pa.int64())
    table = pa.table({"by": rows[by], "right": right, "probability": rows["probability"]})
    grouped = table.group_by("by").aggregate(
        [("right", "sum"), ("right", "count"), ([], "count_all"), ("probability", "mean")]
    )
    found = []
    for row in sorted(grouped.to_pylist(), key=lambda row: row["by"]):
        n, n_right = row["right_count"], row["right_sum"] or 0
        told = share(n_right, n)
        found.append({
            by: row["by"], "n": n, "n_right": n_right, "share": told.value, "low": told.low, "high": told.high,
            "n_missing": row["count_all"] - n, "probability": row["probability_mean"],
        })  # fmt: skip
    return found
