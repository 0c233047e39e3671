"""The page of an inspection, made of what ``tasks.inspection.plain`` gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.reporting.pages import embedded, rendered
from tasks.reporting.sweep_table import visible

_MOST = 100
"""Latents of a token that are in the page, the strongest: kinds without a k may have thousands."""

_DIGITS = 4

_MEASURES = ("norm", "error", "relative_error", "fvu", "cosine", "ce_clean", "ce_sae", "ce_zero", "kl_sae", "attribution_rest")

_SIDES = ("promoted", "suppressed")

Body = Mapping[str, Any]


def page(body: Body) -> str:
    """The whole page."""
    from markupsafe import Markup

    labels = ", ".join(map(_short, body["explanations"]))
    said = f"labels of {labels}" if labels else "no labels in the store"
    n = body["figures"]["n_tokens"]
    several = len(body["prompts"]) > 1
    return rendered(
        "inspection.html.j2",
        "inspection.js",
        ("style.css", "inspection.css"),
        title=f"{visible(body['model'])} at {body['hookpoint']}: {_title(body)}",
        subtitle=f"{_short(body['sae'])}, {body['kind']} SAE of {body['n_latents']:,} latents; {said}; {n:,} tokens, special ones left out",
        figures=_figures(body["figures"]),
        several=several,
        data=Markup(embedded(_data(body))),  # escaped by embedded, set as text by the script
    )


def _title(body: Body) -> str:
    if len(body["prompts"]) > 1:
        return f"{len(body['prompts'])} prompts"
    text = visible(" ".join(body["prompts"][0]["text"].split()))
    return text if len(text) <= 60 else text[:59] + "…"


def _figures(f: Body) -> list[dict[str, str]]:
    """The row of headline figures."""

    def one(name: str, value: float | None, form: str, more: str, about: str) -> dict[str, str]:
        return {"name": name, "value": "\u2013" if value is None else format(value, form), "more": more, "about": about}

    kl = "" if f["kl_sae"] is None else f"KL {f['kl_sae']:.3f} nats"
    zero = "" if f["ce_zero"] is None else f"{f['ce_zero']:.3f} with zero"
    return [
        one("L0", f["l0"], ".1f", "active latents a token", ""),
        one("FVU", f["fvu"], ".3f", "on these tokens", "sum of squared error over sum of squared deviation from the mean"),
        one("relative error", f["relative_error"], ".3f", "" if f["cosine"] is None else f"cosine {f['cosine']:.3f}",
            "mean over tokens of ||x - x_hat|| / ||x||"),
        one("CE clean", f["ce_clean"], ".3f", "nats a token", "cross entropy of the language model as it is"),
        one("CE with the SAE", f["ce_sae"], ".3f", kl, "the reconstruction in place of the activation"),
        one("CE loss recovered", f["ce_loss_recovered"], ".1%", zero, "(CE zero - CE with SAE) / (CE zero - CE clean)"),
    ]  # fmt: skip


def _data(body: Body) -> dict[str, Any]:
    """What the script shows; every foreign text made visible here."""
    prompts = []
    for prompt in body["prompts"]:
        tokens = []
        for token in prompt["tokens"]:
            latents = [[_short_number(number) for number in one.values()] for one in token["latents"][:_MOST]]
            measured = {name: _short_number(token[name]) for name in _MEASURES if token.get(name) is not None}
            tokens.append({"token": _token(token["token"]), "id": token["token_id"], "special": token["special"], "l0": token["l0"],
                           "ends": token["token"].endswith("\n"), **measured, "latents": latents})  # fmt: skip
        guesses = {name: [[_named(g["token"]), _short_number(g["probability"])] for g in each] for name, each in prompt["next"].items()}
        target = prompt["target"] and [_named(prompt["target"]["token"]), _short_number(prompt["target"]["probability"])]
        prompts.append({"tokens": tokens, "next": guesses, "target": target})
    latents = [
        {
            **{name: _short_number(row[name]) for name in ("latent", "sum", "max", "n_tokens", "attribution", "largest", "density")},
            "label": visible(row["label"]), "status": row["status"].replace("_", " "), "wanted": row["wanted"],
            "scores": [_short_number(row["scores"].get(name)) for name in body["scorers"]],
            **{side: [[_named(token), _short_number(logit)] for token, logit in row[side]] for side in _SIDES if side in row},
        }
        for row in body["latents"]
    ]  # fmt: skip
    return {"prompts": prompts, "latents": latents, "scorers": [visible(name) for name in body["scorers"]], "most": _MOST}


def _token(text: str) -> str:
    return visible(text.replace("\n", "⏎").replace("\t", "⇥"))


def _named(text: str) -> str:
    """A token by itself, where a space in front would not be seen."""
    text = _token(text)
    return "␣" + text[1:] if text.startswith(" ") else text


def _short_number(value: float | None) -> float | int | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.{_DIGITS}g}")


def _short(address: str) -> str:
    stage, _, key = address.partition("/")
    return f"{stage}/{key[:12]}"
