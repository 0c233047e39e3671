"""Reads what a report's script reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.reporting.pieces import unpacked


def raw_of(page: str) -> dict[str, Any]:
    """The data of a page as they stand in it, or of a piece beside one."""
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def data_of(page: str, folder: Path | None = None) -> dict[str, Any]:
    """The same unpacked: ``latents`` a row for each, ``cards`` by latent. ``folder``: where pieces lie beside the page."""
    raw = raw_of(page)

    def beside(name: str) -> Any:
        assert folder is not None, f"{name} is not in the page"
        return raw_of((folder / f"{name}.html").read_text("utf-8"))

    columns = {
        name: unpacked(beside(name.replace("/", "-")) if column is None else column) for name, column in raw["columns"].items()
    }
    status, scores = columns["status"], [columns[f"score/{i}"] for i in range(len(raw["scorers"]))]
    latents = [
        {
            "latent": i, "label": columns["label"][i], "status": status["names"][status["at"][i]],
            "density": columns["density"][i], "interest": columns["interest"][i],
            "scores": [None if s["value"][i] is None else [s[f][i] for f in ("value", "low", "high", "n", "control")] for s in scores],
        }
        for i in range(raw["n"])
    ]  # fmt: skip
    kept = list(range(raw["n"])) if raw["kept"] is None else unpacked(raw["kept"])
    numbers = range(-(-len(kept) // raw["per_piece"]))
    several = raw["pieces"] if raw["pieces"] is not None else [beside(f"{number:05d}") for number in numbers]
    cards = {int(latent): card for pack in several for latent, card in unpacked(pack).items()}
    return {**raw, "latents": latents, "cards": cards, "first": unpacked(raw["first"]), "kept": kept}
