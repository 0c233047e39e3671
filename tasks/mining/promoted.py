"""What latents say to the output: tokens that each decoder row pushes up and down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import np, pa, pq, torch

if TYPE_CHECKING:
    from tasks.trained import TrainedSAE

_LATENTS = 256


def write_promoted(path: Path, lm: Any, sae: TrainedSAE, texts: list[str], n: int) -> None:
    """Write ``n`` tokens up and down per latent, with logits through the unembedding, the final norm's gain folded in."""
    W_VD, _ = lm.unembedding()
    W_VD = W_VD - W_VD.mean(0)  # a push on all tokens alike changes no probability
    W_ND, words = sae.W_dec_ND.to(W_VD.device), pa.array(texts, pa.string())
    item = pa.list_(pa.struct([("token", pa.string()), ("logit", pa.float32())]))
    schema = pa.schema([("latent", pa.int32()), ("promoted", item), ("suppressed", item)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(W_ND), _LATENTS):
            logits = W_ND[start : start + _LATENTS].float() @ W_VD.T
            found = [torch.topk(logits, min(n, logits.shape[1]), dim=-1, largest=up) for up in (True, False)]
            columns = [_lists(f.indices.cpu().numpy(), f.values.detach().cpu().numpy(), words) for f in found]
            latent = pa.array(np.arange(start, start + len(logits)), pa.int32())
            writer.write_table(pa.Table.from_arrays([latent, *columns], schema=schema))


def _lists(ids: Any, logits: Any, words: Any) -> Any:
    items = pa.StructArray.from_arrays(
        [words.take(pa.array(ids.reshape(-1))), pa.array(logits.reshape(-1).astype(np.float32))],
        names=["token", "logit"],
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(0, ids.size + 1, ids.shape[1], dtype=np.int32)), items)
