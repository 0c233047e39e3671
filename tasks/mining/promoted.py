"""What latents say to the output: tokens that each decoder row pushes up and down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import np, pa, pq
from tasks.lm.lens import Lens, to_stream
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.trained import TrainedSAE

_LATENTS = 256


def write_promoted(path: Path, lm: Any, sae: TrainedSAE, texts: list[str], n: int) -> str | None:
    """Write ``n`` tokens up and down per latent, with logits through the unembedding, the final norm's gain folded in.

    Returns why there are none, where what the SAE writes has no way to the residual stream.
    """
    why = None
    try:
        directions = to_stream(lm, sae)
    except SpecError as error:
        why, n = str(error), 0
    lens, W_ND, words = Lens(lm), sae.W_dec_ND, pa.array(texts, pa.string())
    item = pa.list_(pa.struct([("token", pa.string()), ("logit", pa.float32())]))
    schema = pa.schema([("latent", pa.int32()), ("promoted", item), ("suppressed", item)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(W_ND), _LATENTS):
            rows = W_ND[start : start + _LATENTS]
            latent = pa.array(np.arange(start, start + len(rows)), pa.int32())
            columns = [pa.array([[]] * len(rows), item)] * 2
            if n:
                most = lens.most(directions(rows), n)
                sides = ((most.up_Nn, most.up_logit_Nn), (most.down_Nn, most.down_logit_Nn))
                columns = [_lists(ids.numpy(), logits.numpy(), words) for ids, logits in sides]
            writer.write_table(pa.Table.from_arrays([latent, *columns], schema=schema))
    return why


def _lists(ids: Any, logits: Any, words: Any) -> Any:
    items = pa.StructArray.from_arrays(
        [words.take(pa.array(ids.reshape(-1))), pa.array(logits.reshape(-1).astype(np.float32))],
        names=["token", "logit"],
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(0, ids.size + 1, ids.shape[1], dtype=np.int32)), items)
