"""What latents say to the output: tokens that each decoder row pushes up and down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import np, pa, pq
from tasks.lm.lens import Lens

if TYPE_CHECKING:
    from tasks.trained import TrainedSAE

_LATENTS = 256


def write_promoted(path: Path, lm: Any, sae: TrainedSAE, texts: list[str], n: int) -> None:
    """Write ``n`` tokens up and down per latent, with logits through the unembedding, the final norm's gain folded in."""
    lens, W_ND, words = Lens(lm), sae.W_dec_ND, pa.array(texts, pa.string())
    item = pa.list_(pa.struct([("token", pa.string()), ("logit", pa.float32())]))
    schema = pa.schema([("latent", pa.int32()), ("promoted", item), ("suppressed", item)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(W_ND), _LATENTS):
            most = lens.most(W_ND[start : start + _LATENTS], n)
            sides = ((most.up_Nn, most.up_logit_Nn), (most.down_Nn, most.down_logit_Nn))
            columns = [_lists(ids.numpy(), logits.numpy(), words) for ids, logits in sides]
            latent = pa.array(np.arange(start, start + len(most.up_Nn)), pa.int32())
            writer.write_table(pa.Table.from_arrays([latent, *columns], schema=schema))


def _lists(ids: Any, logits: Any, words: Any) -> Any:
    items = pa.StructArray.from_arrays(
        [words.take(pa.array(ids.reshape(-1))), pa.array(logits.reshape(-1).astype(np.float32))],
        names=["token", "logit"],
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(0, ids.size + 1, ids.shape[1], dtype=np.int32)), items)
