"""Llamas in Meta's layout: the same logits as their Hugging Face form, and as the definition written down here once more."""

from __future__ import annotations

import base64
import json
import math
import os
import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from artifacts.store import Store
from tasks.lm.language_model import LanguageModel
from tasks.lms.llama_checkpoint import LlamaCheckpoint
from tasks.provide import ProvideSpec, provide
from tasks.spec import Runtime, SpecError
from tests.making import make

RANKS = [bytes([i]) for i in range(256)] + [b"th", b"the", b" the", b"at", b" c", b" cat", b"in", b"zz"]
N_TOKENS = len(RANKS) + 40
PARAMS = {"dim": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "vocab_size": N_TOKENS, "multiple_of": 32, "norm_eps": 1e-5}
KINDS = {
    "llama-2": {"n_kv_heads": None, "ffn_dim_multiplier": None},
    "llama-3": {"rope_theta": 500_000.0, "ffn_dim_multiplier": 1.3},
    "llama-3.1": {"rope_theta": 500_000.0, "ffn_dim_multiplier": 1.3, "use_scaled_rope": True},
    "llama-3.2": {"rope_theta": 500_000.0, "ffn_dim_multiplier": 1.5, "use_scaled_rope": True, "tied": True},
}


def hf_model(kind: str):
    """A random Llama of transformers, and the params.json that Meta would write of it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    given = KINDS[kind]
    tied = given.get("tied", False)
    params = {n: v for n, v in {**PARAMS, **given}.items() if n != "tied" and v is not None}
    hidden = int(2 * (4 * 64) / 3)
    hidden = int(params.get("ffn_dim_multiplier", 1) * hidden)
    rope = {"rope_type": "default", "rope_theta": params.get("rope_theta", 10_000.0)}
    if params.get("use_scaled_rope"):
        rope |= {"rope_type": "llama3", "factor": 32.0 if tied else 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope |= {"original_max_position_embeddings": 8192}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=N_TOKENS, hidden_size=64, intermediate_size=32 * math.ceil(hidden / 32), num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=params.get("n_kv_heads", 4), rms_norm_eps=1e-5, rope_parameters=rope,
            max_position_embeddings=131_072, tie_word_embeddings=tied, initializer_range=0.2,
        )
    )  # fmt: skip
    return model.eval(), params


def interleaved(weight: torch.Tensor, d_head: int) -> torch.Tensor:
    """Rows of the two halves of each head, turn and turn about: Meta rotates neighbours."""
    rows = []
    for head in range(len(weight) // d_head):
        for i in range(d_head // 2):
            rows += [weight[head * d_head + i], weight[head * d_head + d_head // 2 + i]]
    return torch.stack(rows)


def meta_tensors(model, tied: bool) -> dict[str, torch.Tensor]:
    held = {n: p.detach().clone() for n, p in model.named_parameters()}
    found = {"tok_embeddings.weight": held["model.embed_tokens.weight"], "norm.weight": held["model.norm.weight"]}
    found["output.weight"] = found["tok_embeddings.weight"] if tied else held["lm_head.weight"]
    found["rope.freqs"] = torch.zeros(8)
    for i in range(3):
        ours, theirs = f"layers.{i}.", f"model.layers.{i}."
        found[ours + "attention.wq.weight"] = interleaved(held[theirs + "self_attn.q_proj.weight"], 16)
        found[ours + "attention.wk.weight"] = interleaved(held[theirs + "self_attn.k_proj.weight"], 16)
        for a, b in (("attention.wv", "self_attn.v_proj"), ("attention.wo", "self_attn.o_proj"), ("feed_forward.w1", "mlp.gate_proj"),
                     ("feed_forward.w2", "mlp.down_proj"), ("feed_forward.w3", "mlp.up_proj"), ("attention_norm", "input_layernorm"),
                     ("ffn_norm", "post_attention_layernorm")):  # fmt: skip
            found[f"{ours}{a}.weight"] = held[f"{theirs}{b}.weight"]
    return found


def write(folder: Path, kind: str = "llama-3", tensors=None, params=None) -> tuple[Path, object]:
    model, theirs = hf_model(kind)
    folder.mkdir()
    torch.save(meta_tensors(model, KINDS[kind].get("tied", False)) if tensors is None else tensors, folder / "consolidated.00.pth")
    (folder / "params.json").write_text(json.dumps({**theirs, **(params or {})}))
    lines = (base64.b64encode(token).decode() + f" {rank}\n" for rank, token in enumerate(RANKS))
    (folder / "tokenizer.model").write_text("".join(lines))
    return folder, model


def opened(folder: Path, store: Path, **more) -> LanguageModel:
    spec = LlamaCheckpoint(path=str(folder), **more).pinned()
    return LanguageModel.open(make(provide(ProvideSpec(lm=spec)), Store.at(store)), Runtime(mode="inline", device="cpu"), dtype="float32")


def logits_of(found: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    return found.logits(tokens, torch.ones_like(tokens, dtype=torch.bool)).float()


def by_definition(tensors: dict[str, torch.Tensor], params: dict, tokens: torch.Tensor, factor: float) -> torch.Tensor:
    """Llama's forward pass in Meta's own terms: pairs of neighbours are complex numbers, which positions turn."""
    n_heads, n_kv, d = params["n_heads"], params.get("n_kv_heads", params["n_heads"]), 16
    freq = 1.0 / params.get("rope_theta", 10_000.0) ** (torch.arange(0, d, 2).double() / d)
    if params.get("use_scaled_rope"):
        length = 2 * math.pi / freq
        share = ((8192 / length - 1) / (4 - 1)).clamp(0, 1)  # 0: slow, scaled whole; 1: fast, left alone
        freq = (1 - share) * freq / factor + share * freq
    turn = torch.polar(torch.ones_like(freq), freq)[None] ** torch.arange(tokens.shape[1])[:, None]

    def norm(x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + params["norm_eps"]) * tensors[name].double()

    def rotated(x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], d // 2, 2).contiguous())
        return torch.view_as_real(pairs * turn[None, :, None]).flatten(-2)

    x = tensors["tok_embeddings.weight"].double()[tokens]
    n = tokens.shape[1]
    for i in range(params["n_layers"]):
        names = [*(f"attention.w{one}" for one in "qkvo"), *(f"feed_forward.w{one}" for one in "123")]
        w = {name: tensors[f"layers.{i}.{name}.weight"].double() for name in names}
        y = norm(x, f"layers.{i}.attention_norm.weight")
        q, k, v = (
            (y @ w[f"attention.w{one}"].T).view(len(y), n, heads, d) for one, heads in (("q", n_heads), ("k", n_kv), ("v", n_kv))
        )
        k, v = (z.repeat_interleave(n_heads // n_kv, 2) for z in (rotated(k), v))
        score = torch.einsum("bqhd,bkhd->bhqk", rotated(q), k) / d**0.5
        score = score.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
        x = x + torch.einsum("bhqk,bkhd->bqhd", score.softmax(-1), v).flatten(2) @ w["attention.wo"].T
        y = norm(x, f"layers.{i}.ffn_norm.weight")
        x = x + (F.silu(y @ w["feed_forward.w1"].T) * (y @ w["feed_forward.w3"].T)) @ w["feed_forward.w2"].T
    return norm(x, "norm.weight") @ tensors["output.weight"].double().T


TOKENS = torch.randint(0, N_TOKENS, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_hugging_face_form_and_of_the_definition(tmp_path, kind):
    folder, model = write(tmp_path / "original", kind)
    found = opened(folder, tmp_path / "store")
    with torch.no_grad():
        theirs = model(TOKENS).logits
    ours = logits_of(found, TOKENS)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    tied = KINDS[kind].get("tied", False)
    tensors, params = meta_tensors(model, tied), json.loads((folder / "params.json").read_text())
    written_down = by_definition(tensors, params, TOKENS, 32.0 if tied else 8.0)
    torch.testing.assert_close(ours.double(), written_down, atol=2e-4, rtol=1e-4)  # float32 against float64, logits up to 40
    assert theirs.abs().max() > 1 and found.model.config.tie_word_embeddings == tied


def test_the_factor_of_scaled_rotations_can_be_given(tmp_path):
    folder, model = write(tmp_path / "original", "llama-3.1")
    found = opened(folder, tmp_path / "store", rope_factor=2.0)
    tensors, params = meta_tensors(model, False), json.loads((folder / "params.json").read_text())
    torch.testing.assert_close(logits_of(found, TOKENS).double(), by_definition(tensors, params, TOKENS, 2.0), atol=2e-4, rtol=1e-4)
    with torch.no_grad():
        assert not torch.allclose(logits_of(found, TOKENS), model(TOKENS).logits, atol=1e-3)


@pytest.mark.parametrize("vocabulary_first", [True, False])
def test_a_model_in_parts_is_put_together(tmp_path, vocabulary_first):
    kind = "llama-3" if vocabulary_first else "llama-2"
    whole, model = write(tmp_path / "whole", kind)
    folder, _ = write(tmp_path / "parts", kind)
    if not vocabulary_first:  # Llama 2 cut the embedding by columns, and left the number of tokens to the tokenizer
        for one in (whole, folder):
            params = json.loads((one / "params.json").read_text())
            (one / "params.json").write_text(json.dumps({**params, "vocab_size": -1}))
    tensors = meta_tensors(model, False)
    columns = ("wo.weight", "w2.weight") + (() if vocabulary_first else ("tok_embeddings.weight",))
    for part in range(2):
        torch.save(
            {
                name: tensor if tensor.dim() == 1 else tensor.chunk(2, 1 if name.endswith(columns) else 0)[part].clone()
                for name, tensor in tensors.items()
            },
            folder / f"consolidated.{part:02}.pth",
        )
    one, other = (opened(f, tmp_path / f.name / "store") for f in (whole, folder))
    assert torch.equal(logits_of(one, TOKENS), logits_of(other, TOKENS))


def test_byte_pair_ranks_merge_as_they_say_and_bos_comes_first(tmp_path):
    folder, _ = write(tmp_path / "original")
    tokenizer = opened(folder, tmp_path / "store").tokenizer
    ids = tokenizer("the cat in the hat").input_ids
    texts = [b"the", b" cat", b" ", b"in", b" the", b" ", b"h", b"at"]
    assert ids == [len(RANKS)] + [RANKS.index(token) for token in texts]
    assert tokenizer.decode(ids[1:]) == "the cat in the hat"
    assert tokenizer.decode(tokenizer("naïve ☃", add_special_tokens=False).input_ids) == "naïve ☃"
    specials = tokenizer.convert_ids_to_tokens(list(range(len(RANKS), len(RANKS) + 12)))
    assert specials == [
        "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
        "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
        "<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_3|>",
    ]  # fmt: skip
    assert len(tokenizer) == N_TOKENS


def pieces_file() -> bytes:
    """A SentencePiece model of merged pairs, field by field: 3 controls, 256 bytes, and some pieces."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    def field(number: int, body: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(body)) + body

    def piece(text: str, score: float, kind: int) -> bytes:
        return field(1, field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + varint(3 << 3) + varint(kind))

    body = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3)
    body += b"".join(piece(f"<0x{i:02X}>", 0, 6) for i in range(256))
    merged = ["▁c", "at", "▁cat", "▁t", "he", "▁the", "in"]
    body += b"".join(piece(text, -i, 1) for i, text in enumerate(merged))
    letters = sorted(set("".join(merged)) | set("hats"))
    body += b"".join(piece(text, -100 - i, 1) for i, text in enumerate(letters))
    return body + field(2, varint(3 << 3) + varint(2) + varint(35 << 3) + varint(1)) + field(3, b"")


