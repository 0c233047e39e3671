"""Pareto fronts of SAEs: what sparsity costs, in each of the two ways in which it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.reporting import sweep_plots
from tasks.reporting.sweep_table import Row, visible


class Metric(NamedTuple):
    """What an SAE at some L0 is good for."""

    name: str
    title: str
    mark: str
    """The row's own word on whether it is on the front."""

    better: str

    def front(self, members: Sequence[int], known: Sequence[Row]) -> list[int]:
        """Those of some rows that are on the front, by rising L0."""
        return sorted((i for i in members if known[i][self.mark]), key=lambda i: known[i]["l0"])

    def plot(
        self, known: Sequence[Row], groups: Sequence[int], n_groups: int, fronts: Sequence[Sequence[int]], by_size: bool = False,
        name: str = "", more: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """A point for each row, coloured by group; ``name`` makes it unique in the page, ``more`` goes before its caption."""
        from markupsafe import Markup

        against = "n_latents" if by_size else "L0, active latents a token"
        svg = sweep_plots.pareto(
            [(row["n_latents"] if by_size else row["l0"], row[self.name]) for row in known],
            [f"{row['job']}: L0 {row['l0']:.1f}, {self.title} {row[self.name]:.4f}" for row in known],
            groups,
            n_groups,
            fronts,
            (against, self.title),
            f"{self.title.replace(' ', '-')}-against-{'n_latents' if by_size else 'L0'}{name}",
            steps=not by_size,
        )
        what = "n_latents, since L0 is nearly the same in all jobs" if by_size else "L0; dashed is the Pareto front"
        what += "" if by_size or len(fronts) < 2 else " of each hookpoint"
        caption = f"{more}{self.title} ({self.better} is better) against {what}"
        return {"svg": Markup(svg), "caption": caption}  # made by us, texts escaped


METRICS = (
    Metric("fvu", "FVU", "pareto", "lower"),
    Metric("ce_loss_recovered", "CE loss recovered", "pareto_ce", "higher"),
)


def legend(names: Sequence[str]) -> list[dict[str, Any]]:
    """The mark of each group, and its name."""
    from markupsafe import Markup

    n = len(names)
    return [{"mark": Markup(sweep_plots.swatch(i, n)), "name": visible(name)} for i, name in enumerate(names)]
