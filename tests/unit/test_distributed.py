"""The stage train in two processes that torchrun starts: the same curve, checkpoints, and one error when one of them dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from artifacts.store import Store
from flows.ordering import lanes, missing
from tasks.distributed import ProcessDied
from tasks.learning.schedule import TrainSpec
from tasks.progress import Progress
from tasks.realising import make_all
from tasks.saes.batchtopk import BatchTopK
from tasks.saes.standard import Standard
from tasks.saes.topk import TopK
from tasks.spec import Runtime, SpecError
from tasks.train import train
from tests.captured import inputs
from tests.making import make

INLINE = Runtime(mode="inline", device="cpu", prefetch_batches=0)
QUICK = {"n_tokens": 6400, "batch_tokens": 64, "dead_after_tokens": 1000, "validate_every": 20, "lr": 3e-3, "seed": 2}
KINDS = (TopK(k=3, n_latents=64), BatchTopK(k=3, n_latents=64))


def curves(top: Path, processes: int, shard: str = "batch", **more) -> list[list[dict]]:
    """The logs of an SAE of each kind, trained in one read."""
    store, given = Store.at(top), inputs()
    wanted = [train(TrainSpec(sae=sae, **{**QUICK, **more}), **given) for sae in KINDS]
    runtime = INLINE.model_copy(update={"processes": processes, "shard": shard})
    while todo := missing(wanted, store):
        absent = {r.artifact for r in todo}
        for lane in lanes([r for r in todo if absent.isdisjoint(p.artifact for p in r.parents())]):
            make_all(lane, store, runtime, Progress())
    return [pq.read_table(store.open(r.artifact).path / "log.parquet").to_pylist() for r in wanted]


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["batch", pytest.param("latents", marks=pytest.mark.slow)])
def test_two_processes_draw_the_curve_of_one(tmp_path, shard):
    options = {"ema": 0.9, "revive_every_tokens": 1600, "clip_norm": 0.5}
    alone, shared = curves(tmp_path / "alone", 1, **options), curves(tmp_path / "shared", 2, shard, **options)
    for one, two in zip(alone, shared, strict=True):
        assert [(row["step"], row["split"]) for row in one] == [(row["step"], row["split"]) for row in two]
        for row, other in zip(one, two, strict=True):
            # float32 sums in another order now and then choose another latent of two that are nearly equal
            assert other["fvu"] == pytest.approx(row["fvu"], rel=0.02), row["step"]
            assert other["l0"] == pytest.approx(row["l0"], rel=0.02, abs=0.02)
            assert other["dead_fraction"] == pytest.approx(row["dead_fraction"], abs=2 / 64)
        assert one[-1]["fvu"] < one[1]["fvu"], "it learns"


def test_a_kind_that_one_process_trains_is_refused_in_one_sentence(tmp_path):
    wanted = train(TrainSpec(sae=Standard(n_latents=64), **QUICK), **inputs())
    with pytest.raises(SpecError, match="processes = 2, but SAEs of kind standard are trained by one process; use runtime.processes=1"):
        make(wanted, Store.at(tmp_path), INLINE.model_copy(update={"processes": 2}))


def workers() -> list[int]:
    """Processes that torchrun started for this one."""

    def children(pid: int) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(path.read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == pid:
                found.append(int(path.parent.name))
        return found

    return [worker for torchrun in children(os.getpid()) for worker in children(torchrun) if b"tasks.distributed" in command(worker)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_process_that_dies_ends_all_with_one_error_and_the_next_run_goes_on_from_the_checkpoint(tmp_path):
    store, killed = Store.at(tmp_path), []
    wanted = train(TrainSpec(sae=KINDS[0], **{**QUICK, "n_tokens": 10**9}), **inputs())
    for parent in wanted.parents():
        make(parent, store, INLINE)

    def kill() -> None:
        while not list(tmp_path.rglob("checkpoint/loop.json")):
            time.sleep(0.05)
        killed.extend(workers())
        os.kill(killed[1], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    runtime = INLINE.model_copy(update={"processes": 2, "checkpoint_seconds": 0.2})
    with pytest.raises(ProcessDied, match=r"runtime.processes = 2, but process \d of them was killed by signal 9; run the same command"):
        make(wanted, store, runtime)
    assert len(killed) == 2 and not any(b"tasks.distributed" in command(pid) for pid in killed), "all have ended"

    class Watching(Progress):
        first = None

        def advanced(self, bar) -> None:
            if self.first is None and bar.label.startswith("train"):
                Watching.first = bar.done
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(wanted, store, runtime, Watching())
    assert Watching.first > 64, "it went on"
    assert not workers()
