"""The commands that study a dictionary as such: survey, probe. ``flows.surveyed`` finds what they are made of; this prints."""

from __future__ import annotations

import json

from flows.console import clean, print_json, table

ABOUT = {
    "survey": "a dictionary as a whole: cosines of its latents, nearest ones, densities; with=train/9b1c matches another; --json",
    "probe": "which latents stand for the first letters of words, and which absorb them (arXiv 2409.14507); --json",
}


def survey(rest: list[str], debug: bool = False) -> int:
    """``saint survey train/3f2a [with=train/9b1c] [n_nearest=16]``."""
    from flows.surveyed import Asked, to_survey
    from tasks.reporting.survey import facts
    from tasks.survey import SurveySpec

    asked = Asked("survey", ABOUT["survey"], rest, SurveySpec, ("with",))
    opened = asked.made(to_survey(asked.store, asked.sae, asked.words.get("with"), asked.spec))
    found = json.loads((opened.path / "survey.json").read_text())
    if asked.json:
        return print_json({"survey": f"{opened.artifact.stage}/{opened.artifact.key}", "path": str(opened.path), **found})
    for line in facts(found):
        print(clean(line))
    for row in found["pairs"][:5]:
        labels = " | ".join(label or "?" for label in row["labels"]) if any(row["labels"]) else ""
        print(clean(f"  {row['cosine']:.3f}  latents {row['first']} and {row['second']}  {labels}".rstrip()))
    print(f"page: {opened.path / 'survey.html'}\ntable: {opened.path / 'latents.parquet'}")
    return 0


def probe(rest: list[str], debug: bool = False) -> int:
    """``saint probe train/3f2a [hold_out=documents]``."""
    from flows.surveyed import Asked, to_probe
    from tasks.probe import ProbeSpec
    from tasks.reporting.probe import HEADER, facts, lines

    asked = Asked("probe", ABOUT["probe"], rest, ProbeSpec)
    opened = asked.made(to_probe(asked.store, asked.sae, asked.spec))
    found = json.loads((opened.path / "probe.json").read_text())
    if asked.json:
        return print_json({"probe": f"{opened.artifact.stage}/{opened.artifact.key}", "path": str(opened.path), **found})
    for line in facts(found):
        print(clean(line))
    if found["letters"]:
        table(HEADER, lines(found), HEADER[1:])
    if found["left_out"]:
        print(f"with too few tokens: {', '.join(row['letter'] for row in found['left_out'])}")
    print(f"page: {opened.path / 'probe.html'}")
    return 0
