"""Activations made of a known dictionary: directions, how often each latent fires, and with whom.

Shapes: B rows, D width, N true latents, R rank of the correlations, P parents, C children of a parent.

A row is ``codes @ directions + bias + noise``, and every row is a pure function of (spec, seed, its number): rows are drawn
in blocks, each from a generator seeded by the block's number, so that any batch can be made anywhere, in any order.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from tasks.lazy import F, torch
from tasks.spec import Spec, SpecError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1024
"""Rows drawn together."""


class PlantedSpec(Spec):
    """A dictionary and how it is used."""

    d: int = Field(64, ge=1)
    """Width of a row."""

    n_latents: int = Field(256, ge=1)
    """True latents; more than ``d`` of them stand in superposition."""

    orthogonal: bool = False
    """Make directions orthogonal within each group of ``d`` of them, all of them where there are no more than ``d``."""

    mean_l0: float = Field(8.0, gt=0)
    """True latents that fire in a row, on average."""

    zipf: float = Field(1.0, ge=0)
    """Exponent: the latent of rank r fires with a probability proportional to r^-zipf; 0: all alike."""

    most_often: float = Field(0.5, gt=0, le=1)
    """No latent fires with a larger probability."""

    magnitude: Literal["constant", "exponential", "folded_normal"] = "folded_normal"
    """Distribution of a latent's activation where it fires."""

    mean_magnitude: float = Field(1.0, gt=0)
    """Mean activation (of ``folded_normal``: of the normal distribution before it is folded)."""

    spread: float = Field(0.3, ge=0)
    """Standard deviation of the normal distribution under ``folded_normal``; the others have none to choose."""

    correlation: float = Field(0.0, ge=0, lt=1)
    """Share of what decides on firing that latents have in common, through ``correlation_rank`` hidden factors. The firing of
    each latent alone is as likely as without."""

    correlation_rank: int = Field(8, ge=1)
    """Hidden factors."""

    children: int = Field(0, ge=0)
    """Children of each parent; 0: no hierarchy. A child fires only with its parent, and is rarer than it. With children,
    n_latents / (1 + children) latents, the most frequent ones, are parents."""

    exclusive: bool = True
    """At most one child of a parent fires in a row; false: they are independent, given the parent."""

    noise: float = Field(0.0, ge=0)
    """Standard deviation of Gaussian noise of each number of a row."""

    bias: float = Field(0.0, ge=0)
    """Length of a constant vector added to all rows."""


class Sample(NamedTuple):
    """Some rows and what they are made of."""

    x_BD: Tensor
    """float32."""

    codes_BN: Tensor
    """float32, activation of each true latent; 0 where it is silent."""


