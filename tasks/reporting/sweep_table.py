"""A sweep's rows as tables: for the page, for a terminal, for Markdown. A row is what ``tasks.compare.rows`` makes."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

Row = dict[str, Any]

_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control, format (directions, joiners, tags), surrogates, separators of lines and paragraphs."""


@dataclass(frozen=True)
class Column:
    """One column of the table of jobs."""

    name: str
    """The row's own name for it; a setting's is dotted."""

    title: str
    get: Callable[[Row], Any]
    form: str | None = None
    """Format of its numbers; None is a column of settings or names."""

    better: Literal["low", "high"] | None = None
    right: bool = False
    """Numbers are set flush right."""

    detail: bool = False
    """Shown on the page only, where there is room."""

    about: str = ""

    def text(self, row: Row) -> str:
        """The cell; nothing was measured, or not set, is empty."""
        value = self.get(row)
        if value is None and (self.form or self.name not in row["settings"]):
            return ""
        return format(value, self.form) if self.form else spelled(value)

    def best(self, rows: Sequence[Row]) -> str | None:
        """The text of the best cell; none where all are equal, for then nothing is better than anything."""
        found = {self.get(row): self.text(row) for row in rows if self.get(row) is not None}
        if not self.better or len(set(found.values())) < 2:
            return None
        return found[min(found) if self.better == "low" else max(found)]


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that have anything to say about these rows."""
    found = [Column("hookpoint", "hookpoint", lambda row: row["hookpoint"])]
    names = settings(rows)
    for name, title in short(names).items():
        values = [row["settings"].get(name) for row in rows]
        get = partial(_setting, name)
        found.append(Column(name, title, get, right=numeric(values), about=visible(name)))
    measured = [
        Column("n_latents", "n_latents", lambda row: row["n_latents"], ","),
        Column("l0", "L0", lambda row: row["l0"], ".1f", about="active latents a token"),
        Column("fvu", "FVU", lambda row: row["fvu"], ".4f", "low", about="fraction of variance unexplained; lower is better"),
        Column("ce_loss_recovered", "CE loss recovered", lambda row: row["ce_loss_recovered"], ".4f", "high",
               about="(CE_zero - CE_sae) / (CE_zero - CE_clean); higher is better"),
        Column("dead_fraction", "dead fraction", lambda row: row["dead_fraction"], ".2%", "low",
               about="latents that fired on no evaluated token; lower is better"),
    ]  # fmt: skip
    kinds = dict.fromkeys(kind for row in rows for kind in row["scores"])
    for kind in kinds:
        measured.append(
            Column(f"score_{kind}", f"{visible(kind)} score", _score(kind, "mean"), ".3f", "high",
                   about="mean over explained latents; higher is better")
        )  # fmt: skip
    for kind in kinds:
        measured.append(
            Column(f"score_{kind}_control", f"{visible(kind)} control", _score(kind, "control_mean"), ".3f", detail=True,
                   about="the same windows judged by another latent's explanation")
        )  # fmt: skip
    return found + [replace(column, right=True) for column in measured if any(column.get(row) is not None for row in rows)]


def _setting(name: str, row: Row) -> Any:
    return row["settings"].get(name)


def numeric(values: Sequence[Any]) -> bool:
    """Whether all are numbers."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _score(kind: str, name: str) -> Callable[[Row], Any]:
    return lambda row: row["scores"].get(kind, {}).get(name)


def settings(rows: Sequence[Row]) -> list[str]:
    """Names of the settings, sorted: a key does not know in which order they were typed, so neither does the page."""
    return sorted({name for row in rows for name in row["settings"]})


def short(names: Sequence[str]) -> dict[str, str]:
    """Dotted name to its last part, where that says which one is meant."""
    last = {name: name.rpartition(".")[2] for name in names}
    taken = [*last.values(), "hookpoint", "n_latents", "l0", "fvu"]
    return {name: visible(last[name] if taken.count(last[name]) == 1 else name) for name in names}


def label(row: Row, names: Sequence[str] | None = None) -> str:
    """What a job is called: its hookpoint and its settings."""
    titles = short(settings([row]) if names is None else names)
    said = [f"{title} {spelled(row['settings'][name])}" for name, title in titles.items() if name in row["settings"]]
    return ", ".join([visible(row["hookpoint"]), *said])


def spelled(value: Any) -> str:
    """A setting's value as a person would type it."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return visible(json.dumps(value, ensure_ascii=False, sort_keys=True))


def visible(text: str) -> str:
    """Control, direction-changing and unseen characters are shown, not obeyed."""
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in _UNSEEN else c for c in text)


def fronts(row: Row) -> str:
    """On which Pareto fronts a job is."""
    return ", ".join(name for name, on in (("FVU", row["pareto"]), ("CE", row["pareto_ce"])) if on)


def lines(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table for a terminal, in the order of the jobs."""
    shown = [column for column in columns(rows) if not column.detail]
    cells = [[column.text(row) for column in shown] + [fronts(row)] for row in rows]
    return [column.title for column in shown] + ["Pareto"], cells


def markdown(rows: Sequence[Row]) -> str:
    """A GitHub-flavoured table: the best value of a column is bold, the last column says which jobs are Pareto-optimal."""
    shown = [column for column in columns(rows) if not column.detail]
    best = [column.best(rows) for column in shown]
    header, cells = lines(rows)
    table = [[_escaped(title) for title in header], ["---:" if c.right else "---" for c in shown] + ["---"]]
    for row in cells:
        marked = [f"**{_escaped(t)}**" if t and t == b else _escaped(t) for t, b in zip(row, [*best, None], strict=True)]
        table.append(marked)
    return "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~$!#]|(?<!\w)_|_(?!\w))", r"\\\1", text)
