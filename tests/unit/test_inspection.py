"""What an SAE makes of a prompt, against the plain dense computation on a planted model and on a random one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tasks.inspection.known import Known
from tasks.inspection.looking import inspect, latents_of, ordered
from tasks.inspection.plain import plain
from tasks.lm.language_model import LanguageModel
from tasks.lm.lens import Lens, to_stream
from tasks.norms.base import FittedNorm
from tasks.norms.none import NoNorm
from tasks.saes.base import Latents
from tasks.saes.topk import TopK
from tasks.spec import SpecError
from tasks.steering.subject import Subject
from tasks.trained import TrainedSAE
from tests.planted import WORDS
from tests.small import write_model
from tests.subjects import world

PROMPTS = ["the cat over the river", "I think that the storm was by the glass and the song"]
HOSTILE = '</script><img src=x onerror="1">\x1b[31m \u202e\u2066\x00\U000e0041 {{7*7}}'


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> LanguageModel:
    """A Llama whose every part does something."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_model(tmp_path_factory.mktemp("inspection") / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    for weight in model.parameters():  # as drawn they are so small that nothing follows of anything
        if weight.dim() == 2:
            weight.mul_(6)
    return LanguageModel(model, AutoTokenizer.from_pretrained(folder), "cpu", 3, "small")


def random_sae(lm: LanguageModel, hookpoint: str, d_in: int, d_out: int | None = None, k: int = 5) -> Subject:
    spec = TopK(k=k, n_latents=96, expansion_factor=None, subtract_b_dec=d_out in (None, d_in))
    sae = spec.build(d_in, 3, d_out)
    sae.b_enc_N = 0.1 * torch.randn(96, generator=torch.Generator().manual_seed(5))
    return Subject(lm, TrainedSAE(sae, FittedNorm(NoNorm(), {}), hookpoint))


