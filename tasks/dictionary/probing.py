"""Linear probes of a property of tokens, on activations and on a few latents. Shapes: R tokens, D width, C properties,
P candidate latents, K latents of a sparse probe.

Sources: k-sparse probing, arXiv 2305.01610; with first letters and splitting, arXiv 2409.14507, sections 3 and 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tasks.lazy import F, np, torch

if TYPE_CHECKING:
    from torch import Tensor

_STEPS = 300


class Probes(NamedTuple):
    """Logistic regressions, one for each property, over the same inputs."""

    W_CD: Tensor
    b_C: Tensor

    def says(self, x_RD: Tensor) -> Tensor:
        """bool (R, C): which properties each row has, as the probes see it."""
        return x_RD @ self.W_CD.T + self.b_C > 0


def logistic(x_RD: Tensor, y_RC: Tensor, l2: float | None = None) -> Probes:
    """Fit by L-BFGS, each property by itself, its positives and negatives weighing the same (sklearn's "balanced").

    ``l2``: of the mean loss plus l2/2 ||w||^2; None takes 1/R, sklearn's C = 1.
    """
    y = y_RC.to(x_RD.dtype)
    weight_RC = balanced(y)
    l2 = 1 / max(1, len(x_RD)) if l2 is None else l2
    W_CD = torch.zeros(y.shape[1], x_RD.shape[1], dtype=x_RD.dtype, device=x_RD.device)
    b_C = torch.zeros(y.shape[1], dtype=x_RD.dtype, device=x_RD.device)
    solver = torch.optim.LBFGS(
        [W_CD, b_C], max_iter=_STEPS, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:  # problems that share nothing but the data, so their sum has the minimum of each
        logit_RC = x_RD @ W_CD.T + b_C
        error_RC = weight_RC * (logit_RC.sigmoid() - y) / len(x_RD)
        W_CD.grad, b_C.grad = error_RC.T @ x_RD + l2 * W_CD, error_RC.sum(0)
        each_RC = F.binary_cross_entropy_with_logits(logit_RC, y, weight_RC, reduction="none")
        return each_RC.mean(0).sum() + l2 / 2 * W_CD.square().sum()

    with torch.no_grad():
        solver.step(loss)
    return Probes(W_CD, b_C)


def balanced(y_RC: Tensor) -> Tensor:
    """Weights with which both classes of each property count the same, 1 on average."""
    share_C = y_RC.mean(0).clamp(1e-9, 1 - 1e-9)
    return torch.where(y_RC > 0, 0.5 / share_C, 0.5 / (1 - share_C))


def ranked(x_RP: Tensor, y_R: Tensor, l1: float = 0.01) -> Tensor:
    """Candidates (int64) that speak for a property, the weightiest first, by logistic regression with an L1 penalty.

    Columns are brought to one scale; weights are kept from being negative, since a latent that fires when the property is
    absent is not the latent for it. Those of weight 0 are left out. Solved by accelerated proximal gradient (Beck and
    Teboulle 2009).
    """
    scale_P = x_RP.square().mean(0).sqrt()
    x = x_RP / scale_P.clamp_min(1e-12)
    y = y_R.to(x.dtype)
    weight_R = balanced(y[:, None])[:, 0]
    x1 = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype, device=x.device)], 1)
    # the largest curvature of the loss: a quarter of that of the weighted second moments
    bound = torch.linalg.matrix_norm((x1 * weight_R[:, None]).T @ x1 / len(x), 2) / 4
    step = 1 / bound.clamp_min(1e-12)
    w = torch.zeros(x1.shape[1], dtype=x.dtype, device=x.device)
    ahead, t = w.clone(), 1.0
    for _ in range(_STEPS):
        slope = x1.T @ (weight_R * (torch.sigmoid(x1 @ ahead) - y)) / len(x)
        new = ahead - step * slope
        new[:-1] = (new[:-1] - step * l1).clamp_min(0)
        t, before = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        ahead, w = new + (before - 1) / t * (new - w), new
    order = w[:-1].argsort(descending=True, stable=True)
    return order[w[:-1][order] > 0]


def candidates(index_RK: Tensor, value_RK: Tensor, y_R: Tensor, n_latents: int, most: int) -> Tensor:
    """The ``most`` latents (int64) whose mean activation is most above with the property, in units of their own RMS."""
    y = y_R.to(value_RK.dtype)
    at, value = index_RK.reshape(-1), value_RK.reshape(-1)
    on = y[:, None].expand_as(value_RK).reshape(-1)
    zeros = value.new_zeros(n_latents)
    with_N = zeros.index_add(0, at, value * on) / y.sum().clamp_min(1)
    without_N = zeros.index_add(0, at, value * (1 - on)) / (1 - y).sum().clamp_min(1)
    rms_N = (zeros.index_add(0, at, value.square()) / max(1, len(y))).sqrt()
    gain_N = (with_N - without_N) / rms_N.clamp_min(1e-12)
    best = gain_N.topk(min(most, n_latents))
    return best.indices[best.values > 0]


def columns(index_RK: Tensor, value_RK: Tensor, latents_P: Tensor, n_latents: int) -> Tensor:
    """Activations (R, P) of some latents, dense."""
    place_N = torch.full((n_latents,), len(latents_P), dtype=torch.int64, device=index_RK.device)
    place_N[latents_P] = torch.arange(len(latents_P), device=index_RK.device)
    found = value_RK.new_zeros(len(index_RK), len(latents_P) + 1)
    return found.scatter_add_(1, place_N[index_RK], value_RK)[:, :-1]  # added, since padding may name a latent again


def f1(said_R: Tensor, y_R: Tensor) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is found."""
    right = int((said_R & y_R).sum())
    return 2 * right / max(1, int(said_R.sum()) + int(y_R.sum()))


class Sparse(NamedTuple):
    """A property as a few latents tell it."""

    latents: tuple[int, ...]
    """The weightiest first."""

    f1_K: tuple[float, ...]
    """On test tokens, of the probe on the first 1, 2... of them."""

    n_main: int
    """How many of them are the latents for the property: a further one is taken as long as it adds ``gain`` to F1. More
    than one is a split latent."""

    @property
    def main(self) -> tuple[int, ...]:
        return self.latents[: self.n_main]


def sparse(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], order: np.ndarray, gain: float) -> Sparse:
    """k-sparse probes for k = 1, 2...: ``train`` and ``test`` hold activations (R, K) of latents ``order``, and labels."""
    found: list[float] = []
    for k in range(1, len(order) + 1):
        scale = train[0][:, :k].square().mean(0).sqrt().clamp_min(1e-12)
        probe = logistic(train[0][:, :k] / scale, train[1][:, None])
        found.append(f1(probe.says(test[0][:, :k] / scale)[:, 0], test[1]))
    n_main = 1
    while n_main < len(found) and found[n_main] - found[n_main - 1] > gain:
        n_main += 1
    return Sparse(tuple(int(i) for i in order), tuple(found), min(n_main, len(found)))
