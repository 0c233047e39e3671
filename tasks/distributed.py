"""The stage ``train`` in several processes of this machine, which torchrun starts and ends together.

The process that holds the lease starts them, shows their progress and waits; each of them does what ``train`` does in one
process, with a ``Group``. The first writes artifact and checkpoints where the lease's holder says. They talk through files in a
temporary folder: ``orders.pickle`` from the holder, ``events.jsonl`` and ``done.pickle`` from the first, ``failed.N.pickle`` from any.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from tasks.fitting import last_checkpoint
from tasks.lazy import torch
from tasks.progress import Progress
from tasks.saes.base import SAESpec
from tasks.spec import Runtime, Spec, SpecError
from tasks.stage import Job

POLL_SECONDS = 0.1
END_SECONDS = 15.0
"""How long processes may take to end when told to."""

_PEER_GONE = re.compile(r"closed by peer|[Cc]onnection (reset|refused)|[Bb]roken pipe|NCCL (communicator|error)|timed out")


class ProcessDied(RuntimeError):
    """A process of a group ended before its work was done."""


class _Order(NamedTuple):
    """What a process needs to know of a job."""

    artifact: Any
    spec: Spec
    inputs: dict[str, Any]
    out: Path
    scratch: Path
    recovered: Path | None
    """The checkpoint to go on from."""


def trained_by(n: int, jobs: Sequence[Job], checkpoint: str) -> None:
    """Do the jobs in ``n`` processes. Sets ``summary`` or ``failure`` of each.

    Raises ``SpecError`` where there are not so many devices, ``ProcessDied`` when a process ends early, and what a process
    raised.
    """
    runtime = jobs[0].runtime
    able = [job for job in jobs if not _refused(job)]
    if not able:
        return
    devices = _devices(runtime, n)
    with tempfile.TemporaryDirectory(prefix="saint-train-") as name:
        folder = Path(name)
        orders = [
            _Order(
                job.recipe.artifact, job.spec, dict(job.inputs), job.out, job.attempt.scratch, last_checkpoint(job.attempt, checkpoint)
            )
            for job in able
        ]
        (folder / "orders.pickle").write_bytes(pickle.dumps((os.getpid(), runtime, devices, orders)))
        command = ["--standalone", "--local-addr=localhost", f"--nproc-per-node={n}", "-m", "tasks.distributed", str(folder)]
        threads = runtime.threads or max(1, torch.get_num_threads() // n)
        code = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (folder / "log").open("wb") as log:
            torchrun = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *command],
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": code, "OMP_NUM_THREADS": str(threads)},
                process_group=0,  # a terminal's signals come to us, who end it; it would not heed nohup
            )  # fmt: skip
        try:
            _follow(torchrun, folder, able, checkpoint)
        finally:
            _end(torchrun)
        _judge(torchrun.returncode, folder, n)
        for job, (failure, summary) in zip(able, pickle.loads((folder / "done.pickle").read_bytes()), strict=True):
            job.failure = failure
            job.summary.update(summary)


def check(runtime: Runtime, sae: SAESpec, d_in: int | None = None) -> None:
    """Raise ``SpecError`` where so many processes cannot train an SAE. ``d_in``: of its rows; None where nobody knows it yet."""
    n = runtime.processes
    if n == 1:
        return
    kind = sae.kind  # type: ignore[attr-defined]
    if not sae.SPREADS:
        raise SpecError(
            f"runtime.processes = {n}, but SAEs of kind {kind} are trained by one process; "
            "use runtime.processes=1, or sae=topk, batchtopk or matryoshka"
        )
    if runtime.shard == "latents" and d_in is not None:
        sae.check_shares(n, sae.size(d_in))


def _refused(job: Job) -> bool:
    try:
        check(job.runtime, job.spec.sae)
    except SpecError as error:
        job.failure = error
    return job.failure is not None


def _devices(runtime: Runtime, n: int) -> list[str]:
    """A device for each process."""
    from tasks.lm.loading import device_of

    device = torch.device(device_of(runtime))
    if device.type != "cuda":
        return [str(device)] * n
    if torch.cuda.device_count() < n:
        raise SpecError(
            f"runtime.processes = {n}, but torch sees {torch.cuda.device_count()} GPUs here and each process takes one; "
            f"use runtime.processes={torch.cuda.device_count()}"
        )
    return [f"cuda:{i}" for i in range(n)]


def _follow(torchrun: subprocess.Popen[bytes], folder: Path, jobs: Sequence[Job], checkpoint: str) -> None:
    """Show what the first process tells until all have ended, and keep its checkpoints."""
    bar, position, ended = None, 0, False
    with ExitStack() as bars:
        while not ended:
            ended = torchrun.poll() is not None
            events, position = _read(folder / "events.jsonl", position)
            for event in events:
                if "label" in event:
                    bar = bars.enter_context(jobs[0].progress.bar(**event))
                elif "save" in event:
                    jobs[event["save"]].attempt.save(checkpoint)
                elif bar is not None:
                    bar.advance(event["done"], **event["figures"])
            for job in jobs:
                job.attempt.check()
            if not ended:
                time.sleep(POLL_SECONDS)


def _read(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from a position on, and where they end."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        whole, newline, _ = file.read().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()], position + len(whole) + len(newline)


def _end(torchrun: subprocess.Popen[bytes]) -> None:
    """End torchrun, and so its processes, if they have not ended by themselves."""
    if torchrun.poll() is None:
        torchrun.terminate()
        try:
            torchrun.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            torchrun.kill()
            torchrun.wait()


def _judge(code: int, folder: Path, n: int) -> None:
    """Raise what went wrong, told once: what a process raised, not what the others made of its end."""
    if code == 0:
        return
    for path in sorted(folder.glob("failed.*.pickle")):
        raise pickle.loads(path.read_bytes())
    log = (folder / "log").read_text(errors="replace")
    ends = re.findall(r"rank\s*: (\d+).*?exitcode\s*: (-?\d+)", log, re.DOTALL)
    # the others got their signal, SIGTERM, from torchrun
    killed = sorted(((rank, -int(end)) for rank, end in ends if int(end) < 0), key=lambda found: found[1] == signal.SIGTERM)
    if killed:
        how = f"process {killed[0][0]} of them was killed by signal {killed[0][1]}"
    elif ends:
        how = f"process {ends[0][0]} of them ended with exit status {ends[0][1]}"
    else:
        how = f"torchrun ended with exit status {code}: {log.strip().splitlines()[-1] if log.strip() else 'without a word'}"
    raise ProcessDied(f"runtime.processes = {n}, but {how}; run the same command again to go on from the last checkpoint")


# below: in the processes


class _Here:
    """A job's attempt as a process sees it: folders, and the holder of the lease far away."""

    def __init__(self, order: _Order, number: int, told: _Told) -> None:
        self.path, self.scratch, self._recovered = order.out, order.scratch, order.recovered
        self._number, self._told = number, told

    def recover(self, name: str) -> Path | None:
        return self._recovered

    def save(self, name: str) -> None:
        self._told.tell(save=self._number)

    def check(self) -> None:
        """The holder checks its lease, and ends us if it is lost."""