def dense(subject: Subject, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """value_TN by the definition of TopK, and the reconstruction."""
    sae = subject.sae.sae
    normed, undo = subject.sae.norm.apply(x_TD)
    pre = sae.inner(normed) @ sae.W_enc_ND.T + sae.b_enc_N
    value = torch.zeros_like(pre).scatter(1, pre.topk(sae.spec.k, dim=1).indices, pre.topk(sae.spec.k, dim=1).values).relu()
    return value, subject.sae.norm.invert(value @ sae.W_dec_ND + sae.b_dec_D, undo)


def by_hand(subject: Subject, text: str, put: dict[object, torch.Tensor]) -> torch.Tensor:
    """log_p_TV of the bare model, what some modules give replaced after BOS by plain hooks of torch."""
    token = torch.tensor([subject.lm.tokenizer(text, add_special_tokens=False).input_ids])
    token = torch.cat([torch.tensor([[subject.lm.bos_token_id]]), token], 1)

    def hook(rows):
        return lambda _module, _inputs, output: torch.cat([output[:, :1], rows[None]], 1)

    handles = [module.register_forward_hook(hook(rows)) for module, rows in put.items()]
    try:
        return subject.lm.model(token).logits[0].log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


def dense_table(seen, n: int) -> torch.Tensor:
    found = torch.zeros(len(seen.keep), n)
    for t, k in zip(*np.nonzero(seen.value_TK > 0), strict=True):
        found[t, seen.index_TK[t, k]] = float(seen.value_TK[t, k])
    return found


@pytest.mark.parametrize("norm", ["none", "rms", "token"])
def test_latents_errors_and_figures_are_those_of_the_dense_definition(norm):
    subject = world(norm)
    for text, seen in zip(PROMPTS, inspect(subject, PROMPTS).prompts, strict=True):
        assert "".join(seen.tokens[1:]).strip() == text and seen.tokens[0] == "<s>"
        x = subject.lm.model.model.embed_tokens(torch.tensor(seen.token_id))[1:].double()
        value, hat = dense(subject, x.float())
        torch.testing.assert_close(dense_table(seen, len(WORDS))[1:], value, atol=1e-5, rtol=1e-5)
        assert seen.l0_T.tolist() == [0, *(value > 0).sum(1).tolist()]
        error = (x - hat).norm(dim=1)
        np.testing.assert_allclose(seen.error_T[1:], error, rtol=1e-5)
        np.testing.assert_allclose(seen.relative_T[1:], error / x.norm(dim=1), rtol=1e-5)
        np.testing.assert_allclose(seen.cosine_T[1:], torch.cosine_similarity(x, hat.double(), dim=1), rtol=1e-5)
        fvu = float(error.square().sum() / (x - x.mean(0)).square().sum())
        assert seen.reconstruction.fvu == pytest.approx(fvu, rel=1e-5) and np.nanmean(seen.fvu_T) == pytest.approx(fvu, rel=1e-5)


def test_a_planted_latent_fires_on_its_word_and_nowhere_else():
    (seen,) = inspect(world(), ["the cat over the river"]).prompts
    strongest = [seen.index_TK[t, 0] if seen.value_TK[t, 0] > 0 else None for t in range(6)]
    assert strongest == [None, None, WORDS.index("cat"), None, None, WORDS.index("river")]


def test_special_tokens_keep_their_activation_and_have_no_latents():
    (seen,) = inspect(world(), ["the cat</s> river"]).prompts
    assert seen.keep.tolist() == [False, True, True, False, True]
    special = ~seen.keep
    assert (seen.value_TK[special] == 0).all() and np.isnan(seen.error_T[special]).all() and np.isnan(seen.fvu_T[special]).all()
    assert seen.scored.tolist() == seen.keep.tolist()
    # BOS is untouched in every run, and so is what it says of the token after it
    assert seen.runs["clean"].loss_T[1] == seen.runs["sae"].loss_T[1] == seen.runs["zero"].loss_T[1]


def test_losses_and_guesses_are_those_of_plain_hooks_on_the_bare_model(lm):
    subject = random_sae(lm, "layers.1", lm.d_model)
    texts = ["The cat saw a stone.", "My sister found two letters near the river on monday"]
    found = inspect(subject, texts)
    for text, seen in zip(texts, found.prompts, strict=True):
        seen_x: list[torch.Tensor] = []
        block = lm.model.model.layers[1]
        handle = block.register_forward_hook(lambda _m, _i, output, seen_x=seen_x: seen_x.append(output[0, 1:]))
        clean = by_hand(subject, text, {})
        handle.remove()
        hat = dense(subject, seen_x[0])[1]
        runs = {"clean": clean, "sae": by_hand(subject, text, {block: hat}), "zero": by_hand(subject, text, {block: 0 * hat})}
        target = torch.tensor(seen.token_id[1:])[:, None]
        for name, log_p in runs.items():
            loss = -log_p[:-1].gather(1, target)[:, 0]
            np.testing.assert_allclose(seen.runs[name].loss_T[1:], loss, atol=2e-5)
            kl = (clean[:-1].exp() * (clean[:-1] - log_p[:-1])).sum(1)
            np.testing.assert_allclose(seen.runs[name].kl_T[1:], kl, atol=2e-5)
            best = log_p[-1].topk(5)
            assert [guess.token_id for guess in seen.runs[name].guesses] == best.indices.tolist()
            np.testing.assert_allclose([guess.probability for guess in seen.runs[name].guesses], best.values.exp(), atol=1e-5)
        losses = {name: np.nanmean(seen.runs[name].loss_T) for name in runs}
        figures = inspect(subject, [text]).figures
        assert figures.ce_clean == pytest.approx(losses["clean"], rel=1e-5)
        recovered = (losses["zero"] - losses["sae"]) / (losses["zero"] - losses["clean"])
        assert figures.ce_loss_recovered == pytest.approx(recovered, rel=1e-3)


def test_a_prompt_comes_out_the_same_beside_others_of_other_lengths(lm):
    subject = random_sae(lm, "layers.1", lm.d_model)
    texts = ["The cat", "My sister found two letters near the river on monday. A dog ate some bread at school.", "a bird"]
    together = inspect(subject, texts)
    for text, seen in zip(texts, together.prompts, strict=True):
        (alone,) = inspect(subject, [text]).prompts
        assert seen.text == text and seen.index_TK.tolist() == alone.index_TK.tolist()
        np.testing.assert_allclose(seen.value_TK, alone.value_TK, atol=1e-4)
        np.testing.assert_allclose(seen.runs["sae"].loss_T, alone.runs["sae"].loss_T, atol=1e-4)
    rows = [seen.reconstruction.n for seen in together.prompts]
    assert together.figures.n_tokens == sum(rows) and together.figures.l0 == pytest.approx(5)


def test_a_transcoder_is_held_against_what_it_writes_and_spliced_in_there(lm):
    subject = random_sae(lm, "layers.1.mlp_in:layers.1.mlp", lm.d_model)
    (seen,) = inspect(subject, ["The cat saw a stone."], attribute=True).prompts
    mlp = lm.model.model.layers[1].mlp
    pair: list[torch.Tensor] = []
    handle = mlp.register_forward_hook(lambda _m, inputs, output: pair.extend((inputs[0][0, 1:], output[0, 1:])))
    by_hand(subject, "The cat saw a stone.", {})
    handle.remove()
    value, hat = dense(subject, pair[0])
    torch.testing.assert_close(dense_table(seen, 96)[1:], value, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(seen.error_T[1:], (pair[1] - hat).norm(dim=1), rtol=1e-4)
    log_p = by_hand(subject, "The cat saw a stone.", {mlp: hat})
    loss = -log_p[:-1].gather(1, torch.tensor(seen.token_id[1:])[:, None])[:, 0]
    np.testing.assert_allclose(seen.runs["sae"].loss_T[1:], loss, atol=2e-5)
    assert seen.attributed is not None and np.abs(seen.attributed.value_TK).max() > 0


def test_a_crosscoder_replaces_all_that_it_writes_at_once(lm):
    subject = random_sae(lm, "layers.0+layers.1", 2 * lm.d_model, 2 * lm.d_model)
    (seen,) = inspect(subject, ["The cat saw a stone."], attribute=True).prompts
    blocks = lm.model.model.layers[:2]
    rows: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda _m, _i, output: rows.append(output[0, 1:])) for block in blocks]
    by_hand(subject, "The cat saw a stone.", {})
    for handle in handles:
        handle.remove()
    hat = dense(subject, torch.cat(rows, 1))[1]
    log_p = by_hand(subject, "The cat saw a stone.", dict(zip(blocks, hat.chunk(2, 1), strict=True)))
    loss = -log_p[:-1].gather(1, torch.tensor(seen.token_id[1:])[:, None])[:, 0]
    np.testing.assert_allclose(seen.runs["sae"].loss_T[1:], loss, atol=2e-5)
    assert seen.attributed is not None and np.abs(seen.attributed.value_TK).max() > 0


