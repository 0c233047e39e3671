"""Every format keeps these promises: what it reads acts as the tool that wrote it, and what it writes is read back the same."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from tasks.formats.base import Files, Portable, formats, opened, recognised, writers
from tasks.kinds import decode, kinds, spec_class
from tasks.norms.base import FittedNorm, Statistics
from tasks.norms.mean import Mean
from tasks.norms.none import NoNorm
from tasks.norms.rms import RMS
from tasks.norms.whiten import Whiten
from tasks.spec import SpecError
from tests.foreign import Case, D, K, every_case, inputs

_KEPT = TemporaryDirectory(prefix="saint-foreign-")


@cache
def cases() -> dict[str, Case]:
    return every_case(Path(_KEPT.name))


def dense(it: Portable, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents and reconstructions of raw activations, as ours gives them."""
    raw = torch.from_numpy(np.asarray(x, np.float32))
    latents = it.trained.encode(raw)
    f = torch.zeros(len(raw), it.sae.n_latents).scatter_add(1, latents.index_BK, latents.value_BK)
    return f.numpy(), it.trained.reconstruct(raw).numpy()


def close(got: np.ndarray, want: np.ndarray) -> None:
    """To 1e-5 of the largest number: what float32 leaves of sums of tens."""
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(want).max())))


@pytest.mark.parametrize("name", sorted(cases()))
def test_what_is_read_gives_the_latents_and_reconstructions_of_the_tool_that_wrote_it(name):
    case = cases()[name]
    it = opened(case.path, **case.options)
    f, x_hat = dense(it, inputs())
    want_f, want_x = case.answer(inputs())
    assert (want_f > 0).sum() > 50, "the case itself is too quiet to test anything"
    close(f, want_f)
    close(x_hat, want_x)
    assert (it.sae.spec.kind, it.sae.d_in, it.sae.d_out, it.hookpoint) == (case.kind, D, case.d_out, case.hookpoint)


@pytest.mark.parametrize("name", sorted(cases()))
def test_a_file_is_recognised_as_of_one_format(name):
    case = cases()[name]
    files = Files(case.path, allow_pickle=True)
    assert [n for n, found in formats().items() if found.matches(files)] == [case.format]
    assert recognised(files).hookpoint(files) == case.hookpoint
    assert recognised(files).sizes(files) == (40, D)


def of_kind(kind: str, norm: FittedNorm | None = None, **fields) -> Portable:
    """An SAE of ours with all weights stirred."""
    more = {"k": K} if "k" in spec_class("tasks.saes", kind).model_fields else {}
    sae = decode("tasks.saes", {"kind": kind, "n_latents": 40, "expansion_factor": None, **more, **fields}, "sae").build(D, seed=1)
    draw = torch.Generator().manual_seed(5)
    for name, tensor in sae.weights().items():
        tensor.add_(torch.randn(tensor.shape, generator=draw) * 0.2)
        if name.startswith("threshold"):
            tensor.abs_()
    return Portable(sae, norm or FittedNorm(NoNorm(), {}), "layers.4", {"model": "gpt2"})


def whitened() -> FittedNorm:
    rows = torch.from_numpy(inputs(400)) @ torch.randn(D, D, generator=torch.Generator().manual_seed(2))
    norm = Whiten()
    return FittedNorm(norm, norm.fit(Statistics.of(rows), [rows]))


NORMS = {
    "none": lambda: FittedNorm(NoNorm(), {}),
    "mean": lambda: FittedNorm(Mean(), {"mean": torch.linspace(-2, 3, D)}),
    "rms": lambda: FittedNorm(RMS(), {"mean": torch.linspace(-2, 3, D), "scale": torch.tensor(2.5)}),
    "whiten": whitened,
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("format", "kind"), [(f, k) for f in writers() for k in formats()[f].WRITES])
def test_what_is_written_is_read_back_with_the_same_latents_and_reconstructions(format, kind, norm, tmp_path):
    for subtract in (True, False):
        it = of_kind(kind, NORMS[norm](), subtract_b_dec=subtract)
        folder = tmp_path / str(subtract) / "layers.4"
        formats()[format].write(it, folder)
        back = opened(folder, allow_pickle=True)
        for got, want in zip(dense(back, inputs()), dense(it, inputs()), strict=True):
            close(got, want)
        assert back.hookpoint == ("layers.4" if subtract or format != "sparsify" else "layers.3:layers.4")


def test_every_kind_of_ours_can_be_written_somewhere():
    assert {kind for name in writers() for kind in formats()[name].WRITES} == set(kinds("tasks.saes"))


@pytest.mark.parametrize("format", writers())
def test_a_kind_that_a_format_cannot_hold_is_refused_and_nothing_is_written(format, tmp_path):
    for kind in set(kinds("tasks.saes")) - set(formats()[format].WRITES):
        with pytest.raises(SpecError, match="but"):
            formats()[format].write(of_kind(kind), tmp_path / kind)
        assert not (tmp_path / kind).exists()


def test_a_transcoder_with_a_skip_connection_comes_back_whole(tmp_path):
    for kind, format in (("standard", "saelens"), ("jumprelu", "saelens"), ("topk", "sparsify")):
        it = of_kind(kind, subtract_b_dec=False, skip=True)
        it.sae.W_skip_OD.copy_(torch.randn(D, D, generator=torch.Generator().manual_seed(3)))
        it.hookpoint = "layers.2.mlp_in:layers.2.mlp"
        folder = tmp_path / kind / "layers.2.mlp"
        formats()[format].write(it, folder)
        back = opened(folder)
        assert back.hookpoint == it.hookpoint and back.sae.spec.skip
        for got, want in zip(dense(back, inputs()), dense(it, inputs()), strict=True):
            close(got, want)


def test_every_format_says_what_it_is_recognised_by():
    assert all(found.SAYS and found.WEIGHTS for found in formats().values())
