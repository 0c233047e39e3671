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
    for kind, names in ((Gated, {"encoder_scale", "freeze_decoder"}), (JumpReLU, {"encoder_scale"})):
        assert not names & kind().payload().keys()
    assert Gated(freeze_decoder=False, encoder_scale=0.1).payload().items() >= {("freeze_decoder", False), ("encoder_scale", 0.1)}


def test_the_gates_own_reconstruction_moves_the_decoder_only_where_it_is_asked_to():
    x = torch.randn(64, D, generator=torch.Generator().manual_seed(0))
    moved = {}
    for freeze in (True, False):
        sae = Gated(n_latents=32, expansion_factor=None, freeze_decoder=freeze).build(D, seed=1)
        sae.b_mag_N += 0.5  # so that the two reconstructions differ
        sae.W_dec_ND.requires_grad_(True)
        sae.W_enc_ND.requires_grad_(True)
        found = sae.loss(x, torch.zeros(32, dtype=torch.bool))
        for name in ("fvu", "aux_loss"):
            grads = torch.autograd.grad(found[name], (sae.W_dec_ND, sae.W_enc_ND), retain_graph=True, allow_unused=True)
            moved[freeze, name] = [g is not None and bool(g.any()) for g in grads]
    assert moved == {
        (True, "fvu"): [True, True], (True, "aux_loss"): [False, True], (False, "fvu"): [True, True], (False, "aux_loss"): [True, True],
    }  # fmt: skip
