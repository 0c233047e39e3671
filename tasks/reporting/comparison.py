"""Tables and page of a comparison of explainers, or of judges, as ``flows.comparing`` finds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.reporting.pages import rendered
from tasks.reporting.sweep_table import visible

Found = Mapping[str, Any]


def beside(found: Found) -> tuple[list[str], list[list[str]]]:
    """Each side by itself: a header and its rows."""
    header = ["name", "artifact", "scored" if found["of"] == "judges" else "explained", "dollars"]
    rows = []
    for side in found["sides"]:
        usd = "?" if side["usd"] is None else f"{side['usd']:,.4f}"
        rows.append([side["name"], side["artifact"], f"{side['n_ok'] or 0:,} of {side['n'] or 0:,}", usd])
    return header, rows


def means(found: Found) -> tuple[list[str], list[list[str]]]:
    """Each score of each side, a mean over that side's own latents with its interval."""
    names = list(dict.fromkeys(name for side in found["sides"] for name in side["scores"]))
    header = ["score", *(side["name"] for side in found["sides"])]
    rows = []
    for name in names:
        values = [side["scores"].get(name) for side in found["sides"]]
        rows.append([f"{name} ({found['metrics'][name]})", *("" if value is None else interval(value) for value in values)])
    return header, rows


def facts(pair: Found) -> Iterator[str]:
    """What two have to do with one another, a sentence each."""
    if labels := pair.get("labels"):
        same = labels["share_equal"]
        share = "" if same["value"] is None else f", {labels['equal']:,} in the same words ({same['value']:.1%})"
        yield (
            f"of {labels['n']:,} latents: {labels['both']:,} explained by both{share}, {labels['only_first']:,} by the first alone, "
            f"{labels['only_second']:,} by the second alone, {labels['neither']:,} by neither"
        )
    if answers := pair.get("answers"):
        if answers["n"]:
            value = "no kappa, since both always say the same" if answers["value"] is None else f"kappa {interval(answers)}"
            yield f"{answers['n']:,} windows judged by both: {value}, the same answer to {answers['agreement']:.1%}"
            if answers["apart"]:
                yield f"of {answers['apart']:,} answered differently the first is right on {answers['first_right']:,}"
        else:
            yield "no window was answered with yes or no by both"
    for name, score in pair["scores"].items():
        if not score["n"]:
            yield f"{name}: no latent has both scores"
            continue
        d = score["difference"]
        together = score["spearman"]["value"]
        rank = "" if together is None else f"; rank correlation {interval(score['spearman'], 2)}"
        yield (
            f"{name} over {score['n']:,} latents: first less second {interval(d, sign=True)}; "
            f"first better on {d['better']:,}, second on {d['worse']:,}, equal on {d['equal']:,}{rank}"
        )
    if not pair["scores"]:
        yield "no score that both have: saint score makes them, by the same scorers and client"


def thirds(pair: Found) -> tuple[list[str], list[list[str]]]:
    """Who wins where: differences by how often latents fire."""
    header = ["where", "density", "latents", "first less second", "first better", "second better"]
    rows = []
    for name, score in pair["scores"].items():
        for third in score["thirds"]:
            low, high = third["density"]
            d = third["difference"]
            where = f"{name}: {third['name']}"
            rows.append([where, f"{low:.2g} to {high:.2g}", f"{d['n']:,}", interval(d, sign=True), f"{d['better']:,}", f"{d['worse']:,}"])
    return header, rows


def interval(estimate: Found, digits: int = 3, sign: bool = False) -> str:
    """A number with its interval: ``0.812 [0.79, 0.83]``."""
    if estimate["value"] is None:
        return "\u2013"
    plus = "+" if sign else ""
    text = f"{estimate['value']:{plus}.{digits}f}"
    if estimate["low"] is None:
        return text
    return f"{text} [{estimate['low']:{plus}.{digits}f}, {estimate['high']:{plus}.{digits}f}]"


def page(found: Found) -> str:
    """The page of a comparison."""
    from markupsafe import Markup

    from tasks.reporting import score_plots

    judges = found["of"] == "judges"
    tables = [
        {"header": header, "rows": [[visible(cell) for cell in row] for row in rows], "left": left}
        for (header, rows), left in ((beside(found), 2), (means(found), 1)) if rows
    ]  # fmt: skip
    pairs = []
    for i, pair in enumerate(found["pairs"]):
        plots = []
        for j, (name, score) in enumerate(pair["scores"].items()):
            if score["n"]:
                svg = score_plots.differences(score, f"difference-{i}-{j}")
                plots.append({"svg": Markup(svg), "caption": visible(f"{name}, latent by latent")})  # made by us
        where, lines = thirds(pair)
        largest = [
            {"scorer": name, **{n: visible(v) if isinstance(v, str) else v for n, v in row.items()}}
            for name, score in pair["scores"].items() for row in score["largest"]
        ]  # fmt: skip
        pairs.append({
            "first": visible(pair["first"]), "second": visible(pair["second"]), "facts": [visible(f) for f in facts(pair)],
            "plots": plots, "header": where, "rows": lines, "largest": largest,
        })  # fmt: skip
    return rendered(
        "comparison.html.j2",
        "",
        ("style.css", "scores.css"),
        title=f"{len(found['sides'])} {'judges' if judges else 'explainers'} compared",
        subtitle=f"{'Scores of ' + found['explain'] if judges else 'Explanations'} on {found['sae']}",
        tables=tables,
        pairs=pairs,
    )
