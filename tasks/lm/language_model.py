"""A language model, open for reading and editing activations. Shapes: B contexts, T tokens, D d_model, V vocabulary."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from artifacts.errors import ArtifactError
from tasks.kinds import decode, kinds
from tasks.lazy import torch, transformers
from tasks.lm.hookpoints import Hookpoint
from tasks.lm.hooks import Edit, check_hooks, gain_of, hooked, widths_of
from tasks.lm.loading import device_of, quiet
from tasks.lm.tokens import token_strings
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.store import Opened
    from tasks.families.base import Family
    from tasks.spec import Runtime


__all__ = ["Edit", "LanguageModel", "family_of"]


class _Stop(Exception):
    """Raised from a hook when all that was wanted has been seen. The model stays sane."""


class LanguageModel:
    """A causal language model of transformers, its tokenizer and its hookpoints."""

    def __init__(self, model: Any, tokenizer: Any, device: str, n_layers: int, name: str) -> None:
        self.model, self.tokenizer, self.device, self.name = model, tokenizer, device, name
        self.n_layers = n_layers
        """Layers of the whole model, loaded or not."""
        self.family = family_of(model)
        self.blocks = self.family.blocks(model)
        self._lock = RLock()
        """Hooks are the model's, not a caller's: one pass at a time, whatever the threads."""

    @staticmethod
    def open(opened: Opened, runtime: Runtime, dtype: str = "float32", n_layers: int | None = None) -> LanguageModel:
        """The model of an ``lm`` artifact.

        With ``n_layers``, only the first that many blocks are read from disk: enough for activations, not for
        logits. Raises ``SpecError`` when the model is not what it was when the artifact was made.
        """
        from tasks.lm.loading import source_of

        facts = opened.summary
        source, revision = source_of(opened)
        device = device_of(runtime)
        keep = facts["n_layers"] if n_layers is None else min(n_layers, facts["n_layers"])
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                source, revision=revision, trust_remote_code=False, local_files_only=Path(source).exists()
            )
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision,
                num_hidden_layers=keep,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=Path(source).exists(),
            )
        model = model.to(device).eval().requires_grad_(False)
        return LanguageModel(model, tokenizer, device, facts["n_layers"], facts.get("name") or str(source))

    @property
    def d_model(self) -> int:
        return self.model.config.get_text_config().hidden_size

    @property
    def dtype(self) -> Any:
        return self.model.dtype

    @property
    def bos_token_id(self) -> int | None:
        return self.tokenizer.bos_token_id

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        held = getattr(self.model, "generation_config", None)
        found = getattr(held, "eos_token_id", None)
        found = self.tokenizer.eos_token_id if found is None else found
        return frozenset() if found is None else frozenset([found] if isinstance(found, int) else found)

    @property
    def context_length(self) -> int | None:
        """Most tokens that it reads at once; None where it does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def d_at(self, hookpoint: str) -> int:
        """Width of the activations at a hookpoint. Raises ``SpecError`` where this model has no such place."""
        module, at = self.place(hookpoint), Hookpoint.parse(hookpoint)
        return widths_of(module)[0] if at.site in ("z", "mlp_act") else self.d_model

    def output_weight(self, hookpoint: str) -> Tensor | None:
        """The matrix that takes a row at a hookpoint to the residual stream; None where rows are of the stream, or added to it.

        Gains of norms that come after it (Gemma 2 and 3) are in it. Raises ``SpecError`` for ``mlp_in``, which no matrix takes there.
        """
        at = Hookpoint.parse(hookpoint)
        if at.site == "mlp_in":
            raise SpecError(f"{hookpoint} is what an MLP reads, but no one matrix takes it to the residual stream")
        if at.site not in ("z", "mlp_act"):
            return None
        module, block = self.place(hookpoint), self.blocks[at.layer]
        weight = module.weight.float()
        weight = weight.T if isinstance(module, transformers.pytorch_utils.Conv1D) else weight
        after = (self.family.attn if at.site == "z" else self.family.mlp)(block)
        gain = gain_of(after)
        return weight if gain is None else gain[:, None] * weight

    def place(self, hookpoint: str) -> Any:
        """The module that a hookpoint is the output or the input of."""
        at = Hookpoint.parse(hookpoint)
        at.check(self.n_layers, self.name)
        layer = max(at.layer, 0)
        if layer >= len(self.blocks):
            raise ArtifactError(f"{hookpoint} is wanted, but only {len(self.blocks)} layers were loaded; load more")
        family, block = self.family, self.blocks[layer]
        if at.site == "resid":
            return block
        find = {
            "z": family.attn_output, "attn": family.attn, "resid_mid": family.mlp_norm, "mlp_in": family.mlp_reader,
            "mlp_act": family.mlp_output, "mlp": family.mlp,
        }[at.site]  # fmt: skip
        try:
            return find(block)
        except SpecError as error:
            raise SpecError(f"capture.hookpoint = {hookpoint!r}, but in {self.name} the block {error}") from None

    @contextmanager
    def edited(self, edits: Sequence[Edit]) -> Iterator[None]:
        """Run the functions of some edits at their hookpoints for the time of the block, in which the model is this thread's."""
        handles = []
        self._lock.acquire()
        try:
            for edit in edits:
                handles.append(hooked(self.place(edit.hookpoint), edit))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._lock.release()

    def activations(self, token_BT: Tensor, mask_BT: Tensor, hookpoints: Sequence[str]) -> dict[str, Tensor]:
        """x_BTD at each hookpoint, in the model's dtype. The pass ends as soon as the last of them is seen.

        ``mask_BT`` is False at padding, which belongs on the right: a causal model never looks there, so the real
        tokens' activations do not depend on it.
        """
        seen: dict[str, Tensor] = {}

        def keep(hookpoint: str) -> Callable[[Tensor], None]:
            def function(x_BTD: Tensor) -> None:
                seen[hookpoint] = x_BTD
                if len(seen) == len(set(hookpoints)):
                    raise _Stop

            return function

        with torch.inference_mode(), self.edited([Edit(h, keep(h)) for h in set(hookpoints)]):
            try:
                self.model.base_model(
                    input_ids=token_BT.to(self.device), attention_mask=mask_BT.long().to(self.device), use_cache=False
                )
            except _Stop:
                pass
        return {h: seen[h] for h in hookpoints}

    def logits(self, token_BT: Tensor, mask_BT: Tensor, *edits: Edit) -> Tensor:
        """Logits_BTV, with activations edited on the way where asked for. Needs all layers."""
        self._check_whole()
        with torch.inference_mode(), self.edited(edits):
            return self.model(
                input_ids=token_BT.to(self.device), attention_mask=mask_BT.long().to(self.device), use_cache=False
            ).logits

    def gradients(
        self, token_BT: Tensor, mask_BT: Tensor, hookpoints: Sequence[str], objective: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Derivatives of a number with respect to the activations at some hookpoints: float32 BTD. Needs all layers.

        ``objective`` makes the number of logits_BTV. What is derived is a push at the hookpoint, with all that follows of
        it, through later hookpoints too.
        """
        self._check_whole()
        pushes: dict[str, Tensor] = {}

        def pushed(hookpoint: str) -> Callable[[Tensor], Tensor]:
            def function(x_BTD: Tensor) -> Tensor:
                pushes[hookpoint] = torch.zeros_like(x_BTD, requires_grad=True)
                return x_BTD + pushes[hookpoint]

            return function

        with torch.enable_grad(), self.edited([Edit(h, pushed(h)) for h in hookpoints]):
            logits = self.model(
                input_ids=token_BT.to(self.device), attention_mask=mask_BT.long().to(self.device), use_cache=False
            ).logits
            found = torch.autograd.grad(objective(logits), [pushes[h] for h in hookpoints])
        return {h: gradient.float() for h, gradient in zip(hookpoints, found, strict=True)}

    def next_logits(self, token_BT: Tensor, *edits: Edit) -> Tensor:
        """Logits_BV of the token after each row. Rows are of one length, without padding. Needs all layers."""
        return self._last(token_BT, None, edits, use_cache=False)[0]

    def generate(
        self,
        token_BT: Tensor,
        n_tokens: int,
        choose: Callable[[Tensor], Tensor],
        edits_at: Callable[[int], Sequence[Edit]] = lambda first: (),
    ) -> Iterator[Tensor]:
        """The tokens that follow some rows, token_B after token_B: int64 on the model's device.

        Rows are of one length, without padding. ``choose`` takes logits_BV to token_B. A pass reads the positions that
        the key-value cache does not hold yet: first the prompt, then one token at a time; ``edits_at`` gives the edits of
        the pass that begins at a position. Ends of texts are the caller's to see: it goes on until nobody asks.
        """
        held, past, first, fed = token_BT.to(self.device), None, 0, token_BT
        for _ in range(n_tokens):
            logits_BV, past = self._last(fed, past, edits_at(first), use_cache=True)
            token_B = choose(logits_BV)
            yield token_B
            held = torch.cat([held, token_B[:, None]], dim=1)
            # a model that gives no cache reads all of it again
            first, fed = (0, held) if past is None else (held.shape[1] - 1, token_B[:, None])

    def _last(self, token_BT: Tensor, past: Any, edits: Sequence[Edit], use_cache: bool) -> tuple[Tensor, Any]:
        """Logits_BV at the last position, and the cache."""
        self._check_whole()
        # the unembedding of all positions is most of a pass over a short text
        more = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(self.model.forward).parameters else {}
        more |= {} if past is None else {"past_key_values": past}
        with torch.inference_mode(), self.edited(edits):
            out = self.model(input_ids=token_BT.to(self.device), use_cache=use_cache, **more)
        return out.logits[:, -1], getattr(out, "past_key_values", None)

    def _check_whole(self) -> None:
        if len(self.blocks) < self.n_layers:
            raise ArtifactError(f"logits need all {self.n_layers} layers, but {len(self.blocks)} were loaded; load all")

    def check_hooks(self, hookpoints: Sequence[str] = ()) -> None:
        """Compare what hooks see with the model's own hidden states. Raises ``ArtifactError`` when they differ.

        The last block is left out: its entry in ``hidden_states`` has been through the final norm. Of ``hookpoints``, those between
        attention and MLP (which a norm's name tells) must be the stream before the block and some multiple of what attention adds.
        """
        check_hooks(self, hookpoints)

    def token_strings(self) -> list[str]:
        """Text of every token id; joined they read as the text."""
        return token_strings(self.tokenizer, self.model.config.get_text_config().vocab_size)

    def unembedding(self) -> tuple[Tensor, list[str]]:
        """W_VD, with the final norm's gain folded in, in float32, and the V token texts.

        ``W_VD @ direction`` is how much a direction of the residual stream pushes each token up, but for the scale
        that the final norm takes out.
        """
        weight = self.family.unembedding(self.model).float()
        norm = self.family.final_norm(self.model)
        gain = gain_of(norm)
        if gain is not None:
            weight = weight * gain
        return weight, self.token_strings()


def family_of(model: Any) -> Family:
    """The family that knows a model: one of its own if there is one, else the generic."""
    names = sorted(kinds("tasks.families"), key=lambda name: name == "generic")
    return next(f for f in (decode("tasks.families", {"kind": name}) for name in names) if f.matches(model))
