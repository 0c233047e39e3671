"""Heavy libraries, imported at first use.

``saint plan`` and ``--help`` read every spec, and specs live in the same file as the code they configure
(one kind, one file). So no module of ours imports torch, zarr or transformers at its top; it writes
``from tasks.lazy import torch`` and pays for the import when a tensor is first touched.

Trap: decorators run at import, so write ``with torch.no_grad():`` inside the function, not ``@torch.no_grad()``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


class _Deferred:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self._name), attribute)
        self.__dict__[attribute] = value
        return value

    def __repr__(self) -> str:
        return f"<deferred {self._name}>"


if TYPE_CHECKING:
    import numcodecs
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import torch
    import torch.nn.functional as F
    import transformers
    import zarr
else:
    np = _Deferred("numpy")
    pa = _Deferred("pyarrow")
    pc = _Deferred("pyarrow.compute")
    pq = _Deferred("pyarrow.parquet")
    torch = _Deferred("torch")
    F = _Deferred("torch.nn.functional")
    transformers = _Deferred("transformers")
    zarr = _Deferred("zarr")
    numcodecs = _Deferred("numcodecs")

__all__ = ["F", "np", "numcodecs", "pa", "pc", "pq", "torch", "transformers", "zarr"]
