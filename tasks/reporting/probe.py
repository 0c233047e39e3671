"""The page of probes of first letters, and of where they are absorbed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.reporting import survey_plots as plots
from tasks.reporting.pages import rendered
from tasks.reporting.sweep_table import visible

Found = Mapping[str, Any]
HEADER = ("letter", "tokens", "probe F1", "best latent F1", "main latents", "absorbed", "fraction")
"""Columns of the table of letters."""


def page(found: Found) -> str:
    """The whole page: ``found`` as probe.json has it."""
    from markupsafe import Markup

    letters = [row["letter"] for row in found["letters"]]
    shown = []
    if letters:
        told = {"probe": [row["probe_f1"] for row in found["letters"]],
                "best latent": [row["sparse_f1"][0] if row["sparse_f1"] else None for row in found["letters"]]}  # fmt: skip
        taken = {"mean fraction": [row["mean_fraction"] for row in found["letters"]],
                 "absorbed in full": [row["full_rate"] for row in found["letters"]]}  # fmt: skip
        shown = [
            {"svg": Markup(plots.rates(letters, told, "f1-by-letter")), "caption": "F1 on held-out tokens"},
            {"svg": Markup(plots.rates(letters, taken, "absorption-by-letter")), "caption": "Of the tokens that the probe knows"},
        ]  # made by us from numbers alone
    return rendered(
        "probe.html.j2",
        "",
        ("style.css", "scores.css", "survey.css"),
        title=f"First letters in {found['kind']} at {found['hookpoint']}: {found['n_latents']:,} latents",
        subtitle=(
            f"{found['artifact']}; {found['n_train']:,} tokens to train on and {found['n_test']:,} to test, "
            f"held out by {found['hold_out']}"
        ),
        figures=_figures(found),
        plots=shown,
        header=HEADER,
        lines=lines(found),
        latents=[_latents(row) for row in found["letters"]],
        absorbers=[_absorber(row["letter"], entry) for row in found["letters"] for entry in row["absorbers"]],
        left_out=", ".join(row["letter"] for row in found["left_out"]),
        min_f1=found["min_f1"],
    )


def facts(found: Found) -> list[str]:
    """What a terminal is told above the table, a sentence a line."""
    said = [f"{found['artifact']}: {found['kind']} at {found['hookpoint']}, {found['n_latents']:,} latents"]
    if not found["n_letters"]:
        hint = "; with a small vocabulary use hold_out=documents" if found["hold_out"] == "tokens" else ""
        none = f"no letter has a direction that a probe finds (F1 of {found['min_f1']:g} or more) on held-out {found['hold_out']}"
        return [*said, f"{none}, so nothing can be said of absorption{hint}"]
    return [
        *said,
        f"{found['n_letters']} letters: F1 {found['probe_f1']:.3f} by a probe, {found['sparse_f1']:.3f} by the best latent; "
        f"{found['n_main']:.1f} main latents a letter",
        f"absorbed in full {found['full_rate']:.1%} of tokens; mean absorption fraction {found['mean_fraction']:.1%}",
    ]


def lines(found: Found) -> list[list[str]]:
    """The table of letters, with ``HEADER``."""
    return [
        [
            row["letter"], f"{row['n_test']:,}", f"{row['probe_f1']:.3f}", f"{row['sparse_f1'][0]:.3f}" if row["sparse_f1"] else "\u2013",
            ", ".join(str(entry["latent"]) for entry in row["latents"][: row["n_main"]]) or "\u2013",
            *("\u2013" if row[name] is None else f"{row[name]:.1%}" for name in ("full_rate", "mean_fraction")),
        ]
        for row in found["letters"]
    ]  # fmt: skip


def _figures(found: Found) -> list[dict[str, str]]:
    def figure(name: str, value: float | None, form: str, more: str, about: str) -> dict[str, str]:
        return {"name": name, "value": "\u2013" if value is None else format(value, form), "more": more, "about": about}

    return [
        figure("letters", found["n_letters"], "d", f"with a probe F1 of {found['min_f1']:g} or more", ""),
        figure("probe F1", found["probe_f1"], ".3f", "on activations", "mean over letters"),
        figure("best latent F1", found["sparse_f1"], ".3f", "k-sparse probe, k = 1", "mean over letters"),
        figure("main latents", found["n_main"], ".1f", "a letter; above 1, it is split", ""),
        figure("absorbed in full", found["full_rate"], ".1%", "of tokens", "no main latent fires, and one other writes most of it"),
        figure("absorption fraction", found["mean_fraction"], ".1%", "mean over tokens", "of what is written along the probe"),
    ]


def _latents(row: Found) -> dict[str, Any]:
    return {"letter": row["letter"], "entries": [
        {"latent": entry["latent"], "cosine": f"{entry['cosine']:.3f}", "f1": f"{f1:.3f}", "main": i < row["n_main"],
         "label": visible(entry["label"])}
        for i, (entry, f1) in enumerate(zip(row["latents"], row["sparse_f1"], strict=True)) if i <= row["n_main"]
    ]}  # fmt: skip


def _absorber(letter: str, entry: Found) -> dict[str, Any]:
    tokens = ", ".join(f"\u201c{visible(text)}\u201d {n:,}" for text, n in entry["tokens"])
    return {"letter": letter, "latent": entry["latent"], "n": f"{entry['n']:,}", "cosine": f"{entry['cosine']:.3f}", "tokens": tokens,
            "label": visible(entry["label"])}  # fmt: skip