@pytest.mark.parametrize("norm", ["rms", "token"])
def test_attribution_is_value_times_derivative(norm, lm):
    subject = random_sae(lm, "layers.1", lm.d_model)
    state = {"mean": torch.linspace(-1, 1, lm.d_model), "scale": torch.tensor(1.7)} if norm == "rms" else {}
    subject.sae.norm = FittedNorm(world(norm).sae.norm.norm, state)
    text = "The old man painted the green door"
    (seen,) = inspect(subject, [text], attribute=True).prompts
    found = seen.attributed
    assert found is not None and found.target == seen.runs["clean"].guesses[0]
    block = lm.model.model.layers[1]
    rows: list[torch.Tensor] = []
    handle = block.register_forward_hook(lambda _m, _i, output: rows.append(output[0, 1:]))
    by_hand(subject, text, {})
    handle.remove()
    (x,) = rows
    _, undo = subject.sae.norm.apply(x)
    for t, k in [(1, 0), (3, 2), (len(seen.keep) - 1, 1)]:
        latent, value = seen.index_TK[t, k], float(seen.value_TK[t, k])
        step = torch.zeros_like(x)
        step[t - 1] = 0.02 * subject.sae.W_dec_ND[latent]
        more = subject.sae.norm.invert(step, undo) - subject.sae.norm.invert(0 * step, undo)
        ends = [by_hand(subject, text, {block: x + sign * more})[-1, found.target.token_id].item() for sign in (1, -1)]
        assert found.value_TK[t, k] == pytest.approx(value * (ends[0] - ends[1]) / 0.04, abs=2e-4)
    (other,) = inspect(subject, [text], attribute=" bread").prompts
    assert other.attributed is not None
    assert other.attributed.target.token_id == lm.tokenizer(" bread", add_special_tokens=False).input_ids[0]
    # this tokenizer puts a space before every text, which is no token of one that goes on
    (word,) = inspect(world(), ["I think that"], attribute=" glass").prompts
    assert word.attributed is not None and word.attributed.target.token == " glass"


def test_latents_over_prompts_are_summed_and_ranked():
    found = inspect(world(), ["the cat cat", "the river cat"], attribute=True)
    cat, river = WORDS.index("cat"), WORDS.index("river")
    rows = {one.latent: one for one in found.latents()}
    assert set(rows) == {cat, river} and found.latents()[0].latent == cat
    values = [float(seen.value_TK[t, 0]) for seen in found.prompts for t in range(4) if seen.tokens[t] == " cat"]
    assert rows[cat].n_tokens == 3 and rows[cat].total == pytest.approx(sum(values)) and rows[cat].largest == max(values)
    assert (rows[river].prompt, rows[river].position) == (1, 2)
    pushed = sum(
        float(seen.attributed.value_TK[seen.index_TK == cat][seen.value_TK[seen.index_TK == cat] > 0].sum()) for seen in found.prompts
    )
    assert rows[cat].attribution == pytest.approx(pushed)


