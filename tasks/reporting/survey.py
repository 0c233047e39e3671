"""The page of a dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.dictionary.firing import RARE
from tasks.metrics import DENSE
from tasks.reporting import survey_plots as plots
from tasks.reporting.pages import rendered
from tasks.reporting.sweep_table import visible

Found = Mapping[str, Any]


def page(found: Found, columns: Mapping[str, Any], map: tuple[Any, Any]) -> str:
    """The whole page: ``found`` as survey.json has it, a column of numbers for each figure of a latent, and the latents and
    cosines of the map."""
    other = found.get("other")
    title = f"{found['kind']} at {found['hookpoint']}: {found['n_latents']:,} latents"
    return rendered(
        "survey.html.j2",
        "",
        ("style.css", "scores.css", "survey.css"),
        title=f"{title}, against {other['artifact']}" if other else title,
        subtitle=f"{found['artifact']}, d_in {found['d_in']}" + ("" if found["d_in"] == found["d_out"] else f", d_out {found['d_out']}"),
        figures=_figures(found),
        plots=_shapes(found, columns, map),
        firing=_firing(found, columns),
        counts=_counts(found),
        pairs=_pairs(found),
        matching=_matching(found, columns),
    )


def facts(found: Found) -> list[str]:
    """What a terminal is told, a sentence a line."""
    decoder = found["directions"]["decoder"]
    said = [
        f"{found['artifact']}: {found['kind']} at {found['hookpoint']}, {found['n_latents']:,} latents",
        f"directions: mean cosine with the nearest latent {decoder['mean_max']:.3f} (encoder "
        f"{found['directions']['encoder']['mean_max']:.3f}); {decoder['n_copies']:,} latents have one above {found['good']}",
    ]
    if "own" in found["directions"]:
        said.append(f"encoder and decoder row of a latent: mean cosine {found['directions']['own']:.3f}")
    if found["firing"]:
        said.append(f"firing: {_told(found['firing'])} ({found['firing']['of']})")
    else:
        said.append("firing: not known; saint explain or saint run makes latent caches of it")
    return said + matching_facts(found)


def matching_facts(found: Found) -> list[str]:
    """What two dictionaries have of each other, a sentence each."""
    if not (matching := found.get("matching")):
        return []
    first, second, other, active = matching["first"], matching["second"], found["other"], matching["activation"]
    said = [
        f"against {other['artifact']} ({other['kind']}, {other['n_latents']:,} latents): MMCS {first['mmcs']:.3f}, back "
        f"{second['mmcs']:.3f}; one to one {matching['mcc']:.3f}{'' if matching['exact'] else ' or more (candidates only)'}",
        f"found again at a cosine above 0.7: {first['above']['0.7']:.1%} of its latents, and {second['above']['0.7']:.1%} of the other's; "
        f"{matching['mutual']:.1%} are each other's nearest",
    ]
    if not active:
        return [*said, "by activation: not known; it needs latent caches of both on the same captures (saint explain makes them)"]
    return [
        *said,
        f"by activation, over {active['n_tokens']:,} tokens: mean best correlation {_number(active['mean_max'])}, back "
        f"{_number(active['mean_max_back'])}; of those nearest by direction {_number(active['of_nearest'])}",
    ]


def _told(firing: Found) -> str:
    return (
        f"L0 {firing['l0']:.1f}, {firing['n_dead']:,} dead, {firing['n_rare']:,} rare (below {RARE:g}), "
        f"{firing['n_dense']:,} dense (above {DENSE:g}), over {firing['n_tokens']:,} tokens"
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "\u2013" if value is None else f"{value:.{digits}f}"


def _figures(found: Found) -> list[dict[str, str]]:
    decoder, firing, matching = found["directions"]["decoder"], found["firing"], found.get("matching")
    said = [
        {"name": "mean max cosine", "value": _number(decoder["mean_max"]), "more": "of decoder rows",
         "about": "mean over latents of the cosine with the nearest other one"},
        {"name": "near copies", "value": f"{decoder['n_copies']:,}", "more": f"latents with a cosine above {found['good']}", "about": ""},
    ]  # fmt: skip
    if firing:
        for name, more in (("dead", "never fire"), ("rare", f"below {RARE:g}"), ("dense", f"above {DENSE:g}")):
            said.append({"name": name, "value": f"{firing[f'n_{name}']:,}", "more": more, "about": f"over {firing['n_tokens']:,} tokens"})
    if matching:
        said.append({"name": "MMCS", "value": _number(matching["first"]["mmcs"]), "more": f"back {_number(matching['second']['mmcs'])}",
                     "about": "mean over latents of the cosine with the other dictionary's nearest"})  # fmt: skip
        about = "the matching with the largest sum" + ("" if matching["exact"] else ", among candidates: a lower bound")
        said.append({"name": "one to one", "value": _number(matching["mcc"]), "more": "mean cosine, none taken twice", "about": about})
    return said


def _plot(svg: str, caption: str) -> dict[str, Any]:
    from markupsafe import Markup

    return {"svg": Markup(svg), "caption": caption}  # made by us from numbers alone


def _shapes(found: Found, columns: Mapping[str, Any], map: tuple[Any, Any]) -> list[dict[str, Any]]:
    directions = found["directions"]
    counts = {f"{name} rows": directions[name]["histogram"] for name in ("decoder", "encoder")}
    n_pairs = directions["decoder"]["n_pairs"]
    largest = {f"{name} rows": columns[f"{name}_max_cosine"] for name in ("decoder", "encoder")}
    return [
        _plot(plots.cosines(directions["edges"], counts), f"Cosines of {n_pairs:,} pairs of latents"),
        _plot(plots.maxima(largest, "cosine with the nearest latent", "largest-cosines"), "The nearest of each latent"),
        _plot(plots.similarities(map[1]), "The most similar latents, and as many at even distances; those alike side by side. "
              "Blue is positive, red negative"),
    ]  # fmt: skip


def _firing(found: Found, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not found["firing"]:
        return []
    sides = {found["artifact"]: found["firing"]}
    if (other := found.get("other")) and other["firing"]:
        sides[other["artifact"]] = other["firing"]
    against = [
        ("mean_value", "mean activation where it fires", "activation-by-density", "Whether frequent latents are strong"),
        ("decoder_max_cosine", "cosine with the nearest", "cosine-by-density", "Whether frequent latents are alike"),
    ]
    return [
        _plot(plots.densities(sides), "How often latents fire; dead ones are left out"),
        *(
            _plot(plots.against(columns["density"], columns[name], ("density", y), element, log=True), caption)
            for name, y, element, caption in against
        ),
    ]


def _counts(found: Found) -> list[str]:
    sides = [(found["artifact"], found["firing"])]
    if other := found.get("other"):
        sides.append((other["artifact"], other["firing"]))
    return [f"{name}: {_told(firing)}" for name, firing in sides if firing]


def _pairs(found: Found) -> dict[str, Any]:
    """The table of the most similar pairs."""
    fire = any("jaccard" in row for row in found["pairs"])
    header = ["cosine", "latents", *(["fire together", "by chance"] if fire else [])]
    rows = []
    for row in found["pairs"]:
        cells = [_number(row["cosine"]), f"{row['first']}, {row['second']}"]
        cells += [f"{row['jaccard']:.1%}", f"{row['n_both']:,} / {row['expected']:,.0f}"] if fire else []
        rows.append({"cells": cells, "labels": [visible(label) for label in row["labels"]]})
    about = "Together: of the tokens on which either fires, those on which both do; then how many, and how many by chance." if fire else ""
    return {"header": header, "rows": rows, "about": about, "labels": ["first", "second"]}


def _matching(found: Found, columns: Mapping[str, Any]) -> dict[str, Any] | None:
    if not (matching := found.get("matching")):
        return None
    names = [found["artifact"], found["other"]["artifact"]]
    largest = {names[0]: columns["match_cosine"], names[1]: matching["back"]}
    shown = [_plot(plots.maxima(largest, "cosine with the other's nearest latent", "matches"), "How much of each is in the other")]
    if matching["activation"]:
        titles = ("cosine with the other's nearest", "correlation of their activations")
        svg = plots.against(columns["match_cosine"], columns["match_correlation"], titles, "correlation-by-cosine")
        shown.append(_plot(svg, "Whether latents that point the same way fire alike"))
    tables = [
        {"title": title, "table": _side_by_side(matching[name])}
        for name, title in (("nearest", "What is in both"), ("lost", "What the other has nothing like"))
    ]
    return {"facts": [fact[0].upper() + fact[1:] for fact in matching_facts(found)], "plots": shown, "tables": tables}


def _side_by_side(rows: Sequence[Found]) -> dict[str, Any]:
    body = [
        {"cells": [_number(row["cosine"]), f"{row['first']}, {row['second']}"], "labels": [visible(label) for label in row["labels"]]}
        for row in rows
    ]
    return {"header": ["cosine", "latents"], "rows": body, "about": "", "labels": ["explanation", "the other's nearest"]}
