"""Virtual environments of the peers: one for each, since they cannot all live in one, and none of them in ours.

    python benchmarks/environments.py [sae-lens] [eai-sparsify] [dictionary-learning] [--where FOLDER]

Without names, all of them. An environment that is there already is left alone, one that was left half made is finished, and
one whose versions below have changed gets the new ones. The last line for each is the path of its Python. From Python:
``environment("sae-lens")``.

torch has the version that ``constraints.txt`` gives, in every one of them: the comparison is then of the peers and not of
torch, and pip does not go looking for the largest build there is. Where pip itself needs settings (an index with builds of
torch for the CPU, say), give them in its own variables, ``PIP_EXTRA_INDEX_URL`` and so on: they reach it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import venv
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console


class Peer(NamedTuple):
    """What a peer's environment holds."""

    requirements: tuple[str, ...]
    """Exact versions; their own dependencies are pip's choice, torch excepted."""

    module: str
    """What is imported to see that it works."""

    without: tuple[str, ...] = ()
    """Packages that come along and break it."""


PEERS = {
    "sae-lens": Peer(("sae-lens==6.54.12",), "sae_lens"),
    "eai-sparsify": Peer(("eai-sparsify==1.3.3",), "sparsify"),
    # Its imports reach torchvision through nnsight and diffusers; one of another build than torch ends them, none does not.
    "dictionary-learning": Peer(("dictionary-learning==0.1.0",), "dictionary_learning", ("torchvision",)),
}

_STAMP = "saint-environment.json"


class EnvironmentFailed(RuntimeError):
    """An environment could not be made; says what to do."""


def environment(name: str, where: str | os.PathLike[str] | None = None, console: Console | None = None) -> Path:
    """The Python of a peer's environment, made if it is not there yet (minutes). ``where``: the folder that holds them all;
    None: a folder of the user's cache. Raises ``EnvironmentFailed``."""
    if name not in PEERS:
        raise EnvironmentFailed(f"peer = {name!r}, but there are {', '.join(PEERS)}; use one of these")
    peer, folder = PEERS[name], (Path(where) if where is not None else cache()) / name
    console = console or Console(stderr=True)
    python = folder / "bin" / "python"
    wanted = {"requirements": list(peer.requirements), "torch": torch_pin(), "python": platform.python_version()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{name}.lock"), "w") as lock:
        _locked(lock.fileno(), name, console)
        if python.exists() and _stamp(folder) == wanted:
            return python.absolute()
        if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
            raise EnvironmentFailed(f"--where = {folder.parent}, but its {name} is no virtual environment; use another folder")
        stamp = _stamp(folder)
        anew = bool(stamp) and stamp.get("python") != wanted["python"]
        with console.status(f"{name}: a virtual environment in {folder}") as status:
            # Cleared for another Python only: what an interrupted build had installed is gone on with, and nothing that
            # somebody else put there is lost.
            venv.EnvBuilder(clear=anew, with_pip=True, symlinks=True).create(folder)
            (folder / _STAMP).unlink(missing_ok=True)
            constraint = folder / "constraint.txt"
            constraint.write_text(wanted["torch"] + "\n")
            log = folder.with_name(f"{name}.log")
            pip = [str(python), "-m", "pip", "--no-input"]
            with open(log, "w") as record:

                def run(*command: str) -> None:
                    _run(command, record, name, status, log)

                run(*pip, "install", "-c", str(constraint), "torch")  # first: the rest must fit to it
                run(*pip, "install", "-c", str(constraint), *peer.requirements)
                if peer.without:
                    run(*pip, "uninstall", "--yes", *peer.without)
                run(str(python), "-c", f"import {peer.module}")
        (folder / _STAMP).write_text(json.dumps(wanted))
    return python.absolute()


def cache() -> Path:
    """Where environments lie unless somebody says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saint" / "peers"


def torch_pin() -> str:
    """The line of ``constraints.txt`` about torch."""
    text = Path(__file__).parents[1].joinpath("constraints.txt").read_text()
    found = re.search(r"^torch==\S+", text, re.MULTILINE)
    if not found:
        raise EnvironmentFailed("constraints.txt has no line torch==..., but peers need the same torch as we; add it")
    return found[0]


def _stamp(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / _STAMP).read_text())
    except (OSError, ValueError):
        return {}


def _locked(descriptor: int, name: str, console: Console) -> None:
    """Wait for whoever else makes the same environment; the lock ends with the file, or with the process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.print(f"{name}: another process is making it; waiting")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _run(command: Sequence[str], record, name: str, status, log: Path) -> None:
    """Run one command, its last line shown and all of them written down."""
    record.write(f"$ {' '.join(command)}\n")
    last: deque[str] = deque(maxlen=8)
    # A PYTHONPATH of ours would put our packages into theirs.
    bare = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "PYTHONHOME")}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=bare)
    try:
        for line in running.stdout or ():
            record.write(line)
            last.append(line.rstrip())
            status.update(f"{name}: [dim]{line.strip()[:100]}".replace("\\", "/"))
        if running.wait():
            said = "\n    ".join(last)
            raise EnvironmentFailed(
                f"{' '.join(command[1:4])} ended with {running.returncode} for {name}; the last it said:\n    {said}\n"
                f"all of it is in {log}; mend the cause and run the same command"
            )
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="peer", help=f"{', '.join(PEERS)}; none: all")
    parser.add_argument("--where", type=Path, help=f"folder that holds the environments (default: {cache()})")
    asked = parser.parse_args(arguments)
    try:
        for name in asked.peers or PEERS:
            print(environment(name, asked.where))
    except EnvironmentFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
