"""Looking at prompts: one pass for the activations, one for each run.

Shapes: B prompts of a batch, T tokens, n tokens of them that are kept, D d_in, K active latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tasks.inspection.attribution import attributed
from tasks.inspection.seen import Attributed, Guess, Inspection, RunSeen, Seen
from tasks.lazy import np, torch
from tasks.lm.buckets import Batch, batches
from tasks.lm.contexts import Context, of_texts
from tasks.lm.language_model import Edit
from tasks.lm.splicing import MAX_LOGITS, Run, losses, replaced
from tasks.metrics import Reconstruction
from tasks.saes.base import Latents
from tasks.spec import SpecError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tasks.steering.subject import Subject

_SHOWN = 40
"""Characters of a prompt that an error repeats."""


def inspect(
    subject: Subject, prompts: Sequence[str], *, attribute: bool | str = False, n_next: int = 5, where: str = "prompt"
) -> Inspection:
    """What the subject's SAE and language model make of each prompt, tokenised as texts of a corpus are.

    ``attribute`` also tells how much each active latent does for the token that comes next: the likeliest (True), or the
    first token of a text. ``n_next`` is how many likeliest next tokens each run tells.

    Raises ``SpecError`` for no prompt, one without a token, and one longer than the model reads.
    """
    contexts = contexts_of(subject, prompts, where)
    target = target_of(subject, attribute) if isinstance(attribute, str) else None
    texts = subject.lm.token_strings()
    found: dict[int, Seen] = {}
    for batch in batches(contexts, max(1, min(subject.batch_tokens, MAX_LOGITS // len(texts)))):
        for i, seen in zip(batch.members, _batch(subject, batch, prompts, texts, n_next), strict=True):
            found[i] = seen if attribute is False else _moved(subject, seen, target, texts)
    return Inspection(tuple(found[i] for i in range(len(contexts))), subject.sae.n_latents, subject.sae.hookpoint)


def contexts_of(subject: Subject, prompts: Sequence[str], where: str = "prompt") -> list[Context]:
    """Prompts as tokens, whole. Raises ``SpecError`` as ``inspect`` does."""
    lm = subject.lm
    if not prompts:
        raise SpecError(f"{where}s = [], but there is nothing to look at; give one")
    found = of_texts(prompts, lm.tokenizer, lm.bos_token_id, None)
    for i, (text, context) in enumerate(zip(prompts, found, strict=True), 1):
        said = f"{where} {i} = {text[:_SHOWN] + ('…' if len(text) > _SHOWN else '')!r}"
        if not context.keep.any():
            raise SpecError(f"{said}, but it has no token that is not a special one of {lm.name}; write a word")
        if lm.context_length is not None and len(context.token_id) > lm.context_length:
            bos = ", BOS included," if lm.bos_token_id is not None else ""
            raise SpecError(
                f"{said}, but it is {len(context.token_id):,} tokens{bos} and {lm.name} reads at most {lm.context_length:,}; "
                "shorten it, or make several of it"
            )
    return found


def target_of(subject: Subject, text: str) -> int:
    """The id of a text's first token. Raises ``SpecError`` for a text of none."""
    ids = subject.lm.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    if not ids:
        raise SpecError(f"target = {text!r}, but it has no token; write what may come next, with the space in front of it")
    return int(ids[0])


def latents_of(subject: Subject, contexts: Sequence[Context]) -> list[Latents]:
    """Latents_TK of each context, strongest first, on the CPU; those of special tokens are all 0."""
    found: dict[int, Latents] = {}
    for batch in batches(contexts, subject.batch_tokens):
        latents = subject.sae.encode(_read(subject, batch))
        for i, part in zip(batch.members, _rows(batch, latents.index_BK, latents.value_BK), strict=True):
            index, value = ordered(Latents(*part))
            found[i] = Latents(*(torch.from_numpy(_spread(x, contexts[i].keep, 0)) for x in (index, value)))
    return [found[i] for i in range(len(contexts))]


def ordered(latents: Latents) -> Latents:
    """Strongest first; columns in which no token has a latent are left out."""
    value, place = latents.value_BK.float().sort(dim=1, descending=True, stable=True)
    width = max(1, int((value > 0).sum(1).max()))
    return Latents(latents.index_BK.gather(1, place)[:, :width], value[:, :width])


