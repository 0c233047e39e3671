"""What a sweep costs where there is nothing to make: a cached 3 x 4 sweep, planned and run, inline and under Prefect.

    python benchmarks/sweep.py [server-url]

Every command is a whole process, as a user starts it, three times each; the smallest is printed (other work on the machine only
adds). Overhead per stage is the run's time less that of the same run without Prefect, over its stages; and, without what
Prefect takes to start, less that of a run of one job, over the stages that it has more.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.small import overrides

SWEEP = ["-m", "capture.hookpoints=[layers.0],[layers.1],[layers.2]", "sae.expansion_factor=2,4,8,16"]


def timed(folder: Path, *arguments: str, url: str = "", times: int = 3) -> tuple[float, str]:
    """Seconds of the fastest of some runs of a command, and what it printed."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PREFECT_API_URL": url, "OMP_NUM_THREADS": "1"}
    best, said = float("inf"), ""
    for _ in range(times):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "flows.cli", *arguments], cwd=folder, env=env, capture_output=True, text=True)
        best, said = min(best, time.perf_counter() - begun), done.stdout
        assert done.returncode == 0, done.stderr[-2000:]
    return best, said


def main(url: str = "") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = overrides(folder)
        timed(folder, "run", *world, *SWEEP, "runtime.mode=inline", times=1)
        bare, _ = timed(folder, "--version")
        help_, _ = timed(folder, "--help")
        print(f"saint --help                                   {help_:6.2f} s (python and --version alone: {bare:.2f} s)")
        plan, said = timed(folder, "plan", *world, *SWEEP)
        n = int(re.search(r"(\d+) distinct", said)[1])
        print(f"saint plan, 12 jobs, {n} stages               {plan:6.2f} s")
        inline, _ = timed(folder, "run", *world, *SWEEP, "runtime.mode=inline")
        print(f"saint run, all of it there, inline             {inline:6.2f} s")
        if url:
            one = [*world, "capture.hookpoints=[layers.0]", "sae.expansion_factor=2"]
            n_one = len(json.loads(timed(folder, "plan", "--json", *one, times=1)[1])["artifacts"])
            single, _ = timed(folder, "run", *one, url=url)
            whole, _ = timed(folder, "run", *world, *SWEEP, url=url)
            each = (whole - single) / (n - n_one)
            print(f"saint run, all of it there, under Prefect      {whole:6.2f} s (of one job: {single:.2f} s)")
            all_of_it = (whole - inline) / n
            print(f"overhead of a stage that is there              {1000 * all_of_it:6.1f} ms with Prefect's start")
            print(f"                                               {1000 * each:6.1f} ms without it")


if __name__ == "__main__":
    main(*sys.argv[1:])
