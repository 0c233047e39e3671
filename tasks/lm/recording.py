"""Rows of one hookpoint on their way to disk: put back in the order of the text, counted, checked, written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.activations import ActivationWriter
from tasks.lazy import torch
from tasks.norms.base import Statistics

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Recording:
    """``activations.zarr`` and ``statistics.safetensors`` of one hookpoint, filled block by block. Shapes: B rows, D."""

    def __init__(self, folder: Path, d: int, *, store_dtype: str, codec: str, attributes: dict[str, Any]) -> None:
        self.folder, self.d, self.attributes = folder, d, attributes
        self.dtype = torch.bfloat16 if store_dtype == "bfloat16" else torch.float32
        self.statistics = Statistics.of(torch.empty(0, d))
        self.n_contexts = 0
        self._writer = ActivationWriter(
            folder / "activations.zarr", d, store_dtype=store_dtype, codec=codec, attributes=attributes
        )
        self._block: Tensor = torch.empty(0)

    @property
    def n_rows(self) -> int:
        return self._writer.n_rows

    def begin(self, n_rows: int) -> None:
        """Make room for a block."""
        self._block = torch.empty(n_rows, self.d, dtype=self.dtype)

    def take(self, x_BD: Tensor, place_B: Tensor) -> None:
        """Put some rows in their places in the block."""
        x_BD = x_BD.to(self.dtype)  # statistics are of the rows as they are stored
        self.statistics = self.statistics.merge(Statistics.of(x_BD))
        self._block[place_B] = x_BD.to("cpu")

    def write(self, *columns: np.ndarray) -> bool:
        """Append the block, with what ``ActivationWriter.append`` takes beside it; False if a value is not finite."""
        if not bool(self._block.isfinite().all()):
            return False
        self._writer.append(self._block, *columns)
        self.n_contexts += len(columns[-1])
        return True

    def close(self) -> None:
        """Finish the files."""
        self._writer.close()
        self.statistics.save(self.folder / "statistics.safetensors")
