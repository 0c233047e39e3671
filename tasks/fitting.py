"""The training loop: schedules, looks at the validation split, checkpoints. Shapes: B tokens of a batch, D d_in, O d_out, N n_latents."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import torch
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.aligned import Shard
    from tasks.learning.base import Learner
    from tasks.norms._sites import SiteNorms
    from tasks.norms.base import FittedNorm
    from tasks.train import TrainSpec

    Pair = tuple[Tensor, Tensor | None]


class Fit:
    """The training loop and all of its state: what a checkpoint holds and a resumed run goes on from."""

    def __init__(
        self, spec: TrainSpec, learner: Learner, norm: FittedNorm | SiteNorms, device: Any, validation: Sequence[Pair]
    ) -> None:
        self.spec, self.learner, self.norm, self.device, self.validation = spec, learner, norm, device, validation
        self.step = 0
        self.log: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._best, self._looks_since_best = math.inf, 0

    def run(self, batches: Callable[[int], Iterator[Tensor]]) -> Iterator[dict[str, float]]:
        """Take steps until done; yields figures to show at every look, and nothing in between."""
        spec, n_steps = self.spec, self.spec.n_steps()
        peak = spec.peak_lr(self.learner.sae.n_latents)
        if self.step >= n_steps or self._out_of_patience():
            return
        stream = batches(self.step)
        begun = time.monotonic()
        try:
            for row_BR in stream:
                x_BD, y_BO = self.norm.pair(row_BR.to(self.device, non_blocking=True))
                if self.step == 0:  # the data mean is where a dictionary without latents would sit
                    self.learner.sae.b_dec_D.detach().copy_((x_BD if y_BO is None else y_BO).mean(0))
                lr = peak * spec.schedule(self.step)
                found = self.learner.step(x_BD, lr) if y_BO is None else self.learner.step(x_BD, lr, y_BO)
                self.step += 1
                if self.step % spec.validate_every and self.step != n_steps:
                    yield {}
                    continue
                now = time.monotonic()
                self.seconds, begun = self.seconds + now - begun, now
                yield self._look(found, lr)
                if self.step == n_steps or self._out_of_patience():
                    return
        finally:
            stream.close()  # type: ignore[attr-defined]  # ends the thread that reads ahead

    def _look(self, found: dict[str, Tensor], lr: float) -> dict[str, float]:
        """Log the step's losses and the validation split's; returns what a person wants to see."""
        dead = (self.learner.silent_N >= self.spec.dead_after_tokens).float().mean().item()
        row = {"step": self.step, "tokens": self.step * self.spec.batch_tokens, "lr": lr, "dead_fraction": dead}
        row |= {"seconds": round(self.seconds, 3)}
        values = {name: float(value) for name, value in found.items()}
        if not math.isfinite(values["loss"]):
            raise SpecError(
                f"train.lr = {self.spec.lr}, but the loss at step {self.step} is {values['loss']}; use a smaller one"
            )
        columns = ("loss", "fvu", "l0", "aux_loss")
        self.log.append({**row, "split": "train", **{c: values.get(c) for c in columns}})
        held_out = self.validated()
        self.log.append({**row, "split": "validation", "loss": held_out["fvu"], **held_out, "aux_loss": None})
        if held_out["fvu"] < self._best:
            self._best, self._looks_since_best = held_out["fvu"], 0
        else:
            self._looks_since_best += 1
        return {"fvu": round(values["fvu"], 4), "held_out": round(held_out["fvu"], 4), "dead": round(dead, 3)}

    def validated(self) -> dict[str, float]:
        """FVU and L0 on the validation rows."""
        sae, error, fires, n = self.learner.sae, 0.0, 0.0, 0
        with torch.no_grad():
            targets = [x if y is None else y for x, y in self.validation]
            mean = sum(y.double().sum(0) for y in targets) / sum(map(len, targets))
            spread = sum((y.double() - mean).square().sum() for y in targets)
            for (x_BD, _), y_BO in zip(self.validation, targets, strict=True):
                latents = sae.encode(x_BD)
                error += (sae.decode(latents, x_BD) - y_BO).double().square().sum()
                fires += (latents.value_BK > 0).sum()
                n += len(x_BD)
        return {"fvu": float(error / spread), "l0": float(fires / n)}

    def _out_of_patience(self) -> bool:
        return self.spec.patience is not None and self._looks_since_best >= self.spec.patience

    def save(self, folder: Path) -> None:
        """Write a checkpoint, whole or not at all: it becomes one when its folder gets its name."""
        import shutil

        from safetensors.torch import save_file

        draft = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_file({n: t.contiguous().clone() for n, t in self.learner.state().items()}, draft / "state.safetensors")
        body = {"step": self.step, "log": self.log, "seconds": self.seconds}
        body |= {"best": self._best, "looks_since_best": self._looks_since_best}
        (draft / "loop.json").write_text(json.dumps(body))
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def recover(self, folder: Path | None) -> None:
        """Go on from a checkpoint, if there is one."""
        from safetensors.torch import load_file

        if folder is None or not (folder / "loop.json").exists():
            return
        body = json.loads((folder / "loop.json").read_text())
        self.learner.load_state({n: t.to(self.device) for n, t in load_file(folder / "state.safetensors").items()})
        self.step, self.log, self.seconds = body["step"], body["log"], body["seconds"]
        self._best, self._looks_since_best = body["best"], body["looks_since_best"]


def validation_rows(shards: Sequence[Shard], n_tokens: int, norm: FittedNorm | SiteNorms, device: Any) -> list[Pair]:
    """Normalised validation rows (what is read, and what is written where that is another), in pieces of at most 4,096, spread
    evenly over the shards."""
    pieces = []
    for shard in shards:
        want = -(-n_tokens // len(shards))
        pieces += [norm.pair(rows.to(device)) for _, rows in _first(shard, want)]
    if not pieces:
        raise SpecError("the validation split has no rows, but training is watched on it; make corpus.validation larger")
    return pieces


def _first(shard: Shard, n: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, min(n, shard.n_rows), 4096):
        yield start, shard.activations(start, min(start + 4096, n, shard.n_rows))