def test_a_sentencepiece_model_falls_back_on_bytes(tmp_path):
    folder, _ = write(tmp_path / "original", "llama-2")
    (folder / "tokenizer.model").write_bytes(pieces_file())
    tokenizer = opened(folder, tmp_path / "store").tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("the cat in hat ☃").input_ids)
    assert tokens == ["<s>", "▁the", "▁cat", "▁", "in", "▁", "h", "at", "▁", "<0xE2>", "<0x98>", "<0x83>"]
    assert tokenizer.decode(tokenizer("the cat ☃").input_ids, skip_special_tokens=True) == "the cat ☃"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_the_key_is_of_the_contents_and_facts_are_known_before_anything_is_loaded(tmp_path):
    one, _ = write(tmp_path / "one", "llama-3.1")
    other, _ = write(tmp_path / "other", "llama-3.1")
    first, second = (LlamaCheckpoint(path=str(folder)).pinned() for folder in (one, other))
    assert first.payload() == second.payload() and "path" not in first.payload()
    torch.save(torch.load(other / "consolidated.00.pth") | {"norm.weight": torch.zeros(64)}, other / "consolidated.00.pth")
    assert LlamaCheckpoint(path=str(other)).pinned().payload() != first.payload()
    facts = first.facts()
    assert (facts.n_layers, facts.d_model, facts.vocab_size, facts.context_length) == (3, 64, N_TOKENS, 131_072)
    with pytest.raises(SpecError, match="its files are not those of when this run was planned"):
        make(provide(ProvideSpec(lm=second)), Store.at(tmp_path / "store"))


