"""SAINT in a notebook: an SAE of a store, with its language model and what is said of its latents, in three lines.

    from flows.api import open_sae
    sae = open_sae("train/3f2a")                        # an SAE that was trained here, or imported (adopt/...)
    sae.inspect("Once upon a time")                     # a page in a notebook; tables and tensors underneath

``with sae.steering({17: 0.8}) as model`` is the model of transformers itself, steered for the time of the block: latent 17 by 0.8 times
the largest activation that was seen of it, as the command line and the page count, too. A steering recipe
(``saint steer --save her.json``) says ``load_recipe("her.json").run().steered``.

The language model is opened when it is first needed, the store's labels and scores when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from operator import index
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, overload

from artifacts.keys import Artifact
from artifacts.manifest import Manifest
from artifacts.store import Store
from flows.belongings import Said, lm_of, sae_named, said_of
from flows.inspected import Inspected
from flows.models import Models
from flows.places import store_at
from flows.steered import load_recipe
from tasks.inspection.known import NOTHING
from tasks.lazy import np
from tasks.spec import Runtime, SpecError

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import Table
    from torch import Tensor

    from tasks.lm.lens import Pushed
    from tasks.steering.push import Mode, Positions, Push
    from tasks.steering.subject import Subject
    from tasks.trained import TrainedSAE

__all__ = ["Encoded", "OpenSAE", "load_recipe", "open_sae"]

Unit = Literal["largest", "activation"]
"""What strengths count in: multiples of the latent's largest observed activation, or activations."""


def open_sae(
    name: str | None = None,
    store: str | Path | Store | None = None,
    *,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    explain: str | None = None,
) -> OpenSAE:
    """An SAE of a store, by name: ``train/3f2a``, ``adopt/90c1``, or as many characters of its key as tell it apart.
    Without a name it is the newest.

    ``store`` is a folder, ``s3://bucket/prefix`` or a store; without it ``$SAINT_STORE``, then ``saint-store`` here, as for
    the command line. ``device`` and ``dtype`` are the language model's. ``explain`` names explanations, where not each
    latent's newest are wanted. Raises ``SpecError``.
    """
    opened = store if isinstance(store, Store) else store_at(store)
    runtime = Runtime(mode="inline", device=device)
    return OpenSAE(opened, sae_named(opened, name), runtime, dtype, explain)


@dataclass(frozen=True)
class Encoded:
    """The latents of one text. Shapes: T tokens, special ones among them; K active latents of a token; N n_latents."""

    text: str
    tokens: tuple[str, ...]
    token_id_T: np.ndarray
    keep_T: np.ndarray
    """bool; False for BOS and other special tokens, whose latents are all 0."""

    index_TK: Tensor
    """int64, strongest first; where the value is 0 there is no latent."""

    value_TK: Tensor
    """float32, in units of the normalised input."""

    n_latents: int

    def dense(self) -> Tensor:
        """The same as value_TN."""
        found = self.value_TK.new_zeros(len(self.tokens), self.n_latents)
        return found.scatter_reduce_(1, self.index_TK, self.value_TK, "amax")


