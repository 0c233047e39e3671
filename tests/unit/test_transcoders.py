"""Transcoders and crosscoders on a model whose MLP is known: what they find is what was planted, and what replaces what is right.

The model is a real GPT-2 with silent attention. A token is a sum of two of ``N`` orthonormal directions; block 0's MLP reads those
and writes others, one for each; block 1 leaves the residual stream as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F

from artifacts.errors import ArtifactError
from artifacts.store import Store
from flows.config import load
from flows.recipes import Wanted, recipes
from tasks.kinds import decode
from tasks.lm.hooks import Edit
from tasks.lm.language_model import LanguageModel
from tasks.lm.lens import to_stream
from tasks.lm.splicing import Splice
from tasks.norms.base import FittedNorm
from tasks.spec import Runtime, SpecError
from tasks.steering.firing import fired
from tasks.steering.push import Push, Row, Steering
from tasks.steering.subject import Subject
from tasks.trained import TrainedSAE
from tests.making import make

CPU = Runtime(mode="inline", device="cpu")
D, N, N_WORDS = 32, 10, 150
TRANSCODER, CROSSCODER = "layers.0.mlp_in:layers.0.mlp", "embed+layers.0"


def directions() -> tuple[torch.Tensor, torch.Tensor]:
    """What the MLP reads and what it writes: 2 N orthonormal rows of mean 0, so that a layer norm only scales them."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.cat([torch.ones(D, 1), torch.randn(D, 2 * N, generator=draw)], 1)
    found = torch.linalg.qr(rows).Q.T[1:]
    return found[:N], found[N:]


def write_world(folder: Path) -> list[str]:
    """The model and texts of random words; returns the overrides that mean them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<s>", *(f"w{i}" for i in range(N_WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>").save_pretrained(folder / "model")
    config = GPT2Config(
        vocab_size=len(words), n_embd=D, n_layer=2, n_head=2, n_inner=2 * N, n_positions=32, activation_function="relu",
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).requires_grad_(False)
    draw, (reads, writes) = Random(0), directions()
    model.transformer.wpe.weight.zero_()
    for block in model.transformer.h:
        for part in (block.attn.c_proj, block.mlp.c_proj, block.mlp.c_fc):
            part.weight.zero_(), part.bias.zero_()
    mlp = model.transformer.h[0].mlp
    mlp.c_fc.weight[:, :N] = reads.T
    mlp.c_fc.bias[:N] = -0.5
    mlp.c_proj.weight[:N] = writes
    for word in range(1, len(words)):
        # one to three: were there always two, part of every row could as well be in the bias
        model.transformer.wte.weight[word] = sum(draw.uniform(0.6, 1.4) * reads[i] for i in draw.sample(range(N), draw.randint(1, 3)))
    model.save_pretrained(folder / "model")
    texts = [" ".join(draw.choice(words[1:]) for _ in range(20)) for _ in range(600)]
    pq.write_table(pa.table({"text": texts, "doc": [i // 3 for i in range(len(texts))]}), folder / "corpus.parquet")
    return [
        "corpus=parquet", f"corpus.path={folder / 'corpus.parquet'}", "corpus.document_column=doc", "lm=hf",
        f"lm.path={folder / 'model'}", "capture.n_shards=2", "capture.context_tokens=24", "capture.store_dtype=float32",
        "sae.expansion_factor=null", f"sae.n_latents={N}", "sae.k=3", "train.n_tokens=120000", "train.batch_tokens=256", "train.lr=0.005",
        "evaluate.ce_contexts=40", "mine.n_pool=64", f"backend.root={folder / 'store'}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    typed = write_world(folder)

    def wanted(preset: str, hookpoint: str, *more: str) -> Wanted:
        return recipes(load([*typed, f"sae={preset}", f"capture.hookpoints=[{hookpoint}]", *more]))

    store = Store.at(folder / "store")
    named = wanted("transcoder", TRANSCODER).named[TRANSCODER]
    crossed = wanted("crosscoder", CROSSCODER, "sae.rescale_by_row_norm=false").named[CROSSCODER]
    lm = LanguageModel.open(make(named["lm"], store, CPU), CPU)
    sae, cross = (TrainedSAE.open(make(one["train"], store, CPU)) for one in (named, crossed))
    return SimpleNamespace(store=store, named=named, crossed=crossed, lm=lm, sae=sae, cross=cross)


def metrics(world, of) -> dict:
    return {n: e["value"] for n, e in json.loads((make(of["evaluate"], world.store, CPU).path / "metrics.json").read_text()).items()}


def matched(rows: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosine of each true direction with the row nearest to it, and which that is."""
    return (F.normalize(truth, dim=-1) @ F.normalize(rows, dim=-1).T).max(1)