class Planted:
    """The dictionary of a spec and a seed, and any of its rows. On the CPU."""

    directions_ND: Tensor
    """Unit rows."""

    bias_D: Tensor

    probability_N: Tensor
    """Probability with which each latent fires; descending among parents."""

    parent_N: Tensor
    """int64: the parent of each latent, -1 where it has none. Parents are first, then child 0 of each, child 1 of each, ..."""

    def __init__(self, spec: PlantedSpec, seed: int = 0) -> None:
        """Raises ``SpecError`` where the numbers admit no such dictionary."""
        self.spec, self.seed = spec, seed
        draw = self._generator("dictionary")
        self.directions_ND = _directions(spec, draw)
        self.bias_D = spec.bias * F.normalize(torch.randn(spec.d, generator=draw), dim=0)
        self._factors_NR = F.normalize(torch.randn(spec.n_latents, spec.correlation_rank, generator=draw), dim=-1)
        self._free_N, self._given_PC = _probabilities(spec)
        given_C_P = (self._given_PC * self._free_N[:, None]).T.reshape(-1)
        self.probability_N = torch.cat([self._free_N, given_C_P])
        n_parents = len(self._free_N)
        children = torch.arange(n_parents).repeat(spec.children)
        self.parent_N = torch.cat([torch.full((n_parents,), -1), children])

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``: [stop - start, D]."""
        return self.sample(start, stop).x_BD

    def sample(self, start: int, stop: int) -> Sample:
        """Rows ``start`` to ``stop`` with their codes."""
        parts = []
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            first = block * BLOCK
            inside = slice(max(start - first, 0), min(stop - first, BLOCK))
            whole = self._block(block)
            parts.append(Sample(whole.x_BD[inside], whole.codes_BN[inside]))
        if not parts:
            return Sample(torch.zeros(0, self.spec.d), torch.zeros(0, self.spec.n_latents))
        return Sample(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _block(self, block: int) -> Sample:
        spec, draw = self.spec, self._generator(f"rows {block}")
        fires_BN = self._firing(draw)
        codes_BN = _magnitudes(spec, fires_BN, draw)
        # Row by row the sums of a product may run in another order; a block is always made whole, so its rows never differ.
        x_BD = codes_BN @ self.directions_ND + self.bias_D
        if spec.noise:
            x_BD = x_BD + spec.noise * torch.randn(x_BD.shape, generator=draw)
        return Sample(x_BD, codes_BN)

    def _firing(self, draw: torch.Generator) -> Tensor:
        spec, n_free = self.spec, len(self._free_N)
        if spec.correlation:
            # A Gaussian copula: latents fire below their own quantile of a standard normal number that they partly share.
            shared = torch.randn(BLOCK, spec.correlation_rank, generator=draw) @ self._factors_NR[:n_free].T
            own = torch.randn(BLOCK, n_free, generator=draw)
            hidden = math.sqrt(spec.correlation) * shared + math.sqrt(1 - spec.correlation) * own
            free_BP = hidden < torch.special.ndtri(self._free_N)
        else:
            free_BP = torch.rand(BLOCK, n_free, generator=draw) < self._free_N
        if not spec.children:
            return free_BP
        if spec.exclusive:
            upto_PC = self._given_PC.cumsum(-1)
            at_BP1 = torch.rand(BLOCK, n_free, 1, generator=draw)
            chosen_BPC = (at_BP1 < upto_PC) & (at_BP1 >= upto_PC - self._given_PC)
        else:
            chosen_BPC = torch.rand(BLOCK, *self._given_PC.shape, generator=draw) < self._given_PC
        fires_BPC = chosen_BPC & free_BP[:, :, None]
        return torch.cat([free_BP, fires_BPC.transpose(1, 2).reshape(BLOCK, -1)], dim=1)

    def _generator(self, what: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed} {what}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def _directions(spec: PlantedSpec, draw: torch.Generator) -> Tensor:
    W_ND = torch.randn(spec.n_latents, spec.d, generator=draw)
    if not spec.orthogonal:
        return F.normalize(W_ND, dim=-1)
    return torch.cat([torch.linalg.qr(group.T).Q.T for group in W_ND.split(spec.d)]).contiguous()


def _probabilities(spec: PlantedSpec) -> tuple[Tensor, Tensor]:
    """Firing probabilities of parents (all latents, without a hierarchy), and of their children where the parent fires."""
    n_free, rest = divmod(spec.n_latents, 1 + spec.children)
    if rest or not n_free:
        raise SpecError(
            f"planted.n_latents = {spec.n_latents}, but a parent with {spec.children} children is a family of {1 + spec.children} "
            f"latents; use a multiple of {1 + spec.children}"
        )
    weight_N = torch.arange(1, spec.n_latents + 1, dtype=torch.float64) ** -spec.zipf
    free_N = weight_N[:n_free]
    given_PC = (weight_N[n_free:].view(spec.children, n_free) / free_N).T
    if spec.exclusive and spec.children:  # together they cannot be more frequent than their parent
        given_PC = given_PC / given_PC.sum(-1, keepdim=True).clamp(min=1)
    family_N = 1 + given_PC.sum(-1)
    most = float((spec.most_often * family_N).sum())
    if spec.mean_l0 > most:
        raise SpecError(
            f"planted.mean_l0 = {spec.mean_l0:g}, but {spec.n_latents} latents that each fire in at most "
            f"{spec.most_often:g} of the rows come to {most:.3g}; use a smaller one, or more latents"
        )
    low, high = 0.0, float(spec.most_often / free_N.min())
    for _ in range(100):  # bisection: the mean grows with the scale
        middle = (low + high) / 2
        too_many = ((middle * free_N).clamp(max=spec.most_often) * family_N).sum() > spec.mean_l0
        low, high = (low, middle) if too_many else (middle, high)
    return (high * free_N).clamp(max=spec.most_often).float(), given_PC.float()


def _magnitudes(spec: PlantedSpec, fires_BN: Tensor, draw: torch.Generator) -> Tensor:
    n = int(fires_BN.sum())
    value: Any
    if spec.magnitude == "constant":
        value = torch.full((n,), spec.mean_magnitude)
    elif spec.magnitude == "exponential":
        value = torch.empty(n).exponential_(1 / spec.mean_magnitude, generator=draw)
    else:
        value = (spec.mean_magnitude + spec.spread * torch.randn(n, generator=draw)).abs()
    return torch.zeros(fires_BN.shape).masked_scatter_(fires_BN, value)
