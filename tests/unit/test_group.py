"""Two processes over gloo learn what one learns, with a part of the rows each or a part of the latents each."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.multiprocessing

from tasks.learning.group import Group
from tasks.learning.sparse import SparseLearner
from tasks.saes.batchtopk import BatchTopK
from tasks.saes.matryoshka import Matryoshka
from tasks.saes.topk import TopK
from tasks.spec import SpecError

D, N, DEAD, STEPS = 16, 64, 120, 14
SMALL = {"n_latents": N, "expansion_factor": None, "k": 4, "k_aux": 8}
CASES = {
    "topk": (TopK(**SMALL), {}),
    "topk clipped": (TopK(**SMALL), {"clip_norm": 0.05}),
    "groupmax": (TopK(**SMALL, groupmax=True), {}),
    "multi topk": (TopK(**SMALL, multi_topk=True), {}),
    "skip transcoder": (TopK(**SMALL, skip=True, subtract_b_dec=False), {}),
    "batchtopk": (BatchTopK(**SMALL), {}),
    "crosscoder": (BatchTopK(**SMALL, rescale_by_row_norm=True, blocks=2), {"clip_norm": 0.1}),
    "matryoshka": (Matryoshka(**SMALL, prefixes=(0.25, 1.0)), {}),
}
SHARDS = ("batch", "latents")


def rows(seed: int, n: int = 65) -> torch.Tensor:
    """An odd number: the processes' parts differ in length."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=draw, dtype=torch.float64) * torch.linspace(0.2, 2.0, D) + 0.1


def learnt(name: str, shard: str | None) -> dict[str, torch.Tensor]:
    """Curve and state of a training that is stopped, resumed and revives latents on its way."""
    spec, options = CASES[name]
    group = None if shard is None else Group(shard)

    def begun() -> SparseLearner:
        # float64, so that another order of sums sends no two trainings apart
        return SparseLearner(spec.build(D).to(dtype=torch.float64), DEAD, bf16=False, group=group, **options)

    learner, curve = begun(), []
    for step in range(STEPS):
        curve.append(learner.step(rows(step), 1e-2, rows(step).tanh() if spec.skip else None))
        if step == 5:
            state = {name: tensor.clone() for name, tensor in learner.state().items()}
            learner = begun()
            learner.load_state(state)
        if step == 9:
            learner.revive(torch.tensor([3, 40]), rows(99, 2))
    figures = {figure: torch.stack([torch.as_tensor(row[figure]) for row in curve]) for figure in curve[0]}
    latents = learner.sae.encode(rows(7))
    return figures | {n: t.clone() for n, t in learner.state().items()} | {"given": learner.sae.decode(latents, rows(7))}


def work(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
    found = {(name, shard): learnt(name, shard) for name in CASES for shard in SHARDS}
    torch.save(found, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> list[dict]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    out = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(work, (port, str(out)), nprocs=2)
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("shard", SHARDS)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(name, shard, of_two):
    alone = learnt(name, None)
    for found in of_two:
        for what, tensor in alone.items():
            # all that differs is the order of sums, in float64
            torch.testing.assert_close(found[name, shard][what], tensor, rtol=1e-7, atol=1e-9, msg=lambda m, w=what: f"{w}: {m}")
    assert alone["aux_loss"].any() or name != "topk", "the test must see dead latents"


@pytest.mark.parametrize("name, shard", [("topk", "batch"), ("batchtopk", "latents")])
def test_both_processes_hold_the_same_bits(name, shard, of_two):
    one, other = (found[name, shard] for found in of_two)
    assert all(torch.equal(one[what], other[what]) for what in one)


def test_latents_that_are_not_equal_parts_are_refused():
    class Three:
        rows = all = type("Peers", (), {"rank": 0, "size": 1})
        latents = type("Peers", (), {"rank": 0, "size": 3})

    with pytest.raises(SpecError, match="runtime.processes = 3, but 64 latents are not that many equal parts; use another number"):
        SparseLearner(TopK(**SMALL).build(D), group=Three())
