"""How kinds with a gate or a threshold of each latent begin, and what their losses move."""

from __future__ import annotations

import pytest
import torch

from tasks.saes.gated import Gated
from tasks.saes.jumprelu import JumpReLU

D = 16


@pytest.mark.parametrize("kind", [Gated, JumpReLU])
@pytest.mark.parametrize(("n_latents", "scale", "length"), [(20, 1.0, 1.0), (20, 0.1, 0.1), (128, 1.0, 0.25), (128, 0.1, 0.1)])
def test_encoder_rows_begin_no_longer_than_asked_for_and_shorter_where_there_are_many(kind, n_latents, scale, length):
    sae = kind(n_latents=n_latents, expansion_factor=None, encoder_scale=scale).build(D, seed=1)
    torch.testing.assert_close(sae.W_enc_ND, length * sae.W_dec_ND)
    torch.testing.assert_close(sae.W_dec_ND.norm(dim=-1), torch.ones(n_latents))


def test_keys_of_before_these_fields_were_there_stay():
    for kind, names in ((Gated, {"encoder_scale", "freeze_decoder_at"}), (JumpReLU, {"encoder_scale"})):
        assert not names & kind().payload().keys()
    assert Gated(freeze_decoder_at=None, encoder_scale=0.1).payload().items() >= {("freeze_decoder_at", None), ("encoder_scale", 0.1)}


def grads_of(at: float | None, **now: float) -> dict[str, list[torch.Tensor | None]]:
    """Gradients of a gated SAE's decoder and encoder, by loss term."""
    x = torch.randn(64, D, generator=torch.Generator().manual_seed(0))
    sae = Gated(n_latents=32, expansion_factor=None, freeze_decoder_at=at).build(D, seed=1)
    sae.b_mag_N += 0.5  # so that the two reconstructions differ
    both = [W.requires_grad_(True) for W in (sae.W_dec_ND, sae.W_enc_ND)]
    found = sae.loss(x, torch.zeros(32, dtype=torch.bool), **now)
    return {
        name: torch.autograd.grad(found[name], both, retain_graph=True, allow_unused=True) for name in ("fvu", "aux_loss")
    }  # fmt: skip


def test_the_gates_own_reconstruction_moves_the_decoder_less_and_less_as_training_goes_on():
    free = grads_of(None)
    for at, done, share in ((None, 1.0, 1.0), (0.5, 0.0, 1.0), (0.5, 0.25, 0.5), (0.5, 0.5, None), (0.5, 1.0, None), (0.0, 0.0, None)):
        found = grads_of(at, done=done)
        torch.testing.assert_close(found["fvu"], free["fvu"], rtol=0, atol=0)
        decoder, encoder = found["aux_loss"]
        torch.testing.assert_close(encoder, free["aux_loss"][1], rtol=0, atol=0)
        if share is None:
            assert decoder is None
        else:
            torch.testing.assert_close(decoder, share * free["aux_loss"][0])
    assert grads_of(0.5)["aux_loss"][0] is None  # the loss as it is at the end