def _read(subject: Subject, batch: Batch) -> Tensor:
    """What the SAE reads at the kept tokens of a batch: x_nD, float32 on the SAE's device."""
    sae = subject.sae
    seen = subject.lm.activations(batch.token_BT, batch.mask_BT, [sae.hookpoint])[sae.hookpoint]
    return seen[batch.keep_BT.to(seen.device)].float().to(sae.W_dec_ND.device)


def _rows(batch: Batch, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Of tensors over the kept tokens of a batch, each prompt's own part."""
    ends = batch.keep_BT.sum(1).cumsum(0).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        yield tuple(tensor[start:end] for tensor in tensors)


def _batch(subject: Subject, batch: Batch, prompts: Sequence[str], texts: Sequence[str], n_next: int) -> Iterator[Seen]:
    """What is seen of the prompts of a batch, in its order."""
    sae = subject.sae
    x_nD = _read(subject, batch)
    with torch.inference_mode():
        normed, undo = sae.norm.apply(x_nD)
        latents = sae.sae.encode(normed)
        hat_nD = sae.norm.invert(sae.sae.decode(latents, normed), undo)
    given = {"clean": [], "sae": [hat_nD], "zero": [torch.zeros_like(hat_nD)]}
    edits = {name: [Edit(sae.hookpoint, replaced(rows, batch.keep_BT)) for rows in each] for name, each in given.items()}
    runs = dict(losses(subject.lm, batch, edits, n_next))
    for row, (x, hat, *own) in enumerate(_rows(batch, x_nD, hat_nD, latents.index_BK, latents.value_BK)):
        length = int(batch.mask_BT[row].sum())
        token, keep = batch.token_BT[row, :length].numpy(), batch.keep_BT[row, :length].numpy()
        index, value = ordered(Latents(*own))
        exact, back = x.cpu().double(), hat.cpu().double()
        reconstruction = Reconstruction()
        reconstruction.update(exact, back)
        yield Seen(
            text=prompts[batch.members[row]],
            token_id=token,
            tokens=tuple(texts[i] for i in token),
            keep=keep,
            index_TK=_spread(index, keep, 0),
            value_TK=_spread(value, keep, 0),
            norm_T=_spread(exact.norm(dim=1), keep, np.nan),
            error_T=_spread((exact - back).norm(dim=1), keep, np.nan),
            cosine_T=_spread(torch.cosine_similarity(exact, back, dim=1), keep, np.nan),
            reconstruction=reconstruction,
            runs={name: _run(run, row, length, texts) for name, run in runs.items()},
        )


def _run(run: Run, row: int, length: int, texts: Sequence[str]) -> RunSeen:
    loss_T = run.loss_BT[row, :length].numpy().copy()
    kl_T = np.zeros(length) if run.kl_BT is None else run.kl_BT[row, :length].numpy().copy()
    loss_T[0] = kl_T[0] = np.nan
    guesses = () if run.next_Bn is None else zip(*(part[row].tolist() for part in run.next_Bn), strict=True)
    return RunSeen(loss_T, kl_T, tuple(Guess(i, texts[i], float(np.exp(log_p))) for log_p, i in guesses))


def _moved(subject: Subject, seen: Seen, target: int | None, texts: Sequence[str]) -> Seen:
    """The same with what its latents do for the next token."""
    from dataclasses import replace

    device = subject.sae.W_dec_ND.device
    token, keep = torch.from_numpy(seen.token_id), torch.from_numpy(seen.keep)
    at = subject.sae.hookpoint
    x_nD = subject.lm.activations(token[None], torch.ones_like(keep)[None], [at])[at][0]
    own = Latents(*(torch.from_numpy(each[seen.keep]).to(device) for each in (seen.index_TK, seen.value_TK)))
    found = attributed(subject, token, keep, own, x_nD[keep.to(x_nD.device)].float().to(device).clone(), target)
    guess = Guess(found.target, texts[found.target], float(np.exp(found.log_p)))
    moved = Attributed(guess, _spread(found.latent_nK, seen.keep, 0), _spread(found.rest_n, seen.keep, np.nan))
    return replace(seen, attributed=moved)


def _spread(rows: Any, keep: np.ndarray, fill: float) -> np.ndarray:
    """Rows of the kept tokens as rows of all, ``fill`` at special ones."""
    rows = rows.cpu().numpy()
    found = np.full((len(keep), *rows.shape[1:]), fill, rows.dtype)
    found[keep] = rows
    return found
