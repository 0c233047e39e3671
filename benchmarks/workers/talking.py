"""What every worker says and hears: one JSON object a line, heard on stdin and said to the file descriptor of its argument.

A worker is a process of a contestant's own environment, so this file needs nothing but Python, numpy and torch. It works only
when it is told to, and waits otherwise, so that contestants can take turns on one machine.

    {"do": "make", "data": "rows.npy", "batch": 2048, ...}   -> {"version": "..."}
    {"do": "steps", "n": 5}             -> {"wall": [seconds of each], "cpu": [CPU seconds of each]}
    {"do": "fvu", "start": 0, "stop": 4096}    -> {"fvu": 0.12}, of those rows, untrained on if the file has more than training reads
    {"do": "encode", "data": "...", "out": "folder"}   -> {}, and latents.npy, x_hat.npy, W_dec.npy in the folder
    {"do": "peak"}                      -> {"mb": peak resident memory, "start_mb": resident memory after imports}

An answer with ``error`` says what went wrong. The end of stdin ends the worker.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch


class Contestant:
    """Something that takes training steps. Subclasses are made from the fields of ``make``."""

    version = ""

    def step(self, x):
        """One training step on rows [B, D]."""
        raise NotImplementedError

    def x_hat(self, x):
        """Reconstructions in training's own form."""
        raise NotImplementedError

    def encoded(self, folder):
        """A function from rows to (dense latents, reconstructions) in the form that users get, and decoder rows [M, D]. May
        write files into ``folder``."""
        raise NotImplementedError


def serve(make):
    """Answer until stdin ends. ``make``: a function from the fields of a ``make`` request to a ``Contestant``."""
    answers = os.fdopen(int(sys.argv[1]), "w")
    start_mb, work = _memory_from_now(), None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["do"] == "make":
                work = Work(make(asked), asked)
                answer = {"version": work.contestant.version}
            elif asked["do"] == "peak":
                answer = {"mb": _peak_mb(), "start_mb": start_mb}
            else:
                answer = getattr(work, asked.pop("do"))(**asked)
        except Exception as failure:
            traceback.print_exc()
            answer = {"error": f"{type(failure).__name__}: {failure}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Work:
    """A contestant and its way through the data."""

    def __init__(self, contestant, asked):
        self.contestant, self.batch, self.at = contestant, asked["batch"], 0
        self.rows = np.load(asked["data"], mmap_mode="r")
        self.n_train = asked.get("train_rows", len(self.rows)) // self.batch * self.batch

    def steps(self, n):
        """The next ``n`` batches, around and around; reading them is not timed."""
        wall, cpu = [], []
        for _ in range(n):
            first = self.at * self.batch % self.n_train
            x = torch.from_numpy(np.array(self.rows[first : first + self.batch]))
            self.at += 1
            w, c = time.perf_counter(), time.process_time()
            self.contestant.step(x)
            wall.append(time.perf_counter() - w)
            cpu.append(time.process_time() - c)
        return {"wall": wall, "cpu": cpu}

    def fvu(self, start, stop):
        with torch.no_grad():
            x = torch.from_numpy(np.array(self.rows[start:stop]))
            error = (self.contestant.x_hat(x) - x).double().square().sum()
            return {"fvu": float(error / (x - x.mean(0)).double().square().sum())}

    def encode(self, data, out):
        rows, parts = np.load(data, mmap_mode="r"), []
        encode, W_dec = self.contestant.encoded(out)
        with torch.no_grad():
            for first in range(0, len(rows), 4096):
                parts.append(encode(torch.from_numpy(np.array(rows[first : first + 4096]))))
        latents, x_hat = (torch.cat(part).detach().float().numpy() for part in zip(*parts, strict=True))
        for name, array in (("latents", latents), ("x_hat", x_hat), ("W_dec", W_dec.detach().float().numpy())):
            np.save(Path(out) / f"{name}.npy", array)
        return {}


def _memory_from_now():
    """Forget the peak of the imports, where the system lets us, and give what is held now, in MB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak_mb()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _peak_mb():
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
