"""Specs and the runtime: if it changes the bytes it is a spec; if it changes where or how fast, it is runtime."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class SpecError(ValueError):
    """A mistake of the user's, told before any work is done.

    Message grammar: ``<what was typed> = <value>, but <fact>; <what to do>``.
    """


class Spec(BaseModel):
    """What is wanted. Frozen, typed, finite; every field is hashed, defaults included.

    To add a field without moving the keys of old artifacts, list it in ``KEEPS_KEY`` with the value under
    which nothing changes: equal to that value, the field is left out of the payload.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    KEEPS_KEY: ClassVar[dict[str, Any]] = {}

    def payload(self) -> dict[str, Any]:
        """The JSON that enters the key."""
        fields: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in self.KEEPS_KEY and value == self.KEEPS_KEY[name]:
                continue
            fields[name] = _payload(value)
        return fields

    def pinned(self) -> Self:
        """A copy with facts of the outside world (a file's fingerprint, a Python version) written in.

        Called once, when a config is composed, so that the key is right before any work is done.
        Kinds that read from outside the store override it. Raises ``SpecError`` for what is not there.
        """
        return self


def _payload(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.payload()
    if isinstance(value, (list, tuple)):
        return [_payload(item) for item in value]
    if isinstance(value, dict):
        return {name: _payload(item) for name, item in value.items()}
    return value


def _none(value: Any) -> Any:
    """The word none as people type it, which YAML takes for a string."""
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def without_password(url: str | None, where: str, sdk: str = "OPENAI") -> None:
    """Raise ``SpecError``, which does not show it, for an address that may hold a password: they are written down."""
    if "@" in (url or ""):
        raise SpecError(
            f"{where} has an @ in it, so a user or a password, but addresses are written down and shown; leave them out "
            f"and put the secret into {sdk}_API_KEY"
        )


class Runtime(BaseModel):
    """Where and how fast. Never enters a key, so any of it may change between two runs of the same thing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mode: Literal["local", "inline", "pool"] = "local"
    """``local``: under Prefect, in this process. ``inline``: without Prefect. ``pool``: by workers of Prefect work pools."""

    lanes: int = Field(0, ge=0)
    """In pool mode, jobs on GPUs at a time; 0 takes as many as workers of the pool are online."""

    lane_idle_seconds: float = Field(30.0, ge=0)
    """In pool mode, seconds without work for a GPU after which its lane ends and gives it back."""

    device: str = "auto"
    """A torch device: ``auto`` (cuda, else mps, else cpu), ``cpu``, ``cuda:0``."""

    gpu_share: bool = False
    """Let several jobs use one GPU at a time; without it, a second one waits for the first."""

    guard: str | None = None
    """Name of the lock that stages for a GPU hold while they work, one holder at a time on this host; null takes the
    GPU's own, and none on a CPU."""

    threads: int = Field(0, ge=0)
    """CPU threads of torch; 0 leaves torch's own choice."""

    processes: int = Field(1, ge=1)
    """Processes of this machine that train an SAE together, each on a GPU of its own or with its share of the CPU's threads."""

    shard: Literal["batch", "latents"] = "batch"
    """What those processes share out: ``batch``, the rows of every batch; ``latents``, the latents and their optimiser state."""

    lm_batch_tokens: int = Field(8192, ge=1)
    """Tokens, padding included, in one forward pass of the language model."""

    prefetch_batches: int = Field(4, ge=0)
    """Training batches read ahead by a background thread; 0 reads in the training thread."""

    saes_together: int = Field(4, ge=1)
    """SAEs of a sweep that are trained in one read of the activations, where they differ in nothing but themselves. Each takes
    memory for its weights three times; fewer are trained together where a GPU has no room for them."""

    checkpoint_seconds: float = Field(30.0, gt=0)
    """Seconds between two checkpoints of a training run."""

    lease_ttl_seconds: float = Field(60.0, gt=0)
    """Seconds of silence after which the holder of a lease on another host is taken for dead."""

    max_usd: Annotated[float | None, BeforeValidator(_none)] = Field(5.0, ge=0)
    """Hard stop: no LLM request is sent with which the run could pass this many US dollars, each counted at the most
    that it can cost. Null or ``none``: there is no limit, and models of unknown price may be asked."""

    poll_seconds: float = Field(30.0, gt=0)
    """Seconds between two looks at a message batch that is being worked on."""

    base_url: str | None = None
    """Address of the LLM API; null takes the SDK's own environment variable, then its default."""

    wandb: str | None = None
    """Weights & Biases project that training metrics are also sent to; null sends nothing."""

    debug: bool = False
    """Show tracebacks."""


