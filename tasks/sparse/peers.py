"""What processes that train together send one another. Shapes as in the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class Peers:
    """The processes that hold the other parts of something. Alone, all of it is here, and nothing is sent."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def sum_(self, part: Tensor) -> Tensor:
        """The sum of all parts, in place of this one."""
        if self.size > 1:
            torch.distributed.all_reduce(part)
        return part

    def most(self, number: float, sign: int = 1) -> float:
        """The largest of a number of each."""
        if self.size == 1:
            return number
        held = torch.tensor(sign * number, dtype=torch.float64)
        return sign * float(max(self.gathered(held.to(message_device())).tolist()))

    def least(self, number: float) -> float:
        """The smallest of a number of each."""
        return self.most(number, -1)

    def total(self, number: int) -> int:
        """The sum of a whole number of each."""
        return number if self.size == 1 else int(self.gathered(torch.tensor(number, device=message_device())).sum())

    def gathered(self, part: Tensor) -> Tensor:
        """All parts, of one shape, along a new first dimension."""
        if self.size == 1:
            return part.unsqueeze(0)
        parts = [torch.empty_like(part) for _ in range(self.size)]
        torch.distributed.all_gather(parts, part.contiguous())
        return torch.stack(parts)

    def all_of(self, value_P: Tensor) -> Tensor:
        """All numbers of all, however many each has, filled up with -inf."""
        if self.size == 1:
            return value_P
        longest = int(self.most(len(value_P)))
        return self.gathered(F.pad(value_P, (0, longest - len(value_P)), value=-torch.inf)).flatten()

    def kth_of_rows(self, score_BK: Tensor, k: int) -> Tensor:
        """The k-th largest [B, 1] of each row of the columns of all."""
        best_Bk = score_BK.topk(min(k, score_BK.shape[1]), dim=-1, sorted=False).values
        if self.size > 1:
            alike_Bk = F.pad(best_Bk, (0, k - best_Bk.shape[1]), value=-torch.inf)
            best_Bk = self.gathered(alike_Bk).transpose(0, 1).flatten(1).topk(k, dim=-1, sorted=False).values
        return best_Bk.amin(1, keepdim=True)


ALONE = Peers()


def message_device() -> str:
    """Where the backend's small messages lie."""
    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
