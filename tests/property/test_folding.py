"""Folding changes no latent and no reconstruction, whatever the norm, the kind and the numbers."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.formats._folding import Affine, prefixes, raw, rescaled
from tasks.formats.base import Portable
from tasks.kinds import decode
from tasks.norms.base import FittedNorm
from tasks.norms.mean import Mean
from tasks.norms.none import NoNorm
from tasks.norms.rms import RMS

KINDS = ("standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka")


@st.composite
def portables(draw):
    """An SAE of any kind and width, with any weights and any norm that is the same for all tokens."""
    kind, d, n = draw(st.sampled_from(KINDS)), draw(st.integers(2, 12)), draw(st.integers(4, 30))
    subtract, skip, seed = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**31))
    k = {"k": draw(st.integers(1, 4))} if kind in ("topk", "batchtopk", "matryoshka") else {}
    spec = {"kind": kind, "n_latents": n, "expansion_factor": None, "subtract_b_dec": subtract, "skip": skip, **k}
    sae = decode("tasks.saes", spec, "sae").build(d, seed=1)
    random = torch.Generator().manual_seed(seed)
    for name, tensor in sae.weights().items():
        tensor.copy_(torch.randn(tensor.shape, generator=random))
        if name.startswith("threshold"):
            tensor.abs_()
    mean, scale = torch.randn(d, generator=random) * draw(st.sampled_from([0.0, 1.0, 30.0])), draw(st.floats(0.05, 50))
    norm = draw(st.sampled_from([
        FittedNorm(NoNorm(), {}), FittedNorm(Mean(), {"mean": mean}), FittedNorm(RMS(), {"mean": mean, "scale": torch.tensor(scale)}),
    ]))  # fmt: skip
    return Portable(sae, norm, "layers.0"), torch.randn(7, d, generator=random) * scale + mean


def both(it: Portable, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, dense, and reconstructions, in float64: what float32 rounds away is not what folding does."""
    double = {name: tensor.double() for name, tensor in it.sae.weights().items()}
    sae = it.sae.spec.holding(double)
    state = {name: value.double() for name, value in it.norm.state.items()}
    y, undo = it.norm.norm.apply(state, x.double())
    latents = sae.encode(y)
    f = torch.zeros(len(x), sae.n_latents, dtype=torch.float64).scatter_add(1, latents.index_BK, latents.value_BK)
    return f, it.norm.norm.invert(state, sae.decode(latents, y), undo)


@settings(max_examples=60, deadline=None)
@given(portables(), st.booleans())
def test_an_sae_without_its_norm_gives_the_same_latents_and_reconstructions(given_, subtract):
    it, x = given_
    folded = raw(it, subtract)
    assert isinstance(folded.norm.norm, NoNorm) and folded.sae.spec.subtract_b_dec == subtract
    (f, x_hat), (want_f, want_x) = both(folded, x), both(it, x)
    size_f, size_x = max(1.0, want_f.abs().max().item()), max(1.0, want_x.abs().max().item())
    # A pre-activation that lies on the threshold may fall to either side by rounding; no more than one in a hundred does.
    apart = (f - want_f).abs() > 1e-4 * size_f
    assert apart.float().mean() <= 0.01
    if not apart.any():
        assert (x_hat - want_x).abs().max() <= 1e-4 * size_x


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(2, 20), st.integers(0, 2**31), st.booleans())
def test_an_affine_map_of_the_input_is_folded_exactly_and_undone_by_its_inverse(d, n, seed, subtract):
    random = torch.Generator().manual_seed(seed)
    there = torch.linalg.qr(torch.randn(d, d, generator=random, dtype=torch.float64))[0] * (1 + torch.rand(d, generator=random))
    shift = torch.randn(d, generator=random, dtype=torch.float64)
    back = torch.linalg.inv(there)
    map_, undo = Affine(there, shift, back, -(back @ shift)), Affine(back, -(back @ shift), there, shift)
    shapes = {"W_enc_ND": (n, d), "b_enc_N": (n,), "W_dec_ND": (n, d), "b_dec_D": (d,)}
    tensors = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    again = undo.folded(map_.folded(tensors, subtract), subtract)
    for name, tensor in tensors.items():
        torch.testing.assert_close(again[name], tensor, atol=2e-4, rtol=2e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**31), st.booleans())
def test_rows_are_brought_to_length_1_and_what_is_decoded_stays(d, n, seed, with_zeros):
    random = torch.Generator().manual_seed(seed)
    tensors = {"W_enc_ND": torch.randn(n, d, generator=random), "b_enc_N": torch.randn(n, generator=random)}
    tensors["W_dec_ND"] = torch.randn(n, d, generator=random)
    if with_zeros:
        tensors["W_dec_ND"][0] = 0
    x = torch.randn(5, d, generator=random)

    def decoded() -> torch.Tensor:
        return (x @ tensors["W_enc_ND"].T + tensors["b_enc_N"]).relu() @ tensors["W_dec_ND"]

    before = decoded()
    rescaled(tensors)
    torch.testing.assert_close(decoded(), before, atol=1e-4, rtol=1e-4)
    length = tensors["W_dec_ND"].norm(dim=-1)
    assert ((length - 1).abs() < 1e-5).logical_or(length == 0).all()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_groups_of_latents_come_back_as_widths_of_prefixes(sizes):
    n = sum(sizes)
    spec = decode("tasks.saes", {"kind": "matryoshka", "prefixes": prefixes(sizes, n)}, "sae")
    assert spec.widths(n) == [sum(sizes[: i + 1]) for i in range(len(sizes))]