class OpenSAE:
    """An SAE of a store, open for looking at and steering with. May be used by several threads."""

    def __init__(
        self, store: Store, manifest: Manifest, runtime: Runtime, dtype: str = "float32", explain: str | None = None,
        models: Models | None = None,
    ) -> None:  # fmt: skip
        """``models``: what it has opened in common with others; None: its own."""
        self.store, self.manifest, self.runtime, self.dtype, self.explain = store, manifest, runtime, dtype, explain
        self.models = models
        self._opening = RLock()

    def __repr__(self) -> str:
        return f"<SAE {self.artifact} at {self.hookpoint}: {self.n_latents:,} latents>"

    @property
    def artifact(self) -> Artifact:
        return self.manifest.artifact

    @property
    def hookpoint(self) -> str:
        return self.manifest.summary["hookpoint"]

    @property
    def n_latents(self) -> int:
        return int(self.manifest.summary["n_latents"])

    @cached_property
    def lm(self) -> Manifest:
        """The artifact of its language model. Raises ``SpecError`` where that is gone."""
        found = self.store.find(lm_of(self.store, self.manifest))
        assert found is not None, "lm_of has seen it"
        return found

    @property
    def subject(self) -> Subject:
        """The SAE and its language model, opened now if they are not yet."""
        from tasks.steering.subject import Subject

        with self._opening:
            if self.models is None:
                return self._subject
            # not kept: which language models are held is decided for all SAEs together
            return Subject(self.models.lm(self.lm.artifact, self.dtype), self.models.sae(self.artifact), self.runtime.lm_batch_tokens)

    @cached_property
    def _subject(self) -> Subject:
        from tasks.steering.subject import Subject

        return Subject.open(self.store.open(self.lm.artifact), self.store.open(self.artifact), self.runtime, self.dtype)

    @property
    def trained(self) -> TrainedSAE:
        """The SAE by itself, with its norm: tensors by name in ``trained.sae.weights()``. Opens no language model."""
        with self._opening:
            if self.models is not None:
                return self.models.sae(self.artifact)
            return self._subject.sae if "_subject" in self.__dict__ else self._trained

    @cached_property
    def _trained(self) -> TrainedSAE:
        from tasks.lm.loading import device_of
        from tasks.trained import TrainedSAE

        return TrainedSAE.open(self.store.open(self.artifact)).to(device_of(self.runtime))

    @property
    def said(self) -> Said:
        """What the store has on the latents: labels, scores, largest activations, densities."""
        with self._opening:
            return self._said

    @cached_property
    def _said(self) -> Said:
        return said_of(self.store, self.manifest, self.explain)

    @property
    def explanations(self) -> Table:
        """One row per latent: label, status, a column for each scorer, largest activation, density. ``.to_pandas()`` where wanted."""
        return self.said.table

    @overload
    def encode(self, texts: str) -> Encoded: ...
    @overload
    def encode(self, texts: Sequence[str]) -> list[Encoded]: ...
    def encode(self, texts: str | Sequence[str]) -> Encoded | list[Encoded]:
        """Tokens and latents of a text, or of each of several. Raises ``SpecError`` for one of no token, or too long a one."""
        from tasks.inspection.looking import contexts_of, latents_of

        several = [texts] if isinstance(texts, str) else list(texts)
        subject = self.subject
        contexts = contexts_of(subject, several, "text")
        words = subject.lm.token_strings()
        found = [
            Encoded(text, tuple(words[i] for i in one.token_id), one.token_id, one.keep, *latents, self.n_latents)
            for text, one, latents in zip(several, contexts, latents_of(subject, contexts), strict=True)
        ]
        return found[0] if isinstance(texts, str) else found

    def inspect(
        self,
        prompts: str | Sequence[str],
        *,
        latents: Iterable[int] = (),
        by: str = "sum",
        top: int = 10,
        attribute: bool | str = False,
        n_next: int = 5,
        n_pushed: int = 8,
    ) -> Inspected:
        """What the SAE makes of a prompt, or of several. See ``tasks.inspection``.

        ``latents`` are looked at whether active or not; ``by`` ranks the others (sum, max, n_tokens, attribution), and of the
        first ``top`` it is told which tokens their decoder rows push. ``attribute``: also what each latent does for the
        next token, the likeliest (True) or a given one.
        """
        from tasks.inspection.looking import inspect
        from tasks.inspection.plain import plain
        from tasks.steering.push import check_latents

        subject, wanted = self.subject, list(latents)
        check_latents(subject.sae, wanted)
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        found = inspect(subject, several, attribute=attribute, n_next=n_next)
        known = self.said.known([*wanted, *(one.latent for one in found.latents())])
        body = plain(found, known, wanted=wanted, by=by)
        shown, no_lens = [row for row in body["latents"] if row["wanted"]] or body["latents"][:top], None
        try:
            pushed = self.promoted([row["latent"] for row in shown], n_pushed)
        except SpecError as error:  # of one who looks at what an MLP reads, for one
            pushed, no_lens = [((), ())] * len(shown), str(error)
        for row, (up, down) in zip(shown, pushed, strict=True):
            row |= {"promoted": [list(each) for each in up], "suppressed": [list(each) for each in down]}
        about = {
            "sae": f"{self.artifact.stage}/{self.artifact.key}",
            "kind": subject.sae.sae.spec.payload().get("kind"),
            "lm": f"{self.lm.artifact.stage}/{self.lm.artifact.key}",
            "model": subject.lm.name,
            "explanations": list(self.said.explain),
            "scorers": list(self.said.scorers),
            "no_lens": no_lens,
        }
        return Inspected(found, {**about, **body})

    def promoted(self, latents: Sequence[int], n: int = 10) -> list[tuple[tuple[Pushed, ...], tuple[Pushed, ...]]]:
        """For each latent the tokens that its decoder row pushes up most, and down, with their logits.

        Raises ``SpecError`` for an SAE whose rows have no way to the residual stream.
        """
        from tasks.lm.lens import Lens, to_stream
        from tasks.steering.push import check_latents

        subject = self.subject
        check_latents(subject.sae, latents)
        directions = to_stream(subject.lm, subject.sae)
        return Lens(subject.lm).told(directions(subject.sae.W_dec_ND[list(latents)]), n) if latents else []

    @overload
    def steer(self, turned: Mapping[int, float], prompts: str, n_tokens: int = 40, **options: Any) -> str: ...
    @overload
    def steer(self, turned: Mapping[int, float], prompts: Sequence[str], n_tokens: int = 40, **options: Any) -> list[str]: ...
    def steer(
        self,
        turned: Mapping[int, float],
        prompts: str | Sequence[str],
        n_tokens: int = 40,
        *,
        unit: Unit = "largest",
        mode: Mode = "add",
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        positions: Positions = "all",
    ) -> str | list[str]:
        """The text that follows a prompt, or each of several, with some latents turned: ``{17: 0.8}`` adds to latent 17 0.8 times
        its largest activation.

        ``unit`` ``largest`` counts in multiples of the largest activation that was seen of a latent, as the command line, the page
        and recipes do; ``activation`` in the activations themselves, as ``inspect`` shows them. ``mode`` says how it is turned:
        added to, clamped, ablated, or biased before the encoder chooses (``tasks.steering.push.Mode``). Without latents, ``{}``, it is
        what the model itself says with the same draws. Raises ``SpecError`` for a latent there is none of, or whose largest
        activation nobody knows, and for a mode, unit or number that is none.
        """
        from tasks.inspection.looking import contexts_of
        from tasks.steering.push import Row

        pushes = self._pushes(turned, unit, mode, positions)
        if not isinstance(n_tokens, int) or n_tokens < 1:
            raise SpecError(f"n_tokens = {n_tokens!r}, but it is a number of tokens; give 1 or more")
        subject = self.subject
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        rows = [Row(context, pushes) for context in contexts_of(subject, several)]
        found = subject.continuations(rows, n_tokens, temperature=temperature, top_p=top_p, seed=seed, positions=positions)
        return found[0] if isinstance(prompts, str) else found

    def steering(
        self,
        turned: Mapping[int, float],
        *,
        unit: Unit = "largest",
        mode: Mode = "add",
        positions: Positions = "all",
    ) -> AbstractContextManager[Any]:
        """The model of transformers itself, steered for the time of a block: ``with sae.steering({17: 0.8}) as model``.

        Every row of every call is pushed, whoever makes it, and other threads wait; ``turned`` is as for ``steer``.
        """
        from tasks.steering.holding import holding

        pushes = self._pushes(turned, unit, mode, positions)
        return holding(self.subject, pushes, positions)

    def _pushes(self, turned: Mapping[int, float], unit: str, mode: str, positions: str) -> tuple[Push, ...]:
        from flows.wishes import Wish, largest_of
        from tasks.steering.push import Mode, Positions, Push, check_choice, check_latents

        for name, value, choices in (("unit", unit, Unit), ("mode", mode, Mode), ("positions", positions, Positions)):
            check_choice(name, value, choices)
        strengths = _numbers(turned)
        check_latents(self, list(strengths))
        own = 1.0 if unit == "activation" else None
        wishes = [Wish(latent, strength, mode, own) for latent, strength in strengths.items()]
        known = self.said.known(strengths) if strengths and own is None else dict.fromkeys(strengths, NOTHING)
        return tuple(Push(w.latent, w.strength, largest_of(self.store, self.manifest, w, known[w.latent]), mode) for w in wishes)


def _numbers(turned: Mapping[Any, Any]) -> dict[int, float]:
    """Latents and strengths, whoever's numbers they are. Raises ``SpecError`` for what is none."""
    if not isinstance(turned, Mapping):
        raise SpecError(f"turned = {turned!r}, but it says of each latent how far; as in {{17: 0.8}}")
    found = {}
    for latent, strength in turned.items():
        try:
            latent = index(latent)
        except TypeError:
            raise SpecError(f"latent = {latent!r}, but a latent is a whole number; as in {{17: 0.8}}") from None
        try:
            finite = isfinite(strength)
        except TypeError:
            finite = False
        if not finite:
            raise SpecError(f"strength = {strength!r} for latent {latent}, but it is no finite number; as in {{17: 0.8}}")
        found[latent] = float(strength)
    return found
