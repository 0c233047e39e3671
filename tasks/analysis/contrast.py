"""Explainer against explainer, judge against judge: over rows of tables, of latents that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.analysis.agreement import correlations, kappa
from tasks.analysis.estimates import mean, paired, share
from tasks.lazy import np, pc

THIRDS = ("rarest third", "middle third", "most frequent third")

N_LARGEST = 5
"""Latents listed on which two differ most, each way."""


def labels(ours: Mapping[int, Any], theirs: Mapping[int, Any]) -> dict[str, Any]:
    """Who explained which of the latents that both were asked about, and how often in the very same words.

    Arguments are ``tasks.explainers.base.Explanation`` by latent.
    """
    common = ours.keys() & theirs.keys()
    first = {latent for latent in common if ours[latent].status == "ok"}
    second = {latent for latent in common if theirs[latent].status == "ok"}
    both = first & second
    equal = sum(_words(ours[latent].label) == _words(theirs[latent].label) for latent in both)
    return {
        "n": len(common), "both": len(both), "only_first": len(first - second), "only_second": len(second - first),
        "neither": len(common - first - second), "equal": equal, "share_equal": share(equal, len(both)).json,
    }  # fmt: skip


def _words(label: str) -> str:
    return " ".join(label.casefold().split()).rstrip(".")


def scores(
    ours: Mapping[int, float], theirs: Mapping[int, float], density: Mapping[int, float] | None = None
) -> dict[str, Any]:
    """Two scores of the same latents: means, the difference latent by latent, how they go together, and who wins where.

    ``density`` splits the latents into thirds by how often they fire.
    """
    common = sorted(ours.keys() & theirs.keys())
    a, b = [ours[latent] for latent in common], [theirs[latent] for latent in common]
    found: dict[str, Any] = {
        "n": len(common), "first": mean(a).json, "second": mean(b).json, "difference": paired(a, b),
        **{name: value for name, value in correlations(a, b).items() if name != "n"},
        "thirds": [], "largest": [],
    }  # fmt: skip
    if density is not None and len(common) >= 3:
        order = sorted(common, key=lambda latent: (density.get(latent, 0.0), latent))
        parts = [order[len(order) * i // 3 : len(order) * (i + 1) // 3] for i in range(3)]
        for name, part in zip(THIRDS, parts, strict=True):
            bounds = [density.get(part[0], 0.0), density.get(part[-1], 0.0)]
            difference = paired([ours[i] for i in part], [theirs[i] for i in part])
            found["thirds"].append({"name": name, "density": bounds, "difference": difference})
    gain = {latent: ours[latent] - theirs[latent] for latent in common}
    best = sorted((i for i in common if gain[i] > 0), key=lambda i: (-gain[i], i))[:N_LARGEST]
    worst = sorted((i for i in common if gain[i] < 0), key=lambda i: (gain[i], i))[:N_LARGEST]
    found["largest"] = [{"latent": latent, "first": ours[latent], "second": theirs[latent]} for latent in [*best, *worst]]
    return found


def judgements(ours: Any, theirs: Any) -> dict[str, Any]:
    """Two judges' answers to the same windows and explanations: Cohen's kappa, the table behind it, and who was right.

    Arguments are tables with columns of ``answers.parquet``, one row to a latent, window and explanation. A window of which
    another thing is true was asked about in another way, and is another window.
    """
    item = ["latent", "window_id", "control", "truth"]
    a, b = (table.select([*item, "predicted"]).filter(pc.is_valid(table["predicted"])) for table in (ours, theirs))
    both = a.join(b, item, join_type="inner", right_suffix="_second")
    both = both.filter(pc.equal(both["control"], False))

    def column(name: str) -> np.ndarray:
        return both[name].to_numpy(zero_copy_only=False).astype(bool)

    first, second, truth = column("predicted"), column("predicted_second"), column("truth")
    yes, no = first & second, ~first & ~second
    table = {"both_yes": yes, "only_first": first & ~second, "only_second": ~first & second, "both_no": no}
    apart = first != second
    return {
        **kappa(first, second),
        "table": {name: int(where.sum()) for name, where in table.items()},
        "apart": int(apart.sum()),
        "first_right": int((apart & (first == truth)).sum()),
    }


def matrix(pairs: Sequence[Mapping[str, Any]], names: Sequence[str], key: str) -> list[list[float | None]]:
    """A symmetric table of a figure of pairs ``{first, second, <key>: {value}}``; 1 on its diagonal."""
    at = {(p["first"], p["second"]): p[key]["value"] for p in pairs}
    return [[1.0 if a == b else at.get((a, b), at.get((b, a))) for b in names] for a in names]
