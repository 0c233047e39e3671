"""The place of the store: whether it keeps the promises that the store rests on, tried out, and how it stands there."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from artifacts.backends.base import Backend
from artifacts.backends.local import Local
from artifacts.gc import orphans
from artifacts.lease import FOLDER, dead
from artifacts.store import Store
from flows.checks.base import Check, Status
from flows.console import size

SLOW_FSYNC_SECONDS = 0.1
N_RACERS = 8


def local(root: Path) -> Iterator[Check]:
    """Checks of a folder, in a folder of our own inside it (or inside what it would be made in) that goes again."""
    root = place = root.expanduser().absolute()
    try:
        place = next(folder for folder in (root, *root.parents) if folder.exists())
        with tempfile.TemporaryDirectory(prefix=".saint-doctor-", dir=place) as probe:
            yield Check("store", "ok", f"{root} can be written" if place == root else f"{root} can be made")
            yield from promises(Local(probe))
            yield flock(Path(probe))
            yield fsync(Path(probe))
    except OSError as error:
        said = f"backend.root = {str(root)!r}, but {place} cannot be written ({(error.strerror or str(error)).lower()})"
        yield Check("store", "wrong", said, "choose another folder with backend.root=..., or mend its permissions")
        return
    yield file_system(place)


def bucket(backend: Backend, where: str) -> Iterator[Check]:
    """Checks of a place that is no folder. Raises ``StoreUnwritable``."""
    backend.check_writable()
    yield Check("store", "ok", f"{where} can be written")
    yield from promises(backend)


def promises(backend: Backend) -> Iterator[Check]:
    """``create`` and ``swap``, each by several threads at once: one may win."""
    home = f"doctor-{uuid.uuid4().hex}"
    name = "create-if-absent"
    try:
        winners = _race(lambda i: backend.create(f"{home}/created", b"%d" % i))
        late = backend.create(f"{home}/created", b"late")
        if winners == 1 and not late and backend.read(f"{home}/created") != b"late":
            yield Check(name, "ok", f"{N_RACERS} writers, one winner")
        else:
            said = f"{winners + late} of {N_RACERS + 1} writers were told that they made one and the same object"
            yield Check(name, "wrong", said, "use another place: two runs would overwrite each other here")
        name = "compare-and-swap"
        made = backend.swap(f"{home}/swapped", None, b"first")
        winners = _race(lambda i: backend.swap(f"{home}/swapped", b"first", b"%d" % i))
        stale = backend.swap(f"{home}/swapped", b"first", b"stale")
        if made and winners == 1 and not stale:
            yield Check(name, "ok", f"{N_RACERS} writers, one winner")
        else:
            said = f"{winners + stale} of {N_RACERS + 1} writers swapped what only the first still found"
            yield Check(name, "wrong", said, "use another place: leases would not hold here")
    except OSError as error:  # such as a file system without hard links
        yield Check(name, "wrong", f"it fails here ({(error.strerror or str(error)).lower()})", "use another place for the store")
    finally:
        backend.delete(home)


def _race(attempt: Callable[[int], bool]) -> int:
    """How many of several threads, let go at once, were told that they won."""
    start, won = threading.Barrier(N_RACERS), []

    def run(i: int) -> None:
        start.wait()
        with suppress(OSError):
            won.append(attempt(i))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(N_RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(won)


_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "ab") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(7)
"""


def flock(folder: Path) -> Check:
    """Whether a lock that we hold keeps another process out, and lets it in once it is given back."""
    path = folder / "lock"

    def other() -> int:
        return subprocess.run([sys.executable, "-IS", "-c", _TRY_LOCK, path], capture_output=True, timeout=10).returncode

    todo = "mount the file system with locks (NFS: version 4; Lustre: -o flock), or use another place"
    try:
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            held = other()
        free = other()
    except OSError as error:
        return Check("flock", "wrong", f"flock fails ({(error.strerror or str(error)).lower()})", todo)
    if (held, free) == (7, 0):
        return Check("flock", "ok", "a lock keeps another process out")
    said = "another process took a lock that we hold" if held == 0 else f"another process cannot lock (exit code {held}, {free})"
    return Check("flock", "wrong", said, todo)


def fsync(folder: Path) -> Check:
    """What one small write to the disk takes, the median of five."""
    seconds = []
    with open(folder / "synced", "wb") as file:
        for _ in range(5):
            file.write(b"x" * 4096)
            file.flush()
            begun = time.monotonic()
            os.fsync(file.fileno())
            seconds.append(time.monotonic() - begun)
    median = sorted(seconds)[2]
    said = f"a write reaches the disk in {1000 * median:.1f} ms"
    if median <= SLOW_FSYNC_SECONDS:
        return Check("fsync", "ok", said)
    return Check("fsync", "warning", said + "; an artifact takes several", "use a faster disk, or fewer and larger shards")


def file_system(place: Path, mounts: str | None = None) -> Check:
    """What the store lies on; ``mounts`` is the text of /proc/mounts."""
    if mounts is None:
        with suppress(OSError):
            mounts = Path("/proc/mounts").read_text()
    best, kind, options = "", "", ""
    for line in (mounts or "").splitlines():
        _, at, this_kind, these, *_ = line.split()
        at = at.encode().decode("unicode_escape")  # a space is written \040
        if len(at) >= len(best) and (place == Path(at) or Path(at) in place.parents):
            best, kind, options = at, this_kind, these
    if not kind:
        return Check("file system", "ok", "unknown: this system does not list its mounts")
    said, words = f"{kind} at {best}", set(options.split(","))
    if kind == "nfs" and words & {"nolock", "local_lock=all", "local_lock=flock"}:
        said += " with locks that hold on one machine only"
        return Check("file system", "warning", said, "mount it as NFS 4 before runs of several machines share it")
    if kind == "lustre" and "flock" not in words:
        return Check("file system", "warning", said + " without -o flock", "mount it with -o flock")
    if kind in ("tmpfs", "ramfs"):
        return Check("file system", "warning", said + ": it lies in memory, and is gone at the next boot", "backend.root=...")
    return Check("file system", "ok", said)


def room(place: Path, needed: int | None, free: int | None = None) -> Check:
    """Free space against what the run would write; ``needed`` None where that is not known yet."""
    if free is None:
        place = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(place).free
    if needed is None:
        return Check("disk", "ok", f"{size(free)} free; what the run writes is known once the model is here")
    status: Status = "ok" if free > 1.1 * needed else "warning" if free > needed else "wrong"
    todo = "" if status == "ok" else "free some (saint gc --unwanted), or choose another disk with backend.root=..."
    return Check("disk", status, f"{size(free)} free, and the run writes about {size(needed)}", todo)


def leftovers(store: Store) -> Iterator[Check]:
    """Leases and attempts of processes that died."""
    gone = len(dead(store.backend))
    held = sum(1 for _ in store.backend.paths(FOLDER)) - gone
    if gone:
        said = f"{gone} of processes that died, {held} held"
        yield Check("leases", "warning", said, "nothing: the next run takes them over; saint gc --yes removes them")
    else:
        yield Check("leases", "ok", f"{held} held, none by a dead process")
    left = list(orphans(store))
    said = f"{len(left)} unfinished attempts, {size(sum(o.bytes for o in left))}"
    yield Check("leftovers", "ok", said, "saint gc --yes frees it" if left else "")
