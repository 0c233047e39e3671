"""Language models that are held for many users: which are opened, how often, and when they are let go."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import pytest

from artifacts.errors import ArtifactNotFound
from artifacts.keys import Artifact, Key
from flows.models import MOST_LMS, Models
from tasks.spec import Runtime

A, B, C, GONE = (Artifact("provide", Key(letter * 64)) for letter in "abcf")


class LM:
    def __init__(self, name: Artifact) -> None:
        self.name, self.self = name, self  # in a circle, as models are

    def token_strings(self) -> list[str]:
        return ["a", self.name.key[0]]


@pytest.fixture
def world(monkeypatch) -> SimpleNamespace:
    """Models over a store of three language models; ``opened`` says which were opened, and which were alive then."""
    held: dict[Artifact, weakref.ref] = {}
    opened: list[tuple[Artifact, list[Artifact]]] = []

    def found(artifact):
        if artifact is GONE:
            raise ArtifactNotFound(f"{artifact} does not exist")
        return artifact

    def open_(artifact, runtime, dtype):
        opened.append((artifact, [name for name, lm in held.items() if lm() is not None]))
        lm = LM(artifact)
        held[artifact] = weakref.ref(lm)
        return lm

    monkeypatch.setattr("tasks.lm.language_model.LanguageModel.open", staticmethod(open_))
    return SimpleNamespace(models=Models(SimpleNamespace(open=found), Runtime(mode="inline", device="cpu")), opened=opened)


def test_the_two_asked_for_last_are_held_and_room_is_made_before_a_third_is_opened(world):
    assert MOST_LMS == 2
    for name in (A, B, A, C):
        world.models.lm(name)
    assert world.opened == [(A, []), (B, [A]), (C, [A])]  # B was asked for longest ago
    for name in (A, C, A):
        world.models.lm(name)
    assert len(world.opened) == 3
    world.models.lm(B)
    assert world.opened[3:] == [(B, [A])]


def test_one_that_somebody_is_at_work_with_is_never_opened_twice(world):
    used = world.models.lm(A)
    for name in (B, C, B):
        world.models.lm(name)
    assert world.models.lm(A) is used and [name for name, _ in world.opened] == [A, B, C]


def test_its_words_need_no_model_once_they_are_known(world):
    words = world.models.words(A)
    for name in (B, C):
        world.models.lm(name)
    assert world.models.words(A) is words == ["a", "a"] and len(world.opened) == 3


def test_one_that_is_not_there_costs_no_other(world):
    first = world.models.lm(A)
    world.models.lm(B)
    with pytest.raises(ArtifactNotFound):
        world.models.lm(GONE)
    assert world.models.lm(A) is first and world.models.lm(B) and len(world.opened) == 2
