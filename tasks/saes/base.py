"""What every SAE is. Shapes: B tokens, D d_in (of decoder tensors: d_out), O d_out, N n_latents, K active latents of a token.

A kind is one file: a spec (``TopK``: the numbers that shape it) that makes the dictionary itself (``TopKSAE``).
``SAE`` is a plain object with named tensors rather than an ``nn.Module``: the fast learners update weights in
place, block by block, without autograd, and specs must be readable without importing torch.

An SAE gives back what it reads. A transcoder reads x and gives y of another hookpoint (d_out may differ from d_in); a
crosscoder reads several hookpoints side by side, as one wide row, and gives all of them back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field

from tasks.lazy import F, torch
from tasks.spec import Spec, SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.learning.base import Learner


class Latents(NamedTuple):
    """The K active latents of each token. Sparse, because N is ~10^5 and K ~10^1."""

    index_BK: Tensor
    """int64; active ones are distinct within a row, in no particular order."""

    value_BK: Tensor
    """Activation in units of the normalised input; >= 0. An entry with value 0 is not active: kinds whose L0 differs
    from token to token pad with such entries, whose index is that of any latent."""


class SAESpec(Spec):
    """What all kinds of SAE share; each kind adds a field ``kind`` and its own numbers."""

    KEEPS_KEY: ClassVar[dict[str, Any]] = {"skip": False, "subtract_b_dec": True}

    MAKES: ClassVar[str] = ""
    """Name of the class of this kind's dictionary, in the kind's own file."""

    SPARSITY: ClassVar[str] = ""
    """The field that weighs a penalty on activity, for kinds that have one; training may let it rise from 0."""

    SPREADS: ClassVar[bool] = False
    """Whether several processes can train one SAE of this kind."""

    AGES: ClassVar[bool] = False
    """Whether ``loss`` is another as training goes on, and takes ``done``."""

    expansion_factor: float | None = Field(8, gt=0)
    """n_latents / d_in; null when ``n_latents`` is given."""

    n_latents: int | None = Field(None, gt=0)
    """Number of latents; null takes expansion_factor x d_in."""

    skip: bool = False
    """Add a linear map of the input to the reconstruction: a skip transcoder (arXiv 2501.18823)."""

    subtract_b_dec: bool = True
    """The encoder reads x - b_dec; false: x as it is, as transcoders need it."""

    def size(self, d_in: int) -> int:
        """The number of latents for inputs of width ``d_in``."""
        return self.n_latents if self.n_latents is not None else round((self.expansion_factor or 1) * d_in)

    def check(self, d_in: int, d_out: int | None = None) -> None:
        """Raise ``SpecError`` when the numbers do not fit inputs of width ``d_in`` and targets of width ``d_out``."""
        if d_out is not None and d_out != d_in and self.subtract_b_dec:
            raise SpecError(
                f"sae.subtract_b_dec = true, but the SAE reads rows of {d_in} numbers and writes rows of {d_out}, so that b_dec "
                "is no point of its input; use sae.subtract_b_dec=false"
            )

    def check_shares(self, n_processes: int, n_latents: int) -> None:
        """Raise ``SpecError`` where processes cannot have as many of the latents each. For kinds that spread."""
        if n_latents % n_processes:
            raise SpecError(
                f"runtime.processes = {n_processes}, but {n_latents} latents are not that many equal parts; use another number, or "
                "runtime.shard=batch"
            )

    def build(self, d_in: int, seed: int = 0, d_out: int | None = None) -> SAE:
        """A freshly initialised SAE of this kind, float32 on the CPU. ``d_out``: width of the targets, d_in if not given."""
        self.check(d_in, d_out)
        return self.holding(self.drawn(d_in, seed, d_in if d_out is None else d_out))

    def drawn(self, d_in: int, seed: int, d_out: int) -> dict[str, Tensor]:
        """Initial weights by name: decoder rows of random direction, and encoder rows equal to them (where d_out is d_in)."""
        draw, n = torch.Generator().manual_seed(seed), self.size(d_in)
        W_ND = F.normalize(torch.randn(n, d_out, generator=draw), dim=-1)
        W_enc_ND = W_ND.clone() if d_out == d_in else F.normalize(torch.randn(n, d_in, generator=draw), dim=-1)
        found = {"W_enc_ND": W_enc_ND, "b_enc_N": torch.zeros(n), "W_dec_ND": W_ND, "b_dec_D": torch.zeros(d_out)}
        return {**found, "W_skip_OD": torch.zeros(d_out, d_in)} if self.skip else found

    def holding(self, tensors: Mapping[str, Tensor]) -> SAE:
        """The SAE of this kind with these weights, which it takes as its own. Raises ``SpecError`` where they do not fit."""
        import sys

        return getattr(sys.modules[type(self).__module__], self.MAKES)(self, tensors)


class SAE(ABC):
    """A dictionary and its encoder. Works on normalised inputs; see ``tasks.trained`` for raw ones."""

    TENSORS: ClassVar[tuple[str, ...]] = ("W_enc_ND", "b_enc_N", "W_dec_ND", "b_dec_D")
    """Names of the attributes that hold weights, in the order they are saved; the suffix is the shape. ``W_skip_OD`` comes to
    them where ``spec.skip`` says so."""

    SCALE_WITH_ROWS: ClassVar[tuple[str, ...]] = ("W_enc_ND", "b_enc_N")
    """Tensors that are multiplied by the norm of a latent's decoder row when that row is brought to length 1."""

    BIASES: ClassVar[tuple[str, ...]] = ("b_enc_N",)
    """Tensors that raise a latent's pre-activation, and nothing else."""

    UNIT_ROWS: ClassVar[bool] = True
    """Whether training keeps decoder rows at length 1. Kinds that leave them free weigh a latent's penalty by the length of
    its row; they are brought to length 1 once, when training ends (``with_unit_rows``)."""

    EQUATION: ClassVar[str] = ""
    """How latents f come of z, what the encoder reads, in Python with torch's names and tensors without their suffixes:
    ``relu(z @ W_enc.T + b_enc)``. ``equation`` is the whole forward pass."""

    W_enc_ND: Tensor
    b_enc_N: Tensor
    W_dec_ND: Tensor
    b_dec_D: Tensor
    W_skip_OD: Tensor

    def __init__(self, spec: Any, tensors: Mapping[str, Tensor]) -> None:
        """``spec`` is of the kind. Raises ``SpecError`` for tensors that are missing or do not fit one another."""
        self.spec = spec
        self.load(tensors)

    @property
    def n_latents(self) -> int:
        return self.W_dec_ND.shape[0]

    @property
    def d_in(self) -> int:
        return self.W_enc_ND.shape[1]

    @property
    def d_out(self) -> int:
        return self.W_dec_ND.shape[1]

    @property
    def equation(self) -> str:
        """The forward pass in one line of Python, written into the saved file so that it explains itself."""
        if "x_hat" in self.EQUATION:
            return self.EQUATION
        inner = "x - b_dec" if self.spec.subtract_b_dec else "x"
        return f"z = {inner}; f = {self.EQUATION}; x_hat = f @ W_dec + b_dec{' + x @ W_skip.T' if self.spec.skip else ''}"

    @abstractmethod
    def encode(self, x_BD: Tensor) -> Latents:
        """The active latents of some inputs."""

    def inner(self, x_BD: Tensor) -> Tensor:
        """What the encoder's matrix reads: x - b_dec, or x."""
        return x_BD - self.b_dec_D if self.spec.subtract_b_dec else x_BD

    @property
    def subtracted(self) -> Tensor | None:
        """What the encoder subtracts from its input: b_dec, or nothing."""
        return self.b_dec_D if self.spec.subtract_b_dec else None

    def decode(self, latents: Latents, x_BD: Tensor | None = None) -> Tensor:
        """The reconstruction. ``x_BD``, the input, is needed (and read) where there is a skip connection."""
        rows = F.embedding_bag(
            latents.index_BK, self.W_dec_ND, per_sample_weights=latents.value_BK.to(self.W_dec_ND.dtype), mode="sum"
        )
        return self.around(rows, x_BD)

    def around(self, rows_BO: Tensor, x_BD: Tensor | None) -> Tensor:
        """A weighted sum of decoder rows with all else that makes it a reconstruction."""
        found = rows_BO + self.b_dec_D
        if not self.spec.skip:
            return found
        assert x_BD is not None, "a skip connection reads the input"
        return found + x_BD @ self.W_skip_OD.T

    def loss(self, x_BD: Tensor, dead_N: Tensor, y_BD: Tensor | None = None, sparsity: float = 1.0) -> dict[str, Tensor]:
        """Differentiable loss terms, ``total`` among them. For kinds that train by autograd.

        ``dead_N`` is a bool mask of the latents that have been silent for long; ``y_BD`` the target of a transcoder (None:
        x itself); ``sparsity`` the share, 0 to 1, of the sparsity coefficient that its warm-up has come to. A kind that knows
        them gives ``fvu``, ``l0`` and ``fired_N`` (bool: which latents are active anywhere) as well, and so saves its learner
        a second encoding. Where the spec ``AGES`` there is ``done`` too, the share of the training's steps that are over.
        """
        raise NotImplementedError

    def constrain(self) -> None:
        """Bring weights back to where they may be, after an optimiser's step: for kinds that bound some."""
        return

    def weights(self) -> dict[str, Tensor]:
        """The weights by name."""
        return {name: getattr(self, name) for name in self.names()}

    def names(self) -> tuple[str, ...]:
        """Names of the weights, in the order they are saved."""
        return (*self.TENSORS, "W_skip_OD") if self.spec.skip else self.TENSORS

    def load(self, tensors: Mapping[str, Tensor]) -> SAE:
        """Take weights by name; returns self. Raises ``SpecError`` for a missing or misshapen one."""
        kind = type(self).__name__
        for name in self.names():
            if name not in tensors:
                raise SpecError(f"weights have no {name}, but a {kind} needs it; load another file")
        n, d_out = tensors["W_dec_ND"].shape
        d_in = tensors["W_enc_ND"].shape[1]
        for name in self.names():
            stem, _, letters = name.rpartition("_")
            inner = d_out if stem in ("W_dec", "b_dec") else d_in
            want = tuple({"N": n, "O": d_out, "D": inner}[letter] for letter in letters) if stem else ()
            if tuple(tensors[name].shape) != want:
                raise SpecError(
                    f"{name} has shape {tuple(tensors[name].shape)}, but a {kind} of {n} latents that reads {d_in} numbers and writes "
                    f"{d_out} has {want} there; load another file"
                )
            setattr(self, name, tensors[name])
        return self

    def with_unit_rows(self) -> SAE:
        """Bring every decoder row to length 1, the encoder taking on its length; returns self. Reconstructions are the same,
        and latents are then in units of the (normalised) output. Rows of zeros stay."""
        with torch.no_grad():
            length_N = self.row_lengths()
            for name in self.SCALE_WITH_ROWS:
                tensor = getattr(self, name)
                tensor.mul_(length_N.view(-1, *[1] * (tensor.dim() - 1)))
            self.W_dec_ND.div_(length_N[:, None])
        return self

    def row_lengths(self) -> Tensor:
        """By what each decoder row is divided to be of length 1: [N]. 1 for rows of zeros."""
        length_N = self.W_dec_ND.detach().norm(dim=-1)
        as_it_is = (length_N == 0) | ((length_N - 1).abs() < 1e-6)  # rows that are there already keep their bits
        return torch.where(as_it_is, 1, length_N)

    def restart(self, latent_n: Tensor, direction_nD: Tensor) -> None:
        """Let latents begin anew along directions of the input: encoder rows of a fifth of the mean length, which disturbs little
        though with biases of 0 half of all tokens make them fire (as in "Towards Monosemanticity", 2023); decoder rows
        likewise directed, where they are as wide, of the mean length."""
        unit_nD = F.normalize(direction_nD, dim=-1)
        with torch.no_grad():
            for name in self.names():
                if name.endswith("_N"):
                    getattr(self, name)[latent_n] = 0
            self.W_enc_ND[latent_n] = unit_nD * (self.W_enc_ND.norm(dim=-1).mean() / 5)
            if self.d_out == self.d_in:
                self.W_dec_ND[latent_n] = unit_nD * self.W_dec_ND.norm(dim=-1).mean()

    def raised(self, by: Mapping[int, float]) -> SAE:
        """The same dictionary with some latents' pre-activations higher, in units of their activations; it shares other weights."""
        weights = self.weights()
        latents = list(by)
        for name in self.BIASES:
            weights[name] = weights[name].clone()
            weights[name][latents] += torch.tensor([by[i] for i in latents]).to(weights[name])
        return type(self)(self.spec, weights)

    def to(self, device: Any = None, dtype: Any = None) -> SAE:
        """Move or convert all weights in place; returns self."""
        for name, tensor in self.weights().items():
            setattr(self, name, tensor.to(device=device, dtype=dtype))
        return self

    def learner(self, dead_after_tokens: int = 500_000, **options: Any) -> Learner:
        """What trains this SAE: by autograd on ``loss``, unless a kind knows a faster way. See ``tasks.learning.base``."""
        from tasks.learning.autograd import AutogradLearner

        return AutogradLearner(self, dead_after_tokens, **options)
