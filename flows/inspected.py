"""What ``OpenSAE.inspect`` gives: the same as tensors, tables, JSON and page."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import pa

if TYPE_CHECKING:
    from pyarrow import Table

    from tasks.inspection.seen import Figures, Inspection

_NESTED = ("latents", "promoted", "suppressed", "scores")


@dataclass(frozen=True)
class Inspected:
    """Prompts under an SAE. A notebook shows the page."""

    found: Inspection
    """Arrays by token: ``found.prompts[0].value_TK``; see ``tasks.inspection.seen``."""

    json: dict[str, Any]
    """All of it in plain data, as ``saint inspect --json`` prints it; see ``tasks.inspection.plain``."""

    @property
    def figures(self) -> Figures:
        """L0, FVU, losses of all prompts together."""
        return self.found.figures

    @property
    def tokens(self) -> Table:
        """One row per token of each prompt: L0, errors, losses."""
        return pa.Table.from_pylist([
            {"prompt": i, **{name: value for name, value in token.items() if name != "latents"}}
            for i, prompt in enumerate(self.json["prompts"]) for token in prompt["tokens"]
        ])  # fmt: skip

    @property
    def active(self) -> Table:
        """One row per active latent of each token: prompt, position, token, latent, value."""
        return pa.Table.from_pylist([
            {"prompt": i, "position": token["position"], "token": token["token"], **latent}
            for i, prompt in enumerate(self.json["prompts"]) for token in prompt["tokens"] for latent in token["latents"]
        ])  # fmt: skip

    @property
    def latents(self) -> Table:
        """One row per latent that is active on any prompt, or was asked for: sum, max, n_tokens, label, scores, tokens pushed."""
        return pa.Table.from_pylist([
            {name: value for name, value in row.items() if name not in _NESTED}
            | {name: row["scores"].get(name) for name in self.json["scorers"]}
            | {name: [token for token, _ in row.get(name, ())] for name in ("promoted", "suppressed")}
            for row in self.json["latents"]
        ])  # fmt: skip

    @property
    def page(self) -> str:
        """One HTML file that needs nothing else."""
        from tasks.reporting.inspection import page

        return page(self.json)

    def html(self, path: str | Path) -> Path:
        """Write the page; returns where."""
        where = Path(path).expanduser()
        where.write_text(self.page, "utf-8")
        return where

    def _repr_html_(self) -> str:
        # a frame of its own: the page's policy and scripts, and nothing of the notebook's within their reach
        frame = 'sandbox="allow-scripts" style="width:100%;height:640px;border:0"'
        return f'<iframe srcdoc="{html.escape(self.page)}" {frame}></iframe>'
