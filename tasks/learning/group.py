"""Processes that train one SAE together, through torch.distributed.

``batch``: each has all latents and a part of the rows. ``latents``: each has all rows and a part of the latents. Every process is
given the whole batch and calls the same methods in the same order; what they find is that of one process, but for the order
in which numbers are added up.
"""

from __future__ import annotations

from typing import Literal

from tasks.lazy import torch
from tasks.sparse.peers import ALONE, Peers, message_device

Shard = Literal["batch", "latents"]


class Group:
    """This process in a group of them. ``torch.distributed`` has been set up before."""

    def __init__(self, shard: Shard = "batch") -> None:
        self.all = Peers(torch.distributed.get_rank(), torch.distributed.get_world_size())
        self.rows, self.latents = (self.all, ALONE) if shard == "batch" else (ALONE, self.all)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files."""
        return self.all.rank == 0

    def agreed(self, said: bool) -> bool:
        """What the first process says: clocks differ, and all must do the same."""
        word = torch.tensor(float(said), device=message_device())
        torch.distributed.broadcast(word, 0)
        return bool(word)