class Runs:
    """What runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def truncated(folder: Path) -> None:
    file = folder / "consolidated.00.pth"
    file.write_bytes(file.read_bytes()[:20_000])


def put(folder: Path, name: str, change) -> None:
    held = torch.load(folder / "consolidated.00.pth", weights_only=True)
    held[name] = change(held[name])
    torch.save(held, folder / "consolidated.00.pth")


def params(folder: Path, **more) -> None:
    held = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps({n: v for n, v in {**held, **more}.items() if v is not None}))


BAD = {
    "no weights": (lambda f: (f / "consolidated.00.pth").unlink(), r"lm.path = '.*', but it has no consolidated.00.pth; put it there"),
    "no parameters": (lambda f: (f / "params.json").unlink(), r"it has no params.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), r"it has no tokenizer.model"),
    "a part is lost": (lambda f: (f / "consolidated.00.pth").rename(f / "consolidated.01.pth"), r"consolidated.00.pth is not there"),
    "truncated": (truncated, r"consolidated.00.pth \(20,000 bytes\) cannot be read as a checkpoint .* it may be truncated"),
    "code": (
        lambda f: torch.save({"norm.weight": Runs(f / "ran")}, f / "consolidated.00.pth"),
        r"consolidated.00.pth is a pickle that holds more than tensors .*, and opening that could run code",
    ),
    "a list": (lambda f: torch.save([1, 2], f / "consolidated.00.pth"), r"holds list and not tensors by name"),
    "wider": (
        lambda f: params(f, ffn_dim_multiplier=2.0),
        r"feed_forward.w1.weight has shape \(224, 64\), but params.json makes it \(352, 64\)",
    ),
    "deeper": (lambda f: params(f, n_layers=4), r"has no layers.3.attention.wq.weight, but params.json tells of 4 layers"),
    "shallower": (lambda f: params(f, n_layers=2), r"has layers.2.attention.wq.weight, which a Llama of 2 layers has not"),
    "other heads": (lambda f: params(f, n_kv_heads=4), r"attention.wk.weight has shape \(32, 64\), but params.json makes it \(64, 64\)"),
    "odd heads": (lambda f: params(f, n_heads=5), r"n_heads 5 and n_kv_heads 2, but each is to divide"),
    "no dim": (lambda f: params(f, dim=None), r"params.json has no dim, but a Llama's parameters name it"),
    "no JSON": (lambda f: (f / "params.json").write_text("{"), r"params.json cannot be read as a Llama's parameters"),
    "not a number": (
        lambda f: put(f, "layers.1.attention.wo.weight", lambda w: w * torch.nan),
        r"layers.1.attention.wo.weight has values that are not finite",
    ),
    "transposed": (lambda f: put(f, "tok_embeddings.weight", lambda w: w.T.contiguous()), r"tok_embeddings.weight has shape \(64, 304\)"),
    "another tokenizer": (
        lambda f: (f / "tokenizer.model").write_text("hello world\n"),
        r"is neither byte-pair ranks nor a SentencePiece model",
    ),
    "half a tokenizer": (lambda f: (f / "tokenizer.model").write_bytes(pieces_file()[:1000]), r"breaks off within a SentencePiece model"),
    "ranks with a hole": (
        lambda f: (f / "tokenizer.model").write_text("".join((f / "tokenizer.model").read_text().splitlines(True)[5:])),
        r"but their ranks are not 0 to 258; it may be truncated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_a_checkpoint_is_said_in_one_sentence(tmp_path, what):
    spoil, said = BAD[what]
    folder, _ = write(tmp_path / "original")
    spoil(folder)
    with pytest.raises(SpecError, match=said) as told:
        opened(folder, tmp_path / "store")
    assert "\n" not in str(told.value) and not (folder / "ran").exists()


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    for path, said in ((None, "lm.path is null"), (str(tmp_path / "none"), "there is no such folder")):
        with pytest.raises(SpecError, match=said):
            LlamaCheckpoint(path=path).pinned()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SpecError, match="a folder in Hugging Face's layout is lm=hf"):
        LlamaCheckpoint(path=str(tmp_path)).pinned()
