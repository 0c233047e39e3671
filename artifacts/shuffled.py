"""Activation rows in a shuffled order that can be entered anywhere.

Chunks of 1,024 rows are drawn over all shards in a permutation of their own per epoch, and mixed in pools of at least 64
chunks, which trains as well as a global shuffle and reads the disk in order. Row order is a function of (seed, epoch)
and of nothing else: a run that resumes at step s sees the batches that a straight run sees from step s on.

Random bits come from Philox counters and are sorted, so the order is the same on every platform and numpy version.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from artifacts.activations import Activations

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

JOIN_SECONDS = 10.0


class _Pool(NamedTuple):
    """Chunks whose rows are mixed with one another."""

    epoch: int
    number: int
    chunks: np.ndarray
    """Into the chunks of all shards, shard after shard."""

    first: int
    """Row of the epoch at which it begins."""

    n_rows: int


class ShuffledRows:
    """Endless shuffled batches over the rows of some shards.

    An epoch whose rows do not fill its last batch is carried over: the batch goes on with the next epoch's first
    rows, so that every batch is full and every row is seen once an epoch.
    """

    def __init__(
        self,
        shards: Sequence[Activations],
        batch: int,
        pool_chunks: int = 64,
        seed: int = 0,
        *,
        prefetch: int = 4,
        dtype: Any = None,
    ) -> None:
        """``batch`` rows at a time, ``prefetch`` batches read ahead by a thread (0: none), float32 unless told otherwise."""
        import numpy as np

        self.shards, self.batch, self.pool_chunks, self.seed = tuple(shards), batch, pool_chunks, seed
        self.prefetch, self._dtype = prefetch, dtype
        self.n_rows = sum(shard.n_rows for shard in self.shards)
        if batch < 1 or pool_chunks < 1:
            raise ValueError(f"batch = {batch} and pool_chunks = {pool_chunks}, but both are at least 1")
        if self.n_rows == 0:
            raise ValueError(f"{len(self.shards)} shards hold no rows, but training needs some; capture more text")
        if len({(shard.d, shard.dtype) for shard in self.shards}) > 1:
            raise ValueError(
                f"shards have widths {sorted({s.d for s in self.shards})}, but one reader takes one width and dtype"
            )
        self._shard_of = np.repeat(np.arange(len(self.shards)), [s.n_chunks for s in self.shards])
        self._chunk_of = np.concatenate([np.arange(s.n_chunks) for s in self.shards])
        self._rows_of = np.array([s.rows_of(i) for s in self.shards for i in range(s.n_chunks)], np.int64)
        self._n_pools = max(1, len(self._rows_of) // pool_chunks)

    def epoch_of(self, step: int) -> float:
        """Epochs seen before a step."""
        return step * self.batch / self.n_rows

    def batches(self, start_step: int = 0) -> Iterator[Tensor]:
        """Batches [batch, d] from a step on, without end; close the iterator (or let it go) to stop reading ahead.

        Raises ``ArtifactCorrupt`` for a damaged chunk, here and not in the thread that found it.
        """
        if self.prefetch == 0:
            yield from self._straight(start_step)
            return
        ahead: queue.Queue[Any] = queue.Queue(self.prefetch)
        stop = threading.Event()
        thread = threading.Thread(
            target=self._read_ahead, args=(start_step, ahead, stop), name="shuffled-rows", daemon=True
        )
        thread.start()
        try:
            while True:
                item = ahead.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            # A signal's exception can strike between taking the queue's lock and owning it; then the thread waits for ever.
            # It is a daemon: after this long it is left behind, and the process ends.
            thread.join(JOIN_SECONDS)

    def _read_ahead(self, start_step: int, ahead: queue.Queue[Any], stop: threading.Event) -> None:
        def put(item: Any) -> bool:
            while not stop.is_set():
                try:
                    ahead.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        batches = self._straight(start_step)
        try:
            for batch in batches:
                if not put(batch):
                    return
        except BaseException as error:  # told to the consumer, who raises it
            put(error)
        finally:
            batches.close()

    def _straight(self, start_step: int) -> Iterator[Tensor]:
        """The batches, with the next pool being loaded while one is handed out."""
        import torch

        dtype = self._dtype or torch.float32
        row = start_step * self.batch
        pools = self._pools(row)
        widest = -(-len(self._rows_of) // self._n_pools) * int(self._rows_of.max())
        # two buffers for all of the run: fresh memory costs four times as much to fill as old
        spare, used = (torch.empty(widest, self.shards[0].d, dtype=self.shards[0].dtype) for _ in range(2))
        with ThreadPoolExecutor(1, "shuffled-pool") as loader:
            pool = next(pools)
            loading: Future[Tensor] = loader.submit(self._load, pool, spare)
            at = row - (pool.epoch * self.n_rows + pool.first)
            pieces: list[Tensor] = []
            short = self.batch
            while True:
                rows, order = loading.result(), torch.from_numpy(self._order(pool))
                pool, spare, used = next(pools), used, spare
                loading = loader.submit(self._load, pool, spare)
                while at < len(rows):
                    take = min(short, len(rows) - at)
                    picked = rows.index_select(0, order[at : at + take])  # five times as fast as rows[...]
                    pieces.append(picked.to(dtype))
                    at, short = at + take, short - take
                    if short == 0:
                        yield pieces[0] if len(pieces) == 1 else torch.cat(pieces)
                        pieces, short = [], self.batch
                at = 0

    def _pools(self, row: int) -> Iterator[_Pool]:
        """Pools from the one on that holds a row of the endless stream."""
        import numpy as np

        epoch, inside = divmod(row, self.n_rows)
        while True:
            chunks = self._permutation(len(self._rows_of), epoch, 0)
            first = 0
            for number, part in enumerate(np.array_split(chunks, self._n_pools)):
                n_rows = int(self._rows_of[part].sum())
                if first + n_rows > inside:
                    yield _Pool(epoch, number, part, first, n_rows)
                first += n_rows
            epoch, inside = epoch + 1, 0

    def _load(self, pool: _Pool, into: Tensor) -> Tensor:
        """The rows of a pool, chunk after chunk."""
        rows, at = into[: pool.n_rows], 0
        for chunk in pool.chunks:
            n = int(self._rows_of[chunk])
            self.shards[self._shard_of[chunk]].chunk(int(self._chunk_of[chunk]), rows[at : at + n])
            at += n
        return rows

    def _order(self, pool: _Pool) -> np.ndarray:
        return self._permutation(pool.n_rows, pool.epoch, pool.number + 1)

    def _permutation(self, n: int, epoch: int, stream: int) -> np.ndarray:
        import numpy as np

        bits = np.random.Philox(
            key=np.array([self.seed, 0], np.uint64), counter=np.array([0, 0, stream, epoch], np.uint64)
        )
        return np.argsort(bits.random_raw(n), kind="stable")
