"""Sites and hookpoints: how places are spelled, in which order they stand, and where a push acts."""

from __future__ import annotations

import json

import pytest

from tasks.lm.hookpoints import Hookpoint
from tasks.lm.sites import Sites, grouped
from tasks.lms.base import Facts
from tasks.lms.hf import facts_of
from tasks.spec import SpecError

FACTS = Facts("a model", 4, 32, d_mlp=96, d_heads=48)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("layers.8", "layers.8"),
        ("embed", "embed"),
        ("layers.3.resid_pre", "layers.2"),
        ("layers.0.resid_pre", "embed"),
        ("layers.8.mlp_in:layers.8.mlp", "layers.8.mlp_in:layers.8.mlp"),
        ("layers.7+layers.8", "layers.7+layers.8"),
        ("layers.7 + layers.8", "layers.7+layers.8"),
        ("layers.2:layers.3.resid_pre", "layers.2"),
        ("embed+layers.1.resid_pre:layers.1.z", "embed+layers.0:layers.1.z"),
    ],
)
def test_every_spelling_has_one_canonical_form_which_reads_back(typed, said):
    assert str(Sites.parse(typed)) == said and Sites.parse(said) == Sites.parse(typed)


@pytest.mark.parametrize("text", ["layers.1.resid", "layers.1.", "layers.\u0661", "embed.mlp", "layers.1.z.z", "layers.1.mlp ", ""])
def test_what_is_no_place_is_told_with_all_there_are(text):
    with pytest.raises(SpecError, match=r"layers.N.<one of z, attn, resid_mid, mlp_in, mlp_act, mlp> or embed"):
        Hookpoint.parse(text)


def test_places_stand_as_a_pass_comes_by_them():
    wanted = ["embed", "layers.0.z", "layers.0.attn", "layers.0.resid_mid", "layers.0.mlp_in", "layers.0.mlp_act", "layers.0.mlp", "layers.0", "layers.1.z"]
    assert sorted(reversed(wanted), key=lambda h: Hookpoint.parse(h).place) == wanted


def test_a_row_has_each_hookpoint_once_what_is_read_first():
    sites = Sites.parse("layers.1+layers.2:layers.3+layers.2")
    assert sites.hookpoints == ("layers.1", "layers.2", "layers.3") and not sites.gives_back
    assert Sites.parse("layers.1").one and not Sites.parse("layers.1+layers.2").one
    assert Sites.parse("layers.1+layers.2").gives_back


def test_a_push_acts_at_all_that_is_written_but_in_the_stream_once():
    def pushed(text):
        return Sites.parse(text).pushed

    assert pushed("layers.1") == ("layers.1",) and pushed("layers.1.mlp_in:layers.1.mlp") == ("layers.1.mlp",)
    assert pushed("layers.2+layers.1") == ("layers.2",) and pushed("embed+layers.1.resid_mid+layers.0") == ("layers.1.resid_mid",)
    assert pushed("layers.0.mlp_in:layers.0.mlp+layers.1.mlp") == ("layers.0.mlp", "layers.1.mlp")
    assert pushed("layers.0.mlp+layers.0+layers.1") == ("layers.0.mlp", "layers.1")


def test_widths_are_those_of_the_places_and_unknown_where_the_model_does_not_tell():
    assert Sites.parse("layers.0.z:layers.0.attn").widths(FACTS) == (48, 32)
    assert Sites.parse("layers.0.mlp_act+layers.1").widths(FACTS) == (128, 128)
    assert Sites.parse("layers.0:layers.0.mlp_act").widths(FACTS._replace(d_mlp=None)) == (32, None)


@pytest.mark.parametrize(
    ("config", "d_mlp", "d_heads"),
    [
        ({"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 20, "num_attention_heads": 2}, 20, 8),
        ({"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 20, "num_attention_heads": 2, "head_dim": 16}, 20, 32),
        ({"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "n_inner": None}, 32, 8),
        ({"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "n_inner": 12}, 12, 8),
        ({"n_layer": 2, "n_embd": 8}, None, None),
    ],
)
def test_widths_within_a_block_are_read_from_the_model_s_configuration(config, d_mlp, d_heads):
    found = facts_of(json.loads(json.dumps(config)), "a model")
    assert (found.d_mlp, found.d_heads) == (d_mlp, d_heads)


def test_captures_are_put_together_shard_by_shard_whatever_their_order():
    shards = [("layers.1", 0), ("layers.2", 0), ("layers.2", 1), ("layers.1", 1), ("layers.9", 0)]
    found = grouped(shards, ["layers.2", "layers.1"], lambda one: one[0])
    assert found == [(("layers.2", 0), ("layers.1", 0)), (("layers.2", 1), ("layers.1", 1))]
    with pytest.raises(SpecError, match="shards = 2 at layers.2, 1 at layers.9, but"):
        grouped(shards, ["layers.2", "layers.9"], lambda one: one[0])