def words(n: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens of some contexts, their mask, and which of them are replaced."""
    token = torch.randint(1, N_WORDS, (3, n), generator=torch.Generator().manual_seed(0))
    token[:, 0] = 0
    mask = torch.ones_like(token, dtype=torch.bool)
    mask[2, n - 3 :] = False
    return token, mask, mask & (token != 0)


# what is found


def test_a_transcoder_of_an_mlp_finds_what_its_units_write_and_when(world):
    cosine, latent = matched(world.sae.W_dec_ND, directions()[1])
    assert cosine.min() > 0.9 and cosine.mean() > 0.95 and len(set(latent.tolist())) == N
    token = torch.arange(1, N_WORDS + 1)[:, None]
    seen = world.lm.activations(token, torch.ones_like(token, dtype=torch.bool), ["layers.0.mlp_in", "layers.0.mlp_act"])
    found = world.sae.encode(seen["layers.0.mlp_in"][:, 0])
    value_BN = torch.zeros(N_WORDS, world.sae.n_latents).scatter(1, found.index_BK, found.value_BK)
    units = seen["layers.0.mlp_act"][:, 0, :N]
    alike = [float(torch.corrcoef(torch.stack([value_BN[:, latent[unit]], units[:, unit]]))[0, 1]) for unit in range(N)]
    assert min(alike) > 0.95


def test_its_figures_are_of_what_it_writes(world):
    found = metrics(world, world.named)
    assert found["fvu"] < 0.01 and found["ce_loss_recovered"] > 0.98 and found["kl_sae"] < 0.01
    assert found["ce_zero"] - found["ce_clean"] > 1  # the MLP matters to this model
    summary = world.store.open(world.named["train"].artifact).summary
    assert summary["hookpoint"] == TRANSCODER and (summary["d_in"], summary["d_out"]) == (D, D) and summary["fvu"] < 0.01


def test_a_crosscoder_has_each_direction_where_it_stands(world):
    reads, writes = directions()
    parts = world.cross.written(world.cross.W_dec_ND)
    cosine, latent = matched(parts["embed"], reads)
    assert cosine.median() > 0.95
    plane = torch.stack([reads, writes], 1)  # after the MLP a direction stands beside what it made the MLP write
    after = F.normalize(parts["layers.0"], dim=-1)[latent]
    inside = (plane @ after[:, :, None]).norm(dim=1)[:, 0]
    assert inside[cosine > 0.95].min() > 0.9 and (plane[:, 1] * after).sum(1)[cosine > 0.95].min() > 0.3
    found = metrics(world, world.crossed)
    assert found["fvu at embed"] < 0.05 and found["fvu at layers.0"] < 0.05 and found["fvu"] < 0.05


# what replaces what


def test_a_transcoder_gives_the_mlp_s_output_from_its_input_in_one_pass_or_two(world):
    token, mask, keep = words()
    splice = Splice(world.sae, keep)
    clean = world.lm.logits(token, mask, *splice.looks)
    two = world.lm.logits(token, mask, *splice.puts)
    one = Splice(world.sae, keep)
    assert torch.equal(two, world.lm.logits(token, mask, *one.looks, *one.puts))
    x = world.lm.activations(token, mask, ["layers.0.mlp_in"])["layers.0.mlp_in"]

    def by_hand(y_BTD):
        y = y_BTD.clone()
        y[keep] = world.sae.reconstruct(x[keep])
        return y

    assert torch.equal(two, world.lm.logits(token, mask, Edit("layers.0.mlp", by_hand)))
    assert torch.equal(clean, world.lm.logits(token, mask)) and (clean - two).abs().max() > 1e-4


def test_a_crosscoder_replaces_all_of_its_sites_at_once_from_a_clean_pass(world):
    token, mask, keep = words()
    splice = Splice(world.cross, keep)
    world.lm.logits(token, mask, *splice.looks)
    found = world.lm.logits(token, mask, *splice.puts)
    x = world.lm.activations(token, mask, ["layers.0", "embed"])
    rows = world.cross.reconstruct(torch.cat([x["embed"], x["layers.0"]], -1)[keep])
    seen = {}

    def put(rows, name):
        def change(y_BTD):
            seen[name] = y_BTD.clone()
            seen[name][keep] = rows
            return seen[name]

        return change

    by_hand = world.lm.logits(token, mask, Edit("embed", put(rows[:, :D], "embed")), Edit("layers.0", put(rows[:, D:], "layers.0")))
    assert torch.equal(found, by_hand) and set(seen) == {"embed", "layers.0"}


def test_a_latent_is_pushed_where_it_is_written(world):
    (prompt,) = Subject(world.lm, world.sae).prompts(["w3 w4 w5"])
    row = Row(prompt, (Push(2, 3.0),))
    (edit,) = Steering(world.sae, [row]).at(0)
    x = torch.randn(1, len(prompt.token_id), D)
    by_hand = 3 * world.sae.W_dec_ND[2] * world.sae.norm_at("layers.0.mlp").state["scale"]
    assert edit.hookpoint == "layers.0.mlp"
    torch.testing.assert_close((edit.change(x) - x)[0, -1], by_hand, atol=1e-5, rtol=1e-4)
    (edit,) = Steering(world.cross, [row]).at(0)  # the stream carries on what is added to it, so once is enough
    by_hand = 3 * world.cross.W_dec_ND[2, D:] * world.cross.norm_at("layers.0").state["scale"]
    assert edit.hookpoint == "layers.0"
    torch.testing.assert_close((edit.change(x) - x)[0, -1], by_hand, atol=1e-5, rtol=1e-4)


def test_where_a_latent_fires_in_a_text_is_told_by_what_is_read(world):
    subject = Subject(world.lm, world.cross)
    (found,) = fired(subject, ["w3 w4 w5 w3"], range(world.cross.n_latents))
    seen = world.lm.activations(*(x[:, :5] for x in (torch.tensor([[0, 4, 5, 6, 4]]), torch.ones(1, 5, dtype=torch.bool))), ["embed", "layers.0"])
    latents = world.cross.encode(world.cross.read(seen)[0, -len(found.token_id) :])
    by_hand = torch.zeros(len(found.token_id), world.cross.n_latents).scatter(1, latents.index_BK, latents.value_BK)
    torch.testing.assert_close(torch.from_numpy(found.value_TL), by_hand, atol=1e-4, rtol=1e-3)
    assert found.value_TL.any()


# files


@pytest.mark.parametrize("which", ["sae", "cross"])
def test_it_is_the_same_after_saving_with_a_norm_for_each_site(world, which, tmp_path):
    before = getattr(world, which)
    before.save(tmp_path)
    after = TrainedSAE.open(SimpleNamespace(path=tmp_path))
    x = torch.randn(9, before.d_in)
    assert torch.equal(before.reconstruct(x), after.reconstruct(x)) and torch.equal(before.encode(x).index_BK, after.encode(x).index_BK)
    assert (after.hookpoint, after.sites, after.widths) == (before.hookpoint, before.sites, before.widths)
    scales = [after.norm_at(h).state["scale"] for h in after.sites.hookpoints]
    assert scales[0] != scales[1]


def test_captures_of_other_tokens_do_not_stand_side_by_side(world):
    from tasks.train import train

    shards = list(world.named["train"].inputs["shards"])
    assert [s.spec.hookpoint for s in shards] == [h for _ in range(2) for h in ("layers.0.mlp_in", "layers.0.mlp")]
    shards[1], shards[3] = shards[3], shards[1]
    mixed = train(world.named["train"].spec, **{**world.named["train"].inputs, "shards": shards})
    with pytest.raises(ArtifactError, match=r"capture/.* and capture/.* stand side by side, but (token_id|position|they have)"):
        make(mixed, world.store, CPU)


def test_a_site_without_captures_is_told(world):
    from tasks.train import train

    inputs = {n: world.named["train"].inputs[n] for n in ("validation", "norm")}
    few = train(world.named["train"].spec, shards=world.named["train"].inputs["shards"][:1], **inputs)
    with pytest.raises(SpecError, match="shards = 1 at layers.0.mlp_in, 0 at layers.0.mlp, but"):
        make(few, world.store, CPU)


# directions of the residual stream


def built(hookpoint: str, d_in: int, d_out: int) -> TrainedSAE:
    spec = decode("tasks.saes", {"kind": "topk", "k": 2, "n_latents": 8, "subtract_b_dec": False}, "sae")
    return TrainedSAE(spec.build(d_in, 0, d_out), FittedNorm(decode("tasks.norms", {"kind": "none"}, "norm"), {}), hookpoint)


def test_decoder_rows_go_to_the_residual_stream_by_the_projection_that_reads_them(world):
    sae = built("layers.0.mlp_act", 2 * N, 2 * N)
    one = torch.eye(2 * N)[:N]
    torch.testing.assert_close(to_stream(world.lm, sae)(one), directions()[1])
    rows = torch.randn(5, D)
    assert torch.equal(to_stream(world.lm, world.sae)(rows), rows)
    last = torch.randn(5, 2 * D)
    assert torch.equal(to_stream(world.lm, world.cross)(last), last[:, D:])
    both = built("layers.0.mlp_in:layers.0.mlp+layers.1.mlp", D, 2 * D)
    torch.testing.assert_close(to_stream(world.lm, both)(last), last[:, :D] + last[:, D:])
    with pytest.raises(SpecError, match="layers.1.mlp_in is what an MLP reads, but no one matrix takes it"):
        to_stream(world.lm, built("layers.1.mlp_in", D, D))


def test_an_sae_that_does_not_fit_its_sites_is_refused():
    with pytest.raises(SpecError, match=r"sae.hookpoint = 'layers.0', where rows of 8 numbers are read and of 8 written, but .* writes 6"):
        built("layers.0", 8, 6)
