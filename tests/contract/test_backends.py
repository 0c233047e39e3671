"""What every backend promises, whatever lies behind it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from artifacts.backends.base import Backend
from artifacts.backends.local import Local
from artifacts.backends.memory import Memory
from tests import objects


@pytest.fixture(params=["local", "memory", "objects"])
def backend(request, tmp_path) -> Backend:
    if request.param == "objects":
        there = request.getfixturevalue("s3")
        return objects.store(there, objects.bucket(there), tmp_path / "cache").backend
    return Local(tmp_path / "store") if request.param == "local" else Memory()


def test_create_makes_an_object_once(backend):
    assert backend.create("a/b.json", b"first") and not backend.create("a/b.json", b"second")
    assert not backend.create("a/b.json", b"first"), "it was made, but not by this call"
    assert backend.read("a/b.json") == b"first" and backend.size("a/b.json") == 5


def test_create_takes_pieces_and_makes_nothing_when_they_break_off(backend):
    def breaking():
        yield b"half"
        raise KeyError

    with pytest.raises(KeyError):
        backend.create("a", breaking())
    assert backend.read("a") is None and list(backend.paths()) == []
    assert backend.create("a", (piece for piece in (b"who", b"le"))) and backend.read("a") == b"whole"


def test_swap_changes_only_what_was_expected(backend):
    assert not backend.swap("a", b"nothing", b"new") and backend.read("a") is None
    assert backend.swap("a", None, b"1") and not backend.swap("a", None, b"2")
    assert backend.swap("a", b"1", b"2") and not backend.swap("a", b"1", b"3")
    assert backend.read("a") == b"2"


def test_what_was_swapped_away_is_absent_and_can_be_made_again(backend):
    backend.create("a/b", b"1")
    assert not backend.swap("a/b", b"0", None) and backend.swap("a/b", b"1", None)
    assert backend.read("a/b") is None and backend.size("a/b") == 0 and list(backend.paths()) == []
    assert backend.swap("a/b", None, None) and not backend.swap("a/b", b"1", None)
    assert backend.create("a/b", b"2") and not backend.create("a/b", b"3")
    assert backend.swap("a/b", b"2", None) and backend.swap("a/b", None, b"4") and backend.read("a/b") == b"4"


def test_of_many_at_once_one_creates_and_each_swap_counts(backend):
    made, n = [], 6

    def work(i: int) -> None:
        made.append(backend.create("one", f"{i}".encode()))
        while True:
            now = backend.read("count") or b"0"
            if backend.swap("count", None if now == b"0" else now, str(int(now) + 1).encode()):
                return

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.count(True) == 1 and backend.read("count") == str(n).encode()


def test_write_replaces_whatever_is_there(backend):
    backend.write("runs/a.json", b"first, which is longer")
    backend.write("runs/a.json", b"second")
    assert backend.read("runs/a.json") == b"second"


def test_open_streams_and_tells_of_what_is_not_there(backend):
    backend.create("a", b"one\ntwo\n")
    with backend.open("a") as file:
        assert list(file) == [b"one\n", b"two\n"]
    with pytest.raises(FileNotFoundError):
        backend.open("b")


def test_paths_and_sizes_are_those_below_a_folder_in_order(backend):
    for path in ("b/2", "b/1", "ba", "a", "b/c/3"):
        backend.create(path, path.encode())
    assert list(backend.paths("b")) == ["b/1", "b/2", "b/c/3"]
    assert dict(backend.sizes()) == {"a": 1, "b/1": 3, "b/2": 3, "b/c/3": 5, "ba": 2}
    assert list(backend.paths("none")) == []


def test_delete_takes_one_object_or_a_folder_and_nothing_beside_it(backend):
    for path in ("b/2", "b/1/x", "ba", "a"):
        backend.create(path, b"x")
    backend.delete("b")
    backend.delete("a")
    backend.delete("never/was")
    assert list(backend.paths()) == ["ba"]


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_published_can_be_read_as_files(backend):
    work = backend.work("x/data")
    wanted = {"a": b"1", "deep/b": b"22", "empty": b""}
    for name, data in wanted.items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(data)
    backend.publish("x/data")
    assert files_below(backend.folder("x/data", {name: len(data) for name, data in wanted.items()})) == wanted
    assert files_below(backend.folder("x/data")) == wanted
    backend.delete("x")
    assert not backend.folder("x/data").exists() or files_below(backend.folder("x/data")) == {}


@pytest.mark.parametrize("name", ["step.pt", "deep"])
def test_the_newest_kept_checkpoint_is_recovered_whole(backend, name, tmp_path):
    file = "a/b" if name == "deep" else ""
    assert not backend.recover("x/attempts", name, tmp_path / name)
    for attempt, text in (("1", "old"), ("2", "older"), ("2", "new")):
        path = backend.work(f"x/attempts/{attempt}/scratch") / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        backend.keep(f"x/attempts/{attempt}/scratch", name)
    assert backend.recover("x/attempts", name, tmp_path / "out" / name)
    assert (tmp_path / "out" / name / file).read_text() == "new"
    assert not backend.recover("x/attempts", "other", tmp_path / "other")


def test_one_at_a_time_holds_a_lock(backend):
    inside, most, waited = [], [], []

    def work() -> None:
        with backend.exclusively("journal/sending.lock", lambda: waited.append(1), ttl=5) as check:
            inside.append(1)
            most.append(len(inside))
            check()
            inside.pop()

    with backend.exclusively("journal/sending.lock", ttl=5):
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        objects.until(lambda: len(waited) == 2)
        assert most == []
    for thread in threads:
        thread.join(30)
    assert most == [1, 1]


def test_a_place_that_can_be_written_says_nothing(backend):
    backend.check_writable()
    assert not [path for path in backend.paths() if "probe" in path]
