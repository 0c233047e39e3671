"""Where latents fire in texts that are given: what capture and the SAE's encoder would find, without a store.

Shapes: T tokens of a text, L latents asked about, B tokens of a batch, K active latents of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import np, torch
from tasks.lm.buckets import batches
from tasks.lm.contexts import of_texts
from tasks.steering.push import check_latents
from tasks.steering.turning import columns

if TYPE_CHECKING:
    import numpy as np

    from tasks.steering.subject import Subject


class Fired(NamedTuple):
    """Some latents on one text, BOS and other special tokens left out, as a captured shard leaves them out."""

    token_id: np.ndarray
    """int64 [T]; empty for a text of no token."""

    value_TL: np.ndarray
    """float32, in units of the SAE's values; 0 where a latent is silent. Columns are in the order asked."""

    @property
    def largest_L(self) -> np.ndarray:
        """Each latent's largest activation on the text; 0 for a text of no token."""
        return self.value_TL.max(0) if len(self.value_TL) else np.zeros(self.value_TL.shape[1], np.float32)


def fired(subject: Subject, texts: Sequence[str], latents: Sequence[int], context_tokens: int | None = None) -> list[Fired]:
    """Activations of some latents on each text, in order.

    A text is one context, cut at ``context_tokens`` (None: what the model reads at most). Rows are those that the stage
    ``capture`` with ``context=sentence`` stores in float32, but for how products of other batch shapes round. Raises ``SpecError`` for a
    latent that there is none of.
    """
    lm, sae = subject.lm, subject.sae
    check_latents(sae, latents)
    longest = min((n for n in (context_tokens, lm.context_length) if n is not None), default=None)
    contexts = of_texts(texts, lm.tokenizer, lm.bos_token_id, longest)
    found = [Fired(c.token_id[c.keep], np.zeros((int(c.keep.sum()), len(latents)), np.float32)) for c in contexts]
    spoken = [i for i, one in enumerate(found) if len(one.token_id)]
    column_N = torch.full((sae.n_latents,), -1, dtype=torch.int64, device=sae.W_dec_ND.device)
    column_N[torch.tensor(list(latents), dtype=torch.int64)] = torch.arange(len(latents), device=column_N.device)
    for batch in batches([contexts[i] for i in spoken], subject.batch_tokens):
        x_BTD = sae.read(lm.activations(batch.token_BT, batch.mask_BT, sae.sites.reads))
        rows = sae.encode(x_BTD[batch.keep_BT.to(x_BTD.device)].to(column_N.device))
        value_BL = columns(rows, column_N, len(latents)).cpu().numpy()
        ends = batch.keep_BT.sum(1).cumsum(0).tolist()
        for i, start, end in zip(batch.members, [0, *ends], ends, strict=False):
            found[spoken[i]].value_TL[:] = value_BL[start:end]
    return found
