"""How well a trained dictionary found the planted one. Shapes: B rows, D width, N true latents, M trained ones, P pairs.

Trained latents are matched one to one with true ones by the magnitudes of the cosines of their decoder rows; firing is then
compared row by row within each pair. Definitions:

- mcc: mean |cosine| of the pairs;
- mmcs: mean over true directions of the largest cosine with any trained one, and the same the other way round;
- uniqueness: distinct true directions among those nearest to the trained ones, as a share of as many as there could be;
- precision, recall, f1: of firing in a pair, over rows, averaged over pairs whose true latent fires at all;
- shrinkage: what the trained latents of pairs say where both fire (times the length of their decoder row), over what is true;
- fvu, l0: as everywhere, over all rows that were scored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.dictionary.matching import one_to_one
from tasks.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.planted.truth import Planted, Sample
    from tasks.saes.base import SAE, Latents


class Scores:
    """Counts over the rows that were added so far."""

    def __init__(self, directions_ND: Tensor, W_dec_MD: Tensor) -> None:
        self.truth_ND, self.found_MD = directions_ND.float(), W_dec_MD.detach().float().cpu()
        self._cosine_NM = F.normalize(self.truth_ND, dim=-1) @ F.normalize(self.found_MD, dim=-1).T
        pairs = one_to_one(self._cosine_NM.abs().numpy())
        self.true_P, self.said_P = torch.from_numpy(pairs.first_P), torch.from_numpy(pairs.second_P)
        self._mcc, n = float(pairs.cosine_P.mean()), len(pairs.first_P)
        self._n_both_P, self._n_true_P, self._n_said_P = (torch.zeros(n, dtype=torch.int64) for _ in range(3))
        self._true_size, self._said_size = 0.0, 0.0
        self._n_rows, self._n_active = 0, 0
        d = self.truth_ND.shape[1]
        self._error, self._sum_D, self._squares = 0.0, torch.zeros(d, dtype=torch.float64), 0.0

    def add(self, sample: Sample, latents: Latents, x_hat_BD: Tensor) -> None:
        """Count more rows: what they are made of, what the trained encoder says, and what its decoder makes of that."""
        true_BP = sample.codes_BN[:, self.true_P]
        said_BM = torch.zeros(len(true_BP), len(self.found_MD))
        said_BM.scatter_add_(1, latents.index_BK.cpu(), latents.value_BK.detach().float().cpu())
        length_M = self.found_MD.norm(dim=-1)
        said_BP = said_BM[:, self.said_P] * length_M[self.said_P]
        both_BP = (true_BP > 0) & (said_BP > 0)
        self._n_both_P += both_BP.sum(0)
        self._n_true_P += (true_BP > 0).sum(0)
        self._n_said_P += (said_BP > 0).sum(0)
        self._true_size += float(true_BP[both_BP].double().sum())
        self._said_size += float(said_BP[both_BP].double().sum())
        x = sample.x_BD.double()
        self._n_rows += len(x)
        self._n_active += int((latents.value_BK > 0).sum())
        self._error += float((x_hat_BD.detach().cpu().double() - x).square().sum())
        self._squares += float(x.square().sum())
        self._sum_D += x.sum(0)

    def f1(self) -> Tensor:
        """F1 of each pair, NaN where its true latent never fired: [P]."""
        wrong_P = self._n_true_P + self._n_said_P - 2 * self._n_both_P
        score_P = 2 * self._n_both_P / (2 * self._n_both_P + wrong_P).clamp(min=1)
        return torch.where(self._n_true_P > 0, score_P, torch.nan)

    def figures(self) -> dict[str, float]:
        """All scores by name."""
        fires = self._n_true_P > 0
        precision = (self._n_both_P / self._n_said_P.clamp(min=1))[fires].mean()
        recall = (self._n_both_P / self._n_true_P.clamp(min=1))[fires].mean()
        n, m = len(self.truth_ND), len(self.found_MD)
        distinct = self._cosine_NM.abs().argmax(0).unique().numel()
        spread = self._squares - float(self._sum_D.square().sum()) / max(1, self._n_rows)
        return {
            "mcc": self._mcc,
            "mmcs": float(self._cosine_NM.amax(1).mean()),
            "mmcs_back": float(self._cosine_NM.amax(0).mean()),
            "uniqueness": distinct / min(n, m),
            "f1": float(self.f1().nanmean()),
            "precision": float(precision),
            "recall": float(recall),
            "shrinkage": self._said_size / self._true_size if self._true_size else float("nan"),
            "fvu": self._error / spread if spread else float("nan"),
            "l0": self._n_active / max(1, self._n_rows),
        }


def scored(planted: Planted, sae: SAE, start: int, stop: int, batch: int = 4096) -> Scores:
    """Scores of an SAE that reads planted rows as they are, over rows ``start`` to ``stop`` (not those it was trained on)."""
    scores = Scores(planted.directions_ND, sae.W_dec_ND)
    device = sae.W_dec_ND.device
    with torch.no_grad():
        for first in range(start, stop, batch):
            sample = planted.sample(first, min(stop, first + batch))
            x_BD = sample.x_BD.to(device)
            latents = sae.encode(x_BD)
            scores.add(sample, latents, sae.decode(latents, x_BD))
    return scores
