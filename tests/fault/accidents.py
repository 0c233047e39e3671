"""Rounds of chaos: a run, an accident at a random moment, the same command again, and what must hold then.

Each accident is a function of the workplace, a store and a random source; what it returns is given to the checks.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from artifacts.store import Store
from tests.objects import ENVIRONMENT as CREDENTIALS
from tests.objects import S3
from tests.warm import Started
from tests.workplace import Workplace, alive, children, digests, guarded_in_turn, kill, tidy, until

SWEEP = ("capture.hookpoints=[layers.0],[layers.1]", "train.n_tokens=200000", "report.n_cards=4")
TTL = "runtime.lease_ttl_seconds=1.5"


def finish(place: Workplace, store: Path | list[str], *more: str, mode: str = "inline") -> None:
    """Give the same command again, and see it end well."""
    done = place.saint(*place.sweep(store, *SWEEP, TTL, *more, mode=mode), **CREDENTIALS)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]


def check(here: Store, quiet: dict, again: frozenset[str] = frozenset()) -> None:
    """What must hold at the end of a round. ``again`` are artifacts that had to be made a second time."""
    found = digests(here)
    assert found.keys() == quiet.keys()
    different = {a for a in quiet if found[a] != quiet[a]}
    assert not different, different
    tidy(here, again)


# two users, on one store


def start_two(place: Workplace, store: Path) -> list[Started]:
    return [place.start(*place.sweep(store, *SWEEP, TTL, mode="inline")) for _ in range(2)]


def ended(processes: list[Started]) -> list[tuple[int, str]]:
    found = []
    for process in processes:
        out, said = process.communicate(timeout=200)
        assert "Traceback" not in said, said
        found.append((process.returncode, out + said))
    return found


def some_time(store: Path, draw: random.Random) -> None:
    """A moment at which a run of the sweep is in the middle of something."""
    until(lambda: store.exists() and any(Store.at(store).artifacts()))
    time.sleep(draw.random() * 6)


def one_of_two_users_is_killed(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    both = start_two(place, store)
    some_time(store, draw)
    both[0].kill()
    (_, (code, said)) = ended(both)
    assert code == 0, said[-3000:]  # the other one finishes alone
    return frozenset()


def both_users_are_killed(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    both = start_two(place, store)
    some_time(store, draw)
    kill([p.pid for p in both])
    ended(both)
    return frozenset()


def a_lease_holder_is_stopped_and_woken(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    both = start_two(place, store)
    some_time(store, draw)
    kill([both[0].pid], signal.SIGSTOP)
    time.sleep(2 + 3 * draw.random())  # longer than a lease lives without a beat
    kill([both[0].pid], signal.SIGCONT)
    for code, said in ended(both):
        assert code == 0, said[-3000:]  # whom it was taken from adopts what the other made
    return frozenset()


def the_disk_is_full(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    store.mkdir()
    size = 1_000_000 + draw.randrange(1_500_000)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", store], check=True)
    done = place.saint(*place.sweep(store, *SWEEP, TTL, mode="inline"))
    assert done.returncode == 1 and ("the disk is full" in done.stderr or "No space left" in done.stderr), done.stderr
    subprocess.run(["mount", "-o", "remount,size=300m", store], check=True)
    return frozenset()


def a_byte_is_flipped(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    finish(place, store)
    here = Store.at(store)
    artifact = draw.choice(sorted(here.artifacts()))
    manifest = here.find(artifact)
    file = draw.choice([f for f in manifest.files if f.bytes])
    path = here.open(artifact).path / file.path
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    found = place.saint("verify", f"backend.root={store}")
    assert found.returncode == 1 and str(artifact) in found.stdout and file.path in found.stdout, found.stdout
    # whatever rests on it and is made anew must refuse it; here all that rests on it goes with it
    names = [f"{a.stage}/{a.key}" for a in rests_on(here, artifact)]
    assert place.saint("gc", *names, "--yes", f"backend.root={store}").returncode == 0
    return frozenset(names)


def rests_on(store: Store, artifact) -> list:
    """An artifact and everything that was made from it."""
    found = {artifact}
    while True:
        more = {
            a for a in store.artifacts() if a not in found
            and any(f"{x.stage}/{x.key}" in str(store.find(a).inputs) for x in found)
        }  # fmt: skip
        if not more:
            return sorted(found)
        found |= more


def the_s3_server_is_dropped(place: Workplace, server: S3, bucket: str, folder: Path, draw: random.Random) -> list[str]:
    """Two users with caches of their own, as on two hosts; one may be killed as well. Returns where the store is."""
    where = ["backend=s3", f"backend.bucket={bucket}", f"backend.endpoint={server.url}", "backend.region=us-east-1"]
    both = [
        place.start(*place.sweep([*where, f"backend.cache={folder / name}"], *SWEEP, TTL, mode="inline"), **CREDENTIALS)
        for name in ("one", "other")
    ]
    time.sleep(1 + draw.random() * 12)
    for _ in range(1 + draw.randrange(3)):
        server.slam()
        time.sleep(draw.random() * 4)
        server.reopen()
        time.sleep(draw.random() * 2)
    if draw.random() < 0.5:
        both[0].kill()
    (_, (code, said)) = ended(both)
    assert code == 0 or "has not answered" in said, said[-3000:]  # it may have been gone as the command was given
    return [*where, f"backend.cache={folder / 'third'}"]


ALONE = (
    one_of_two_users_is_killed,
    a_lease_holder_is_stopped_and_woken,
    a_byte_is_flipped,
    both_users_are_killed,
    the_disk_is_full,
)

# on the pool


def submitted(place: Workplace, store: Path, draw: random.Random) -> Started:
    """A run that lanes are at work on."""
    going = place.start(*place.sweep(store, *SWEEP, TTL, f"runtime.guard={store.name}"))
    until(lambda: store.exists() and any(alive(p) for p in place.jobs(store)[0]), why="no lane began")
    time.sleep(draw.random() * 8)
    return going


def settle(place: Workplace, store: Path, going: Started) -> None:
    """End the follower, bring back what is down, and let what is left of the first run come to rest."""
    going.send_signal(signal.SIGINT)
    _, said = going.communicate(timeout=200)
    assert "Traceback" not in said, said
    if not alive(place.server.process.pid):
        place.server.start()
    if not all(alive(worker.pid) for worker in place.workers.values()):
        place.close()
        place.open()


def a_lane_is_killed(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    going = submitted(place, store, draw)
    kill(draw.sample(lanes := place.jobs(store)[0], min(1, len(lanes))))
    settle(place, store, going)
    return frozenset()


def a_worker_is_killed(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    """With or without the jobs that it runs: an orphan goes on, and the guard keeps its successor waiting."""
    going = submitted(place, store, draw)
    pool = draw.choice(("gpu", "cpu"))
    top = place.workers[pool]
    workers = [pid for pid in children(top.pid) if "worker" in _command(pid)]
    kill([top.pid, *children(top.pid)] if draw.random() < 0.5 else [top.pid, *workers])
    top.wait()
    place.employ(pool, *(("--n", "2") if pool == "gpu" else ("--share", "6")))
    settle(place, store, going)
    return frozenset()


def the_watcher_is_killed(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    going = submitted(place, store, draw)
    kill(place.jobs(store)[1])
    settle(place, store, going)
    return frozenset()


def the_server_is_killed(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    going = submitted(place, store, draw)
    place.server.kill()
    time.sleep(draw.random() * 3)
    place.server.start()
    settle(place, store, going)
    return frozenset()


def everything_is_killed(place: Workplace, store: Path, draw: random.Random) -> frozenset[str]:
    """As when the machine is switched off."""
    going = submitted(place, store, draw)
    place.server.kill()
    kill(place.crew())
    settle(place, store, going)
    return frozenset()


POOL = (a_lane_is_killed, a_worker_is_killed, the_watcher_is_killed, the_server_is_killed, everything_is_killed)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def at_rest(place: Workplace, store: Path) -> None:
    """Wait until no process works on a store any more."""
    until(lambda: not any(alive(pid) for some in place.jobs(store) for pid in some if pid != os.getpid()), why="a job stays")


def turns(store: Path) -> None:
    """Check that the device guard of a round was held by one at a time, and by somebody."""
    assert guarded_in_turn(Store.at(store), store.name) >= 1