class _Told(Progress):
    """Progress written to a file by the first process. All end when the process that started them is gone."""

    def __init__(self, path: Path | None, holder: int) -> None:
        self._path, self._holder = path, holder
        self._done, self._figures, self._last = 0.0, dict[str, Any](), 0.0

    def tell(self, **event: Any) -> None:
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(event) + "\n")

    @contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Any]:
        self.tell(label=label, total=total, unit=unit)
        yield self
        self._flush()

    def advance(self, n: float = 1, **figures: Any) -> None:
        self._done += n
        self._figures.update(figures)
        if figures or time.monotonic() - self._last > POLL_SECONDS:
            self._flush()

    def _flush(self) -> None:
        _alive(self._holder)
        self.tell(done=self._done, figures=self._figures)
        self._done, self._figures, self._last = 0.0, {}, time.monotonic()


def _alive(pid: int) -> None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        raise SystemExit(f"process {pid}, which started this training, is gone") from None


def _work(folder: Path) -> None:
    """One process: what ``train`` does, on its device."""
    from tasks.learning.group import Group
    from tasks.train import train_together

    holder, runtime, devices, orders = pickle.loads((folder / "orders.pickle").read_bytes())
    rank = int(os.environ["RANK"])
    device = torch.device(devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    group = Group(runtime.shard)
    runtime = runtime.model_copy(update={"device": str(device), **({} if group.leads else {"wandb": None})})
    told = _Told(folder / "events.jsonl" if group.leads else None, holder)
    jobs = []
    for number, order in enumerate(orders):
        attempt, recipe = _Here(order, number, told), SimpleNamespace(artifact=order.artifact)
        jobs.append(Job(recipe, order.spec, order.inputs, attempt, runtime, told, None))  # type: ignore[arg-type]
    train_together(jobs, group)
    for job in jobs:
        if job.failure is not None and not isinstance(job.failure, SpecError):
            raise job.failure
    if group.leads:
        (folder / "done.pickle").write_bytes(pickle.dumps([(job.failure, job.summary) for job in jobs]))
    torch.distributed.destroy_process_group()


def main(folder: Path) -> None:
    """A process that torchrun started."""
    try:
        _work(folder)
    except Exception as error:
        if not _PEER_GONE.search(str(error)):  # another process's end is for that one to tell
            draft = folder / f"failed.{os.environ['RANK']}.tmp"
            try:
                draft.write_bytes(pickle.dumps(error))
            except Exception:
                draft.write_bytes(pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}")))
            draft.rename(draft.with_suffix(".pickle"))
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
