"""A text's surprise depends on the prefix and the text, and on nothing that was read beside it or before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from tasks.lm.surprise import Reader
from tasks.spec import Runtime, SpecError
from tests.small import sentences, write_model

STORIES = Path(__file__).parents[2] / "../shared/data/lm-stories260k"
TEXTS = [" the cat", "a", *sentences(9, 5), " my sister found two letters under the table. the farmer saw", "\u00e9\u4e16"]
NEAR = 2e-5
"""Nats: float32 sums of another order, where a batch is padded; numbers are about 6."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("reader") / "model")


def opened(folder: Path, batch_tokens: int = 8192) -> Reader:
    runtime = Runtime(mode="inline", device="cpu", lm_batch_tokens=batch_tokens)
    return Reader.open(str(folder), None, "float32", runtime, True)


def plainly(reader: Reader, prefix: str, text: str) -> float:
    """Without batches, without memory: one pass over prefix and text."""
    ids = [reader.tokenizer.bos_token_id, *reader._tokens(prefix), *(own := reader._tokens(text))]
    with torch.inference_mode():
        logits = reader.model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    return -sum(float(logits[i - 1, ids[i]]) for i in range(len(ids) - len(own), len(ids))) / len(own)


@pytest.mark.parametrize("prefix", ["", "a note: the cat\n"])
def test_all_tokens_of_a_text_count_from_the_first(folder, prefix):
    reader = opened(folder)
    assert reader.surprise(prefix, TEXTS) == pytest.approx([plainly(reader, prefix, text) for text in TEXTS], abs=NEAR)


@pytest.mark.skipif(not STORIES.exists(), reason="the shared model lm-stories260k is not here")
def test_a_trained_model_gives_the_same_in_batches_and_finds_stories_likely():
    reader = opened(STORIES, 500)
    texts = ["Once upon a time there was a little girl named Lily.", "lily girl of named little upon a a Once there"]
    found = reader.surprise("", texts)
    assert found == pytest.approx([plainly(reader, "", text) for text in texts], abs=NEAR)
    assert found[0] < 0.6 * found[1]


@pytest.mark.parametrize("batch_tokens", [1, 64, 150])
def test_batches_of_any_size_give_what_one_text_alone_gives(folder, batch_tokens):
    prefix = "something was said before.\n"
    alone = [opened(folder).surprise(prefix, [text])[0] for text in TEXTS]
    assert opened(folder, batch_tokens).surprise(prefix, TEXTS) == pytest.approx(alone, abs=NEAR)
    assert opened(folder, batch_tokens).surprise(prefix, TEXTS[::-1]) == pytest.approx(alone[::-1], abs=NEAR)


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX", "Gemma2"])
def test_families_that_remember_in_other_ways_do_too(folder, family):
    """Positions that are learned, parallel blocks, and a window of 16 tokens that forgets the start of the prefix."""
    tokenizer = opened(folder).tokenizer
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    gated = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16} if family == "Gemma2" else {}
    more = {"intermediate_size": 64, **gated} if family != "GPT2" else {}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes, **more, bos_token_id=0, eos_token_id=0)
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    reader = Reader(getattr(transformers, name)(config).eval(), tokenizer, "cpu", 300)
    prefix = "a note: the cat saw a bird under the table and then\n"
    assert reader.surprise(prefix, TEXTS) == pytest.approx([plainly(reader, prefix, text) for text in TEXTS], abs=NEAR)


def test_what_was_read_before_changes_nothing(folder):
    reader, fresh = opened(folder, 64), opened(folder)
    first = reader.surprise("one.", TEXTS[:5])
    for prefix in ("two.", "three.", "four."):
        reader.surprise(prefix, TEXTS)
    reader._known.clear()
    assert reader.surprise("one.", TEXTS[:5]) == first == pytest.approx(fresh.surprise("one.", TEXTS[:5]), abs=NEAR)


def test_a_text_that_was_measured_is_not_read_again(folder):
    reader = opened(folder)
    first = reader.surprise("x", TEXTS)
    reader.model = None
    assert reader.surprise("x", TEXTS[3:]) == first[3:]


def test_a_corpus_that_spells_special_tokens_does_not_make_them(folder):
    reader = opened(folder)
    assert reader.tokenizer.bos_token_id in reader.tokenizer("a<s>", add_special_tokens=False).input_ids
    assert reader.tokenizer.bos_token_id not in reader._tokens("a<s>")


def test_a_text_without_tokens_has_no_number(folder):
    assert opened(folder).surprise("x", ["", " the cat"])[0] is None
    assert opened(folder).surprise("x", [""]) == [None]
    assert opened(folder).surprise("x", []) == []


def test_a_model_whose_memory_cannot_be_copied_is_refused(folder, monkeypatch):
    reader = opened(folder)
    plain = reader.model.forward
    monkeypatch.setattr(reader.model, "forward", lambda **k: plain(**{**k, "use_cache": False}))
    with pytest.raises(SpecError, match="the model is a LlamaForCausalLM, but what it remembers of a prefix cannot be copied"):
        reader.surprise("x", ["a dog"])


def test_more_than_the_model_reads_is_refused(folder):
    with pytest.raises(SpecError, match=r"scorers.surprisal: the prompt and a window are \d+ tokens, but .* at most 128"):
        opened(folder).surprise("the cat saw. " * 40, ["a dog"])
