"""Looking at prompts: one pass for the activations, one for each run.

Shapes: B prompts of a batch, T tokens, n tokens of them that are kept, D d_in, O d_out, K active latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.inspection.attribution import attributed
from tasks.inspection.seen import Attributed, Guess, Inspection, RunSeen, Seen
from tasks.lazy import np, torch
from tasks.lm.buckets import Batch, batches
from tasks.lm.contexts import Context, of_texts
from tasks.lm.hooks import Edit
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
    first of a text that might go on there. ``n_next`` is how many likeliest next tokens each run tells.

    Raises ``SpecError`` for no prompt, one without a token, and one longer than the model reads.
    """
    contexts = contexts_of(subject, prompts, where)
    texts = subject.lm.token_strings()
    found: dict[int, Seen] = {}
    for batch in batches(contexts, max(1, min(subject.batch_tokens, MAX_LOGITS // len(texts)))):
        for i, seen in zip(batch.members, _batch(subject, batch, prompts, texts, n_next), strict=True):
            target = target_of(subject, seen, attribute, texts) if isinstance(attribute, str) else None
            found[i] = seen if attribute is False else _moved(subject, seen, target, texts)
    return Inspection(tuple(found[i] for i in range(len(contexts))), subject.sae.n_latents, subject.sae.hookpoint)


def contexts_of(subject: Subject, prompts: Sequence[str], where: str = "prompt") -> list[Context]:
    """Prompts as tokens, whole. Raises ``SpecError`` as ``inspect`` does."""
    lm = subject.lm
    if not prompts:
        raise SpecError(f"{where}s = [], but there is nothing to look at; give one")
    found = of_texts(prompts, lm.tokenizer, lm.bos_token_id, None)
    for i, (text, context) in enumerate(zip(prompts, found, strict=True), 1):
        said = f"{where} {i} = {_shown(text)!r}"
        if not context.keep.any():
            raise SpecError(f"{said}, but it has no token that is not a special one of {lm.name}; write a word")
        if lm.context_length is not None and len(context.token_id) > lm.context_length:
            bos = ", BOS included," if lm.bos_token_id is not None else ""
            raise SpecError(
                f"{said}, but it is {len(context.token_id):,} tokens{bos} and {lm.name} reads at most {lm.context_length:,}; "
                "shorten it, or make several of it"
            )
    return found


def target_of(subject: Subject, seen: Seen, text: str, texts: Sequence[str]) -> int:
    """The id of the token that a text begins with after a prompt. Raises ``SpecError`` where none does."""
    tokenizer = subject.lm.tokenizer
    alone, whole = (tokenizer(each, add_special_tokens=False, verbose=False).input_ids for each in (seen.text, seen.text + text))
    if text and len(whole) > len(alone) and whole[: len(alone)] == alone:
        return int(whole[len(alone)])
    if text in texts:  # it would flow into the prompt's last token, but it is one
        return texts.index(text)
    raise SpecError(
        f"target = {text!r}, but no token after {_shown(seen.text)!r} begins with it; write what may come next, with the space "
        "in front of it where there is one"
    )


def latents_of(subject: Subject, contexts: Sequence[Context]) -> list[Latents]:
    """Latents_TK of each context, strongest first, on the CPU; those of special tokens are all 0."""
    found: dict[int, Latents] = {}
    for batch in batches(contexts, subject.batch_tokens):
        latents = subject.sae.encode(_sides(subject, batch)[0])
        for i, part in zip(batch.members, _rows(batch, latents.index_BK, latents.value_BK), strict=True):
            index, value = ordered(Latents(*part))
            found[i] = Latents(*(torch.from_numpy(_spread(x, contexts[i].keep, 0)) for x in (index, value)))
    return [found[i] for i in range(len(contexts))]


def ordered(latents: Latents) -> Latents:
    """Strongest first; columns in which no token has a latent are left out."""
    value, place = latents.value_BK.float().sort(dim=1, descending=True, stable=True)
    width = max(1, int((value > 0).sum(1).max()))
    return Latents(latents.index_BK.gather(1, place)[:, :width], value[:, :width])


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _sides(subject: Subject, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the SAE reads at the kept tokens of a batch, x_nD, and what it is to give, y_nO; float32 on the SAE's device."""
    sae = subject.sae
    seen = subject.lm.activations(batch.token_BT, batch.mask_BT, sae.sites.hookpoints)
    kept = {h: x_BTD[batch.keep_BT.to(x_BTD.device)].float().to(sae.W_dec_ND.device) for h, x_BTD in seen.items()}
    return sae.read(kept), torch.cat([kept[h] for h in sae.sites.writes], -1)


def _rows(batch: Batch, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Of tensors over the kept tokens of a batch, each prompt's own part."""
    ends = batch.keep_BT.sum(1).cumsum(0).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        yield tuple(tensor[start:end] for tensor in tensors)


def _batch(subject: Subject, batch: Batch, prompts: Sequence[str], texts: Sequence[str], n_next: int) -> Iterator[Seen]:
    """What is seen of the prompts of a batch, in its order."""
    sae = subject.sae
    x_nD, y_nO = _sides(subject, batch)
    with torch.inference_mode():
        normed, undo = sae.norm.apply(x_nD)
        latents = sae.sae.encode(normed)
        hat_nO = sae.norm.invert(sae.sae.decode(latents, normed), undo)
    # what is read is what the clean model has there, so that all that is written can be put in at once, wherever it stands
    given = {"clean": {}, "sae": sae.written(hat_nO), "zero": sae.written(torch.zeros_like(hat_nO))}
    edits = {name: [Edit(h, replaced(rows, batch.keep_BT)) for h, rows in each.items()] for name, each in given.items()}
    runs = dict(losses(subject.lm, batch, edits, n_next))
    for row, (y, hat, *own) in enumerate(_rows(batch, y_nO, hat_nO, latents.index_BK, latents.value_BK)):
        length = int(batch.mask_BT[row].sum())
        token, keep = batch.token_BT[row, :length].numpy(), batch.keep_BT[row, :length].numpy()
        index, value = ordered(Latents(*own))
        exact, back = y.cpu().double(), hat.cpu().double()
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
    (batch,) = batches([Context(seen.token_id, seen.keep, seen.token_id, 0)], len(seen.token_id))
    x_nD, y_nO = _sides(subject, batch)
    own = Latents(*(torch.from_numpy(each[seen.keep]).to(x_nD.device) for each in (seen.index_TK, seen.value_TK)))
    found = attributed(subject, batch, own, x_nD.clone(), y_nO.clone(), target)
    guess = Guess(found.target, texts[found.target], float(np.exp(found.log_p)))
    moved = Attributed(guess, _spread(found.latent_nK, seen.keep, 0), _spread(found.rest_n, seen.keep, np.nan))
    return replace(seen, attributed=moved)


def _spread(rows: Any, keep: np.ndarray, fill: float) -> np.ndarray:
    """Rows of the kept tokens as rows of all, ``fill`` at special ones."""
    rows = rows.cpu().numpy()
    found = np.full((len(keep), *rows.shape[1:]), fill, rows.dtype)
    found[keep] = rows
    return found