def test_the_lens_tells_the_word_that_a_planted_row_says():
    subject = world()
    rows = to_stream(subject.lm, subject.sae)(subject.sae.W_dec_ND)
    told = Lens(subject.lm).told(rows, 3)
    assert [up[0][0] for up, _ in told] == [f" {word}" for word in WORDS]
    gain = subject.lm.model.model.norm.weight
    logits = (subject.sae.W_dec_ND * gain) @ subject.lm.model.lm_head.weight.T
    logits = logits - logits.mean(1, keepdim=True)
    np.testing.assert_allclose([up[0][1] for up, _ in told], logits.max(1).values, rtol=1e-5)
    np.testing.assert_allclose([down[0][1] for _, down in told], logits.min(1).values, rtol=1e-5)


def test_the_plain_form_has_all_and_every_number_is_finite():
    found = inspect(world(), PROMPTS, attribute=True)
    known = {WORDS.index("cat"): Known("ok", "the word cat", {"detection": 0.9}, 4.0, 0.01)}
    body = plain(found, known, wanted=[7])

    def numbers(value):
        if isinstance(value, dict):
            return [n for inner in value.values() for n in numbers(inner)]
        return [n for inner in value for n in numbers(inner)] if isinstance(value, (list, tuple)) else [value]

    assert all(math.isfinite(n) for n in numbers(body) if isinstance(n, float))
    assert [row["latent"] for row in body["latents"] if row["wanted"]] == [7] and body["latents"][0]["latent"] == 7
    cat = next(row for row in body["latents"] if row["latent"] == WORDS.index("cat"))
    assert (cat["label"], cat["scores"], cat["largest"]) == ("the word cat", {"detection": 0.9}, 4.0)
    for prompt, seen in zip(body["prompts"], found.prompts, strict=True):
        assert [t["l0"] for t in prompt["tokens"]] == [None, *seen.l0_T[1:].tolist()]
        assert sum(len(t["latents"]) for t in prompt["tokens"]) == int((seen.value_TK > 0).sum())
    largest = [row["max"] for row in plain(found, {}, by="max")["latents"]]
    assert largest == sorted((row["max"] for row in body["latents"] if row["sum"]), reverse=True)


def test_foreign_text_on_the_page_is_data_that_nothing_obeys():
    from tasks.reporting.inspection import page

    body = plain(inspect(world(), PROMPTS, attribute=True), {0: Known("ok", HOSTILE, {"detection": 0.9})})
    body["prompts"][0]["tokens"][1]["token"] = body["prompts"][0]["text"] = HOSTILE
    body["latents"][0] |= {"promoted": [[HOSTILE, 1.0]], "suppressed": []}
    about = {"sae": "train/" + "0" * 64, "model": HOSTILE, "kind": "topk", "explanations": [], "scorers": ["detection"]}
    for shown in (page({**about, **body}), page({**about, **body, "prompts": body["prompts"][:1]})):
        assert "<img" not in shown and shown.count("</script>") == 2
        assert not set("\x1b\u202e\u2066\x00\U000e0041") & set(shown) and "\\u202e" in shown and "\\u001b" in shown


def test_entries_that_pad_are_no_latents():
    latents = ordered(Latents(torch.tensor([[4, 2, 9], [1, 1, 1]]), torch.tensor([[0.0, 3.0, 5.0], [0.0, 0.0, 0.0]])))
    assert latents.index_BK.tolist()[0] == [9, 2] and latents.value_BK.tolist() == [[5, 3], [0, 0]]


def test_latents_by_themselves_are_those_of_an_inspection(lm):
    subject = random_sae(lm, "layers.1", lm.d_model)
    texts = ["The cat saw a stone.", "a bird"]
    for seen, latents in zip(inspect(subject, texts).prompts, latents_of(subject, subject.prompts(texts)), strict=True):
        assert latents.index_BK.shape[0] == len(seen.keep)
        table = torch.zeros(len(seen.keep), 96).scatter_reduce(1, latents.index_BK, latents.value_BK, "amax")
        torch.testing.assert_close(dense_table(seen, 96), table, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "prompts, told",
    [
        ([], "nothing to look at"),
        ([""], "prompt 1 = '', but it has no token"),
        (["the cat", "<s></s>"], "prompt 2 = '<s></s>', but it has no token that is not a special one"),
        ([" ".join(["cat"] * 64)], "65 tokens, BOS included, and planted reads at most 64; shorten it"),
    ],
)
def test_what_is_no_prompt_is_told(prompts, told):
    with pytest.raises(SpecError, match=told):
        inspect(world(), prompts)


def test_an_order_that_there_is_not_and_a_target_of_nothing_are_told():
    with pytest.raises(SpecError, match="target = '', but no token after 'the cat' begins with it"):
        inspect(world(), ["the cat"], attribute="")
    with pytest.raises(SpecError, match="by = 'attribution', but latents are ranked by sum, max, n_tokens"):
        plain(inspect(world(), ["the cat"]), {}, by="attribution")
