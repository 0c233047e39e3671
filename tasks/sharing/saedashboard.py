"""SAEDashboard's data of latents: the JSON that ``SaeVisData.save_json`` writes and ``SaeVisData.load_json`` reads.

Source: sae-dashboard 0.8.0 (PyPI, MIT), ``sae_vis_data.py``, ``feature_data.py``, ``components.py``, ``utils_fns.py``. Its own files
hold what dataclasses_json makes of ``_SaeVisData``: plain JSON, no pickle. Tokens are ids of the model's tokenizer there, and the
titles of groups of sequences are read again (``TOP ACTIVATIONS<br>MAX = ..``, ``INTERVAL a - b<br>CONTAINS ..%``), so they have
its form. Correlated neurons, logit histograms and quantiles over all tokens are not in a store: their fields are empty, and its
page leaves them out; its prompt-centric view, which ranks by such quantiles, is not served.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tasks.sharing.gathered import Gathered, Shown, short
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.browsing.index import Index

_N_TICKS = 5


class Ids:
    """Token ids: of windows as they were mined; of promoted tokens by their text, the lowest id where several have one text."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._by_text: dict[str, int] = {}
        for id, text in enumerate(index.texts.tolist()):
            self._by_text.setdefault(text, id)

    def windows(self, latents: Sequence[int]) -> dict[tuple[int, str], list[int]]:
        """By latent and window."""
        table = self._index.windows.of(latents, ["window_id", "tokens"])
        return {(row["latent"], row["window_id"]): row["tokens"] for row in table.to_pylist()}

    def of(self, tokens: Sequence[tuple[str, float]]) -> list[int]:
        """Of promoted tokens. Raises ``SpecError`` for one that is none of the model's."""
        if odd := [text for text, _ in tokens if text not in self._by_text]:
            raise SpecError(
                f"{self._index.shelf.mine.artifact}, but it lists a token {odd[0]!r} that its model has not; saint verify tells of damage"
            )
        return [self._by_text[text] for text, _ in tokens]


def vis_data(batch: Sequence[Gathered], ids: Ids) -> dict[str, Any]:
    """What ``_SaeVisData.to_dict`` gives for some latents."""
    windows = ids.windows([it.latent for it in batch])
    return {
        "feature_data_dict": {str(it.latent): _latent(it, ids, windows) for it in batch},
        "feature_stats": {
            "max": [short(it.found.max_value) for it in batch],
            "frac_nonzero": [it.found.density for it in batch],
            "skew": [], "kurtosis": [], "quantile_data": [], "quantiles": [], "ranges_and_precisions": [],
        },
    }  # fmt: skip


def _latent(it: Gathered, ids: Ids, windows: dict[tuple[int, str], list[int]]) -> dict[str, Any]:
    found = it.found
    groups = groupby(it.shown, key=lambda s: (s.low, s.high, s.share))
    step = found.max_value / _N_TICKS
    return {
        "feature_tables_data": {},
        "acts_histogram_data": {
            "bar_heights": [n for _, n in it.bars], "bar_values": [v for v, _ in it.bars],
            "tick_vals": [short(step * i) for i in range(_N_TICKS + 1)] if it.bars else [],
            "title": f"ACTIVATIONS<br>DENSITY = {100 * found.density:.3f}%",
        },
        "logits_table_data": {
            "bottom_token_ids": ids.of(found.suppressed), "bottom_logits": [short(v) for _, v in found.suppressed],
            "top_token_ids": ids.of(found.promoted), "top_logits": [short(v) for _, v in found.promoted],
        },
        "logits_histogram_data": {"bar_heights": [], "bar_values": [], "tick_vals": [], "title": None},
        "sequence_data": {
            "seq_group_data": [
                {"title": _title(*bounds), "seq_data": [_sequence(s, windows[it.latent, s.window.window_id]) for s in group]}
                for bounds, group in groups
            ]
        },
        "prompt_data": {},
        "dfa_data": {},
        "decoder_weights_data": None,
    }  # fmt: skip


def _title(low: float, high: float, share: float) -> str:
    if share < 0:
        return f"TOP ACTIVATIONS<br>MAX = {high:.3f}"
    return f"INTERVAL {low:.3f} - {high:.3f}<br>CONTAINS {share:.3%}"


def _sequence(shown: Shown, token_ids: list[int]) -> dict[str, Any]:
    """A window. ``qualifying_token_index`` counts from 1, as its converter takes one off."""
    none = [[] for _ in token_ids]  # type: ignore[var-annotated]
    return {
        "original_index": 0, "qualifying_token_index": shown.window.peak + 1, "token_ids": token_ids,
        "feat_acts": [short(v) for v in shown.window.values], "loss_contribution": [0.0] * len(token_ids),
        "token_logits": [0.0] * len(token_ids), "top_token_ids": none, "top_logits": none, "bottom_token_ids": none, "bottom_logits": none,
    }  # fmt: skip
