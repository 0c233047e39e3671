"""A language model, open for reading and editing activations. Shapes: B contexts, T tokens, D d_model, V vocabulary."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from artifacts.errors import ArtifactError
from tasks.kinds import decode, kinds
from tasks.lazy import torch, transformers
from tasks.lm.hookpoints import Hookpoint
from tasks.lm.loading import device_of, quiet
from tasks.lm.tokens import token_strings

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.store import Opened
    from tasks.families.base import Family
    from tasks.spec import Runtime


class Edit(NamedTuple):
    """A change of one activation on its way through the model."""

    hookpoint: str
    change: Callable[[Tensor], Tensor]
    """x_BTD to x_BTD."""


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
        """Width of the activations at a hookpoint: d_model at every site there is now."""
        self._module(hookpoint)
        return self.d_model

    def _module(self, hookpoint: str) -> Any:
        at = Hookpoint.parse(hookpoint)
        at.check(self.n_layers, self.name)
        if at.layer >= len(self.blocks):
            raise ArtifactError(f"{hookpoint} is wanted, but only {len(self.blocks)} layers were loaded; load more")
        block = self.blocks[at.layer]
        return {"resid": lambda b: b, "mlp": self.family.mlp, "attn": self.family.attn}[at.site](block)

    @contextmanager
    def _hooked(self, hooks: dict[str, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
        """Run ``hooks`` (hookpoint to function of x_BTD; a tensor returned replaces it) for the time of the block."""
        handles = []
        self._lock.acquire()
        try:
            for hookpoint, function in hooks.items():

                def hook(_module: Any, _inputs: Any, output: Any, function: Any = function) -> Any:
                    # transformers 5 blocks return a tensor, attention a tuple; 4.x blocks a tuple
                    found = function(output[0] if isinstance(output, tuple) else output)
                    if found is None:
                        return None
                    return (found, *output[1:]) if isinstance(output, tuple) else found

                handles.append(self._module(hookpoint).register_forward_hook(hook))
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

        with torch.inference_mode(), self._hooked({h: keep(h) for h in hookpoints}):
            try:
                self.model.base_model(
                    input_ids=token_BT.to(self.device), attention_mask=mask_BT.long().to(self.device), use_cache=False
                )
            except _Stop:
                pass
        return {h: seen[h] for h in hookpoints}

    def logits(self, token_BT: Tensor, mask_BT: Tensor, *edits: Edit | None) -> Tensor:
        """Logits_BTV, with activations edited on the way where asked for. Needs all layers."""
        self._check_whole()
        hooks = {edit.hookpoint: edit.change for edit in edits if edit}
        with torch.inference_mode(), self._hooked(hooks):
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

        with torch.enable_grad(), self._hooked({h: pushed(h) for h in hookpoints}):
            logits = self.model(
                input_ids=token_BT.to(self.device), attention_mask=mask_BT.long().to(self.device), use_cache=False
            ).logits
            found = torch.autograd.grad(objective(logits), [pushes[h] for h in hookpoints])
        return {h: gradient.float() for h, gradient in zip(hookpoints, found, strict=True)}

    def next_logits(self, token_BT: Tensor, edit: Edit | None = None) -> Tensor:
        """Logits_BV of the token after each row. Rows are of one length, without padding. Needs all layers."""
        return self._last(token_BT, None, edit, use_cache=False)[0]

    def generate(
        self,
        token_BT: Tensor,
        n_tokens: int,
        choose: Callable[[Tensor], Tensor],
        edit_at: Callable[[int], Edit | None] = lambda first: None,
    ) -> Iterator[Tensor]:
        """The tokens that follow some rows, token_B after token_B: int64 on the model's device.

        Rows are of one length, without padding. ``choose`` takes logits_BV to token_B. A pass reads the positions that
        the key-value cache does not hold yet: first the prompt, then one token at a time; ``edit_at`` gives the edit of
        the pass that begins at a position. Ends of texts are the caller's to see: it goes on until nobody asks.
        """
        held, past, first, fed = token_BT.to(self.device), None, 0, token_BT
        for _ in range(n_tokens):
            logits_BV, past = self._last(fed, past, edit_at(first), use_cache=True)
            token_B = choose(logits_BV)
            yield token_B
            held = torch.cat([held, token_B[:, None]], dim=1)
            # a model that gives no cache reads all of it again
            first, fed = (0, held) if past is None else (held.shape[1] - 1, token_B[:, None])

    def _last(self, token_BT: Tensor, past: Any, edit: Edit | None, use_cache: bool) -> tuple[Tensor, Any]:
        """Logits_BV at the last position, and the cache."""
        self._check_whole()
        # the unembedding of all positions is most of a pass over a short text
        more = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(self.model.forward).parameters else {}
        more |= {} if past is None else {"past_key_values": past}
        with torch.inference_mode(), self._hooked({edit.hookpoint: edit.change} if edit else {}):
            out = self.model(input_ids=token_BT.to(self.device), use_cache=use_cache, **more)
        return out.logits[:, -1], getattr(out, "past_key_values", None)

    def _check_whole(self) -> None:
        if len(self.blocks) < self.n_layers:
            raise ArtifactError(f"logits need all {self.n_layers} layers, but {len(self.blocks)} were loaded; load all")

    def check_hooks(self) -> None:
        """Compare what hooks see with the model's own hidden states. Raises ``ArtifactError`` when they differ.

        The last block is left out: its entry in ``hidden_states`` has been through the final norm.
        """
        n = len(self.blocks)
        n_tokens = min(16, self.model.config.get_text_config().max_position_embeddings or 16)
        draw = torch.Generator().manual_seed(0)
        token_BT = torch.randint(0, self.model.config.get_text_config().vocab_size, (2, n_tokens), generator=draw)
        mask_BT = torch.ones_like(token_BT, dtype=torch.bool)
        hookpoints = [f"layers.{i}" for i in range(n)]
        seen = self.activations(token_BT, mask_BT, hookpoints)
        with torch.inference_mode():
            states = self.model.base_model(
                input_ids=token_BT.to(self.device), use_cache=False, output_hidden_states=True
            ).hidden_states
        for layer in range(n - 1):
            ours, theirs = seen[f"layers.{layer}"].float(), states[layer + 1].float()
            worst = (ours - theirs).abs().max().item() if ours.shape == theirs.shape else float("inf")
            scale = theirs.abs().max().item()
            if not worst <= 1e-2 * scale + 1e-6:
                raise ArtifactError(
                    f"{self.name}: the hook at layers.{layer} sees {tuple(ours.shape)} values that differ by up to "
                    f"{worst:.3g} from hidden_states[{layer + 1}] {tuple(theirs.shape)}, but they must agree; "
                    "add a file for this model to tasks/families/"
                )

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
        gain = getattr(norm, "weight", None)
        if gain is not None:
            # Gemma's norms multiply by 1 + weight
            folded = gain.float() + 1 if "gemma" in type(norm).__name__.lower() else gain.float()
            weight = weight * folded
        return weight, self.token_strings()


def family_of(model: Any) -> Family:
    """The family that knows a model: one of its own if there is one, else the generic."""
    names = sorted(kinds("tasks.families"), key=lambda name: name == "generic")
    return next(f for f in (decode("tasks.families", {"kind": name}) for name in names) if f.matches(model))
