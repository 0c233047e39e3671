"""A recipe that is handed on: what it holds, what of a stranger's is refused, and vectors for those without SAINT."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from artifacts.store import Store
from tasks.kinds import decode
from tasks.lm.language_model import LanguageModel
from tasks.lms.hf import HF
from tasks.norms.base import FittedNorm
from tasks.provide import ProvideSpec, provide
from tasks.saes.topk import TopK
from tasks.spec import Runtime, SpecError
from tasks.steering.push import Push, Row
from tasks.steering.recipe import SteeringRecipe, read
from tasks.steering.subject import Subject
from tasks.steering.vector import CODE, save_patch, save_vector
from tasks.trained import TrainedSAE
from tests.making import make
from tests.small import write_model

SAE = "train/" + "b" * 64
WHOLE = {
    "format": "saint-steering", "version": 1, "lm": {"artifact": "lm/" + "a" * 64, "name": "a model"},
    "saes": [{"artifact": SAE, "hookpoint": "layers.1", "n_latents": 5, "digest": "c" * 64}],
    "pushes": [{"sae": SAE, "latent": 3, "strength": 2, "largest": 3.0, "mode": "clamp", "label": "cats"}],
    "prompts": ["a", [{"role": "user", "content": "hi"}]], "seed": 7, "temperature": 0.5, "top_p": 0.9,
}  # fmt: skip


def test_a_recipe_says_the_same_after_a_journey(tmp_path):
    recipe = read(WHOLE)
    path = recipe.save(tmp_path / "her.json")
    assert SteeringRecipe.load(path) == recipe == read(path.read_bytes()) and recipe.pushes[0].strength == 2.0
    assert read(json.loads(path.read_text())) == recipe and path.read_text().isascii()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "recipe.version = 2, but this SAINT reads version 1; take a newer SAINT"),
        ({"version": "1"}, "recipe.version = 1, but this SAINT reads version 1; write it again"),
        ({"version": True}, "recipe.version = True"),
        ({"format": "saint-sae"}, "is no steering recipe"),
        ({"run": "rm -rf"}, "recipe.run = 'rm -rf', but there is no such field"),
        ({"temperature": float("nan")}, "recipe.temperature = nan, but input should be a finite number"),
        ({"temperature": -1}, "recipe.temperature = -1"),
        ({"top_p": 0}, "recipe.top_p = 0"),
        ({"n_tokens": 10**9}, "recipe.n_tokens = 1000000000, but input should be less than or equal to 4096"),
        ({"seed": 2**70}, "recipe.seed"),
        ({"seed": 1.5}, "recipe.seed = 1.5"),
        ({"prompts": []}, "recipe.prompts = \\[\\]"),
        ({"prompts": [""] * 65}, "recipe.prompts"),
        ({"prompts": [3]}, "recipe.prompts.0.messages = 3"),
        ({"prompts": [[{"role": "tool", "content": "x"}]]}, "recipe.prompts.0.messages.0.role = 'tool'"),
        ({"prompts": ["a" * 200_000]}, "recipe.prompts.0.text = 'aaa.* ... .*change it"),
        ({"saes": []}, "recipe.saes = \\[\\]"),
        ({"saes": WHOLE["saes"] * 2}, "recipe.saes names an SAE twice"),
        ({"saes": [{**WHOLE["saes"][0], "artifact": "../../etc/passwd"}]}, "recipe.saes.0.artifact = '../../etc/passwd'"),
        ({"lm": 3}, "recipe.lm = 3"),
        ({"pushes": [{**WHOLE["pushes"][0], "latent": 5}]}, "recipe.pushes.0.latent = 5, but the SAE has latents 0 to 4"),
        ({"pushes": [{**WHOLE["pushes"][0], "latent": -1}]}, "recipe.pushes.0.latent = -1"),
        ({"pushes": [{**WHOLE["pushes"][0], "sae": "train/zz"}]}, "recipe.pushes.0.sae = 'train/zz', but recipe.saes has no such"),
        ({"pushes": [{**WHOLE["pushes"][0], "strength": float("inf")}]}, "recipe.pushes.0.strength = inf"),
        ({"pushes": [{**WHOLE["pushes"][0], "mode": "exec"}]}, "recipe.pushes.0.mode = 'exec'"),
        ({"pushes": WHOLE["pushes"] * 2}, "recipe.pushes.1.latent = 3, but it is turned by clamp twice"),
        ({"pushes": [{**WHOLE["pushes"][0], "mode": "add"}] * 300}, "recipe.pushes"),
        (
            {"pushes": [{**WHOLE["pushes"][0], "mode": mode} for mode in ("add", "clamp")]},
            "recipe.pushes.1.latent = 3, but it is turned by add and by clamp, and what is clamped or ablated is held; leave one out",
        ),
    ],
)
def test_what_a_stranger_may_not_say_is_refused_in_a_sentence(changes, message):
    body = deepcopy(WHOLE) | changes
    for given in (body, json.dumps(body)):
        with pytest.raises(SpecError, match=message) as told:
            read(given)
        assert len(str(told.value)) < 600


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"3", b"null", b"[" * 100_000, b'{"format": 1}', b"NaN"])
def test_what_is_no_recipe_at_all_is_refused(data, tmp_path):
    (tmp_path / "it.json").write_bytes(data)
    with pytest.raises(SpecError, match="but it is no (JSON|steering recipe)"):
        SteeringRecipe.load(tmp_path / "it.json")


def test_a_file_that_is_not_there_or_too_large_is_told(tmp_path):
    with pytest.raises(SpecError, match="but there is no such file; saint steer --save writes one"):
        SteeringRecipe.load(tmp_path / "no.json")
    (tmp_path / "big.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(SpecError, match="but it is larger than 4 MiB"):
        SteeringRecipe.load(tmp_path / "big.json")


# vectors


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    top = tmp_path_factory.mktemp("vectors")
    folder = write_model(top / "model")
    opened = make(provide(ProvideSpec(lm=HF(path=str(folder)).pinned())), Store.at(top / "s"))
    return LanguageModel.open(opened, Runtime(mode="inline", device="cpu")), folder


def norm(kind: str, **fields) -> FittedNorm:
    state = {"mean": torch.linspace(-1, 1, 32), "scale": torch.tensor(1.7)} if kind == "rms" else {}
    return FittedNorm(decode("tasks.norms", {"kind": kind, **fields}, "norm"), state)


def sae(hookpoint: str, kind: str, width: int = 32, seed: int = 0, **fields) -> TrainedSAE:
    return TrainedSAE(TopK(k=4, n_latents=48, expansion_factor=None).build(width, seed), norm(kind, **fields), hookpoint)


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize(
    ("hookpoint", "kind"),
    [
        ("layers.1", "rms"), ("layers.0", "token"), ("layers.1.mlp", "layer_norm"), ("layers.2.resid_mid", "length"),
        ("embed", "none"), ("layers.1.z", "rms"), ("layers.0.attn", "none"),
    ],
)  # fmt: skip
def test_a_patch_of_plain_transformers_has_our_logits(world, tmp_path, hookpoint, kind, positions):
    lm, folder = world
    subject = Subject(lm, sae(hookpoint, kind), others={"other": sae("layers.1.mlp", "none", seed=3)} if hookpoint == "layers.1" else {})
    pushes = (Push(5, 2.0, 3.0), Push(9, -1.5, 2.0), *([Push(2, 4.0, sae="other")] if subject.others else []))
    code, vector = save_patch(subject, pushes, tmp_path / "dog.py", positions, name="a dog")
    assert "from dog import steered" in code.read_text() and vector.name == "dog.safetensors"
    scope: dict = {"__name__": "dog", "__file__": str(code)}
    exec(compile(code.read_text(), code, "exec"), scope)
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder)
    prompts = subject.prompts(["The old man", "A dog saw the green door"])
    ours_RV = subject.next_log_probs([Row(p, pushes) for p in prompts], positions)
    texts = subject.continuations([Row(p, pushes) for p in prompts], 6, temperature=0, positions=positions)
    for prompt, ours, text in zip(prompts, ours_RV, texts, strict=True):
        ids = torch.from_numpy(prompt.token_id)[None]
        before = plain(ids).logits
        with scope["steered"](plain) as model:
            logits = model(ids).logits
            said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0)
        torch.testing.assert_close(logits[0, -1].log_softmax(-1), ours, atol=1e-4, rtol=1e-4)
        assert subject.text_after(prompt, said[0, ids.shape[1] :].tolist()) == text
        assert torch.equal(plain(ids).logits, before) and not torch.equal(logits, before)
        with scope["steered"](plain, scale=0.0) as model:
            assert torch.equal(model(ids).logits, before)


def test_a_vector_says_where_it_belongs_in_one_entry(world, tmp_path):
    subject = Subject(world[0], sae("layers.1", "rms"))
    path = save_vector(subject, [Push(5, 2.0, 3.0)], tmp_path / "v.safetensors", name="a dog")
    with safe_open(path, "pt") as file:
        (entry,) = file.metadata().values()
        direction = file.get_tensor("layers.1")
    plan = json.loads(entry)
    assert plan["name"] == "a dog" and plan["special_token_ids"] == [0] and plan["positions"] == "all"
    where = {"hookpoint": "layers.1", "layer": 1, "module": "model.layers.1", "at": "output"}
    assert plan["entries"] == [{"tensor": "layers.1", "scale": None, **where}]
    torch.testing.assert_close(direction, 6 * 1.7 * subject.sae.W_dec_ND[5])


def test_what_no_vector_can_do_is_refused(world, tmp_path):
    subject = Subject(world[0], sae("layers.1", "rms"), others={"token": sae("layers.1", "token")})
    for mode in ("clamp", "ablate", "bias"):
        with pytest.raises(SpecError, match=f"mode {mode}, but a plain vector adds the same to every token"):
            save_vector(subject, [Push(1, 1.0), Push(2, 1.0, mode=mode)], tmp_path / "v")
    with pytest.raises(SpecError, match="norms of different scales"):
        save_vector(subject, [Push(1, 1.0), Push(2, 1.0, sae="token")], tmp_path / "v")
    with pytest.raises(SpecError, match="a vector of nothing steers nowhere"):
        save_vector(subject, [Push(1, 0.0), Push(1, 0.0, mode="clamp")], tmp_path / "v")
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("name", ["q.safetensors", "my-patch.txt", "my-patch.py", "2dogs.py", "import.py", "dog"])
def test_a_patch_that_nobody_could_import_is_refused(world, tmp_path, name):
    with pytest.raises(SpecError, match="but it is Python that others import; name it like my_patch.py"):
        save_patch(Subject(world[0], sae("layers.1", "rms")), [Push(5, 1.0)], tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hookpoint", ["layers.1", "embed"])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_patch_takes_embeddings_for_tokens(world, tmp_path, hookpoint, positions):
    lm, folder = world
    subject = Subject(lm, sae(hookpoint, "rms"))
    code, _ = save_patch(subject, [Push(5, 6.0)], tmp_path / "dog.py", positions)
    scope: dict = {"__name__": "dog", "__file__": str(code)}
    exec(compile(code.read_text(), code, "exec"), scope)
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.from_numpy(subject.prompts(["The old man"])[0].token_id)[None]
    with scope["steered"](plain) as model:
        torch.testing.assert_close(model(inputs_embeds=plain.get_input_embeddings()(ids)).logits, model(ids).logits)


def test_the_patch_needs_no_saint(world, tmp_path):
    subject = Subject(world[0], sae("layers.1", "rms"))
    code, _ = save_patch(subject, [Push(5, 40.0)], tmp_path / "dog.py")
    assert not any(f"{word} {name}" in CODE.read_text() for word in ("import", "from") for name in ("tasks", "flows", "artifacts"))
    hide = "import sys; sys.modules |= dict.fromkeys(('tasks', 'flows', 'artifacts')); sys.argv = sys.argv[1:]; "
    run = "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    given = [str(code), str(world[1]), "The cat", "--tokens", "5"]
    done = subprocess.run([sys.executable, "-c", hide + run, *given], capture_output=True, text=True, timeout=120, cwd=Path(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    default, steered = done.stdout.split("steered: ")
    rows = [Row(subject.prompts(["The cat"])[0], own) for own in ((), (Push(5, 40.0),))]
    texts = subject.continuations(rows, 5, temperature=0)
    assert default.rstrip("\n") == f"default: The cat{texts[0]}" and steered.rstrip("\n") == f"The cat{texts[1]}"
