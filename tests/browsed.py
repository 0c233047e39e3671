"""A small real store to browse: a language model, an SAE, and two explainers' labels of which some attack whoever shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from artifacts.store import Store
from flows.cli import main
from tests.small import overrides

ATTACKS = (
    """<img src=x onerror="document.title='OWNED';alert(1)"><script>document.title='OWNED'</script>""",
    "${document.title='OWNED'} {{#each this}}{{/each}} `${alert(2)}` </template></style></script>",
    "\x1b[31mred \u202eright to left\u202c \u2028line \x9b2J bell\x07 \U000e0041tag",
    """" onmouseover="document.title='OWNED'" href="javascript:document.title='OWNED'""",
)

PLANTED = "the zebra crossing at Café Zoë"


def attacked(folder: Path, attacks: Sequence[str] = ATTACKS) -> list[str]:
    """Overrides of a small run, over a corpus whose every fifth text attacks whoever shows it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    small = overrides(folder)
    table = pq.read_table(folder / "corpus.parquet").to_pydict()
    texts = [f"{text} {attacks[i // 5 % len(attacks)]}" if i % 5 == 0 else text for i, text in enumerate(table["text"])]
    pq.write_table(pa.table({"text": texts, "doc": table["doc"]}), folder / "corpus.parquet")
    return small


def build(folder: Path) -> Path:
    """Make the store below a folder; returns where it is."""
    small = attacked(folder)
    root = folder / "store"
    where = ["runtime.mode=inline", f"backend.root={root}"]
    assert main(["score", *small, "train.n_tokens=20000", "capture.n_shards=1", "explain.latents=0:60", *where]) == 0
    labels = {3: PLANTED, **{4 + i: attack for i, attack in enumerate(ATTACKS)}, 100: "beyond the others"}
    (folder / "labels.json").write_text(json.dumps([{"latent": n, "label": label} for n, label in labels.items()]))
    (sae,) = [str(a) for a in Store.at(root).artifacts() if a.stage == "train"]
    assert main(["explain", sae, "explainer=load", f"explainer.path={folder / 'labels.json'}", *where]) == 0
    return root
