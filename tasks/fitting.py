"""The training loop: steps, looks at the validation split, checkpoints; of several SAEs at once where one read serves them.

Shapes: B tokens of a batch, D d_in, O d_out, N n_latents.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import ArtifactError
from tasks.lazy import torch
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.attempt import Attempt
    from tasks.learning.base import Learner
    from tasks.learning.schedule import TrainSpec
    from tasks.saes.base import SAE

Rows = tuple["Tensor", "Tensor | None"]
"""Normalised rows: what is read, and what is to be given (None: the same)."""

_OLD = ".old"
"""What the name of a checkpoint ends in while the next one takes its place."""

PIECE_ROWS = 4096
"""Rows that are encoded at a time when an SAE is looked at."""


class Fit:
    """The training of one SAE and all of its state: what a checkpoint holds and a resumed run goes on from."""

    def __init__(self, spec: TrainSpec, learner: Learner, validation: Sequence[Rows], fresh: bool = True) -> None:
        """``fresh``: the SAE has not learnt anything yet, so that its bias may be set to the mean of the first batch."""
        self.spec, self.learner, self.validation, self._fresh = spec, learner, validation, fresh
        self.step = 0
        self.log: list[dict[str, Any]] = []
        self.seconds = 0.0
        """Its share of the wall clock."""
        self.failure: Exception | None = None
        self.saved_at = 0
        """Step of the last checkpoint."""
        self._best, self._looks_since_best = math.inf, 0
        self._peak = spec.peak_lr(learner.sae.n_latents)
        self._average = {n: w.detach().clone() for n, w in learner.sae.weights().items()} if spec.ema else {}

    @property
    def ended(self) -> bool:
        """Whether no step is to come: all were taken, patience is out, or it failed."""
        spent = self.spec.patience is not None and self._looks_since_best >= self.spec.patience
        return spent or self.failure is not None or self.step >= self.spec.n_steps()

    def take(self, x_BD: Tensor, y_BO: Tensor | None = None) -> dict[str, float]:
        """One step on normalised rows. Returns figures to show at a look, nothing in between."""
        spec, sae = self.spec, self.learner.sae
        if self.step == 0 and self._fresh:  # the data mean is where a dictionary without latents would sit
            sae.b_dec_D.detach().copy_((x_BD if y_BO is None else y_BO).mean(0))
        lr = self._peak * spec.schedule(self.step)
        found = self.learner.step(x_BD, lr, y_BO, **spec.annealed(self.step))
        self.step += 1
        if spec.ema:
            self._follow(min(spec.ema, self.step / (self.step + 9)))  # young averages are short, or they remember the start
        if spec.revives_at(self.step):
            self._revive(x_BD, y_BO)
        return {} if self.step % spec.validate_every and self.step != spec.n_steps() else self._look(found, lr)

    def _follow(self, keep: float) -> None:
        """Move the average towards the weights."""
        with torch.no_grad():
            for name, weight in self.learner.sae.weights().items():
                self._average[name].lerp_(weight, 1 - keep)

    def _revive(self, x_BD: Tensor, y_BO: Tensor | None) -> None:
        """Point dead latents along rows that are reconstructed badly.

        Source: Bricken et al. 2023, "Towards monosemanticity", appendix "Neuron resampling": rows are drawn with a chance that
        grows with the square of their loss.
        """
        sae, dead = self.learner.sae, (self.learner.silent_N >= self.spec.dead_after_tokens).nonzero().squeeze(1)
        with torch.no_grad():
            off_B = (sae.decode(sae.encode(x_BD), x_BD) - (x_BD if y_BO is None else y_BO)).double().square().sum(-1)
            chance_B = off_B.square().cpu()
            n = min(len(dead), int((chance_B > 0).sum()))
            if n == 0:
                return
            draw = torch.Generator().manual_seed(self.spec.seed * 1_000_003 + self.step)  # no state to keep for a resumed run
            chosen = torch.multinomial(chance_B, n, generator=draw).to(x_BD.device)
            self.learner.revive(dead[:n], sae.inner(x_BD[chosen]).clone())
            for name, average in self._average.items():
                if name.rpartition("_")[2].startswith("N"):  # a row, or a number, of each latent
                    average[dead[:n]] = getattr(sae, name)[dead[:n]]

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
        held_out = self._validated(self._result())
        self.log.append({**row, "split": "validation", "loss": held_out["fvu"], **held_out, "aux_loss": None})
        if held_out["fvu"] < self._best:
            self._best, self._looks_since_best = held_out["fvu"], 0
        else:
            self._looks_since_best += 1
        return {"fvu": round(values["fvu"], 4), "held_out": round(held_out["fvu"], 4), "dead": round(dead, 3)}

    def _result(self) -> SAE:
        """The SAE that training stands at: the average of its weights where one is kept."""
        if not self._average:
            return self.learner.sae
        found = self.learner.sae.spec.holding({name: average.clone() for name, average in self._average.items()})
        return found.with_unit_rows() if found.UNIT_ROWS else found

    def finished(self) -> SAE:
        """The SAE at the end, its decoder rows of length 1, validated once more where that has moved them."""
        found = self._result()
        if not found.UNIT_ROWS:
            found = found.with_unit_rows()
            last = next(row for row in reversed(self.log) if row["split"] == "validation")
            held_out = self._validated(found)
            last.update({"loss": held_out["fvu"], **held_out})
        return found

    def _validated(self, sae: SAE) -> dict[str, float]:
        """FVU and L0 on the validation rows."""
        error, fires, n = 0.0, 0.0, 0
        targets = [x if y is None else y for x, y in self.validation]
        with torch.no_grad():
            mean = sum(y.double().sum(0) for y in targets) / sum(map(len, targets))
            spread = sum((y.double() - mean).square().sum() for y in targets)
            for (x_BD, _), y_BO in zip(self.validation, targets, strict=True):
                latents = sae.encode(x_BD)
                error += (sae.decode(latents, x_BD) - y_BO).double().square().sum()
                fires += (latents.value_BK > 0).sum()
                n += len(y_BO)
        return {"fvu": float(error / spread), "l0": float(fires / n)}

    def save(self, folder: Path | None) -> None:
        """Write a checkpoint, whole or not at all: it becomes one when its folder gets its name. None: another process of a group
        writes it, which needs this one to put the state together."""
        import shutil

        from safetensors.torch import save_file

        state = self.learner.state() | {f"average.{name}": average for name, average in self._average.items()}
        self.saved_at = self.step
        if folder is None:
            return
        draft = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_file({n: t.contiguous().clone() for n, t in state.items()}, draft / "state.safetensors")
        body = {"step": self.step, "log": self.log, "seconds": self.seconds}
        body |= {"best": self._best, "looks_since_best": self._looks_since_best}
        (draft / "loop.json").write_text(json.dumps(body))
        old = folder.with_name(folder.name + _OLD)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        draft.rename(folder)  # a crash before this leaves the old one: see ``last_checkpoint``
        shutil.rmtree(old, ignore_errors=True)

    def recover(self, folder: Path | None, device: Any) -> None:
        """Go on from a checkpoint, if there is one."""
        from safetensors.torch import load_file

        if folder is None or not (folder / "loop.json").exists():
            return
        body = json.loads((folder / "loop.json").read_text())
        state = {n: t.to(device) for n, t in load_file(folder / "state.safetensors").items()}
        self._average = {name: state.pop(f"average.{name}") for name in self._average}
        self.learner.load_state(state)
        self.step, self.log, self.seconds = body["step"], body["log"], body["seconds"]
        self._best, self._looks_since_best = body["best"], body["looks_since_best"]
        self.saved_at = self.step


def last_checkpoint(attempt: Attempt, name: str) -> Path | None:
    """The last checkpoint that a dead attempt left, also where it died while the next one took its place."""
    return attempt.recover(name) or attempt.recover(name + _OLD)


def fitted(
    fits: Sequence[Fit], batches: Callable[[int], Iterator[Tensor]], normalised: Callable[[Tensor], Rows], in_group: bool = False
) -> Iterator[tuple[int, dict[Fit, dict[str, float]]]]:
    """Give every batch to all fits that are at its step, each batch read and normalised once.

    Those that are behind (after an interruption) go alone until they have come up to the others. Yields, batch by batch, how
    many took it, and figures to show of those that had a look. What goes wrong in one is its ``failure``; the others go on.

    ``in_group``: other processes take the same steps. Then what goes wrong is raised: a process that left one SAE's step alone
    would meet the others, which are still inside of it, in the next one's.
    """
    while going := [fit for fit in fits if not fit.ended]:
        at = min(fit.step for fit in going)
        ahead = min((fit.step for fit in going if fit.step > at), default=None)
        going = [fit for fit in going if fit.step == at]
        stream = batches(at)
        begun = time.monotonic()
        try:
            for rows in stream:
                x_BD, y_BO = normalised(rows)
                shown = {}
                for fit in going:
                    try:
                        shown[fit] = fit.take(x_BD, y_BO)
                    except (ArtifactError, OSError):  # of the store: nothing that another SAE would be spared
                        raise
                    except Exception as error:
                        if in_group:
                            raise
                        fit.failure = error
                now = time.monotonic()
                for fit in going:
                    fit.seconds += (now - begun) / len(going)
                begun = now
                yield len(going), {fit: figures for fit, figures in shown.items() if figures}
                at += 1
                going = [fit for fit in going if not fit.ended]
                if not going or at == ahead:
                    break
        finally:
            stream.close()  # type: ignore[attr-defined]  # ends the thread that reads ahead


def validation_rows(shards: Sequence[Any], n_tokens: int, normalised: Callable[[Tensor], Rows]) -> list[Rows]:
    """Normalised validation rows, in pieces, spread evenly over the shards."""
    want = -(-n_tokens // max(1, len(shards)))
    pieces = [
        normalised(shard.activations(start, min(start + PIECE_ROWS, want, shard.n_rows)))
        for shard in shards
        for start in range(0, min(want, shard.n_rows), PIECE_ROWS)
    ]
    if not pieces:
        raise SpecError("the validation split has no rows, but training is watched on it; make corpus.validation larger")
    return pieces
