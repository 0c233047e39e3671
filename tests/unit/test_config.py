"""Mistakes are told in one sentence, before any work, by ``saint plan`` as by ``saint run``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.composing import composed
from flows.config import load
from flows.recipes import recipes
from tasks.spec import SpecError
from tests.small import overrides, write_corpus

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "typed, message",
    [
        (["sae=nonesuch"], "sae = 'nonesuch', but conf/sae/ has .*, topk.*; use one of them, or add tasks/saes/nonesuch.py"),
        (["sae.kind=nonesuch"], "sae.kind = 'nonesuch', but tasks/saes/ has .*topk.*; use one of them, or add"),
        (["explainer=nonesuch"], "explainer = 'nonesuch', but conf/explainer/ has"),
        (["scorers=[nonesuch]"], "scorers.kind = 'nonesuch', but tasks/scorers/ has detection"),
        (["sae.kk=3"], "sae.kk=3, but there is no sae.kk in the configuration; did you mean sae.k?"),
        (["sae=jumprelu", "sae.k=4"], "sae.k=4, but sae=jumprelu has no k; it has expansion_factor, "),
        (["sae=gated", "sae.l1_coeficient=4"], "but sae=gated has no l1_coeficient; did you mean sae.l1_coefficient?"),
        (["train.n_tokns=3"], "did you mean train.n_tokens"),
        (["sae.k=-1"], "sae.k = -1, but input should be greater than or equal to 1"),
        (["sae.k=many"], "sae.k = 'many', but input should be a valid integer"),
        (["sae.k=5000"], "sae.k = 5000, but there are 1536 latents .16 x d_in 96.; use a smaller k"),
        (["capture.hookpoints=[layers.7]"], "capture.hookpoints = 'layers.7', but tiny has layers 0 to 2; use 'layers.2'"),
        (["capture.hookpoints=[blocks.1]"], "capture.hookpoints = 'blocks.1', but a hookpoint is layers.N"),
        (["capture.hookpoints=[layers.1.mpl]"], "capture.hookpoints = 'layers.1.mpl', but a hookpoint is layers.N, layers.N.<one of z,"),
        (["capture.hookpoints=[layers.0:layers.1:layers.2]"], "but an SAE has one side to read and one to write"),
        (["capture.hookpoints=[layers.0+layers.7]"], "capture.hookpoints = 'layers.7', but tiny has layers 0 to 2"),
        (["capture.hookpoints=[layers.0+layers.1.resid_pre]"], "names a hookpoint twice on one side"),
        (
            ["capture.hookpoints=[layers.1.mlp_in:layers.1.mlp]"],
            "sae.subtract_b_dec = true, but at layers.1.mlp_in:layers.1.mlp .*sae=transcoder",
        ),
        (
            ["capture.hookpoints=[layers.1.mlp_in:layers.1.mlp]", "sae=transcoder", "norm=token"],
            "norm = 'token', but it takes out of each row what only that row tells, and layers.1.mlp is written without being read",
        ),
        (["capture.hookpoints=[layers.0+layers.1]", "sae.k=5000"], "sae.k = 5000, but there are 3072 latents .16 x d_in 192."),
        (["sae.skip=true"], "sae.skip = true, but at layers.1 the SAE writes what it reads"),
        (["sae=transcoder"], "sae = 'transcoder', but layers.1 is written as it is read; use capture.hookpoints="),
        (["sae=crosscoder", "sae.blocks=1"], "sae = 'crosscoder', but layers.1 writes one hookpoint; use capture.hookpoints="),
        (["sae=jumprelu", "runtime.processes=2"], "runtime.processes = 2, but SAEs of kind jumprelu are trained by one process"),
        (["runtime.processes=5", "runtime.shard=latents"], "runtime.processes = 5, but 1536 latents are not that many equal parts"),
        (
            ["runtime.processes=2", "runtime.shard=latents", "sae.groupmax=true", "sae.k=3"],
            "sae.k = 3, but 2 processes cannot share that many groups of latents; use runtime.shard=batch",
        ),
        (["capture.hookpoints=[]"], "capture.hookpoints = .., but an SAE needs one"),
        (["capture.hookpoints=[layers.1,layers.1]"], "names one twice"),
        (["capture.context_tokens=512"], "capture.context_tokens = 512, but tiny reads at most 128; use 128"),
        (["corpus=parquet", "corpus.path=none/*.parquet"], "corpus.path = 'none/.*', but no file is there"),
        (["lm=hf"], "lm.path and lm.hub_id are both null"),
        (["lm=hf", "lm.path=none"], "lm.path = 'none', but there is no such folder"),
        (["explainer=default"], "explainer = 'default', but it asks an LLM and client is none; use client=anthropic_batch"),
        (["client=openai"], "client.model is not set, but this configuration needs it; add client.model=..."),
        (["runtime.max_usd=-1"], "runtime.max_usd = -1, but"),
        (["runtime.max_usd=few"], "runtime.max_usd = 'few', but"),
        (["runtime.mode=cloud"], "runtime.mode = 'cloud', but"),
        (["explain.latents=9:3"], "latents"),
        (["backend.root=/dev/null/store"], "backend.root = '/dev/null/store', but /dev/null cannot be written"),
        (["k 3"], "but it is no override that can be read"),
        (["+nope=1"], "nope = 1, but there is no nope in the configuration"),
        (["+trian.seed=1"], "but there is no trian in the configuration; did you mean train?"),
        (["+client.model=claude"], "client.model = 'claude', but client is none; add client=anthropic_batch"),
        (["backend=tape"], "backend = 'tape', but conf/backend/ has local, s3; use one of them$"),
        (["backend.kind=tape"], "backend.kind = 'tape', but there are local and s3; use one of them"),
        (["backend=s3"], "backend.bucket is not set, but this configuration needs it; add backend.bucket=..."),
        (["backend=s3", "backend.bucket=a/b"], "backend.bucket = 'a/b', but that is no name of a bucket"),
        (["backend=s3", "backend.bucket=b", "backend.endpoint=localhost:9000"], "an address begins with https:// or http://"),
        (["sae.k=8,16"], "sae.k=8,16, but a run takes one value; add -m to run each of them"),
    ],
)
def test_a_mistake_is_one_sentence(typed, message, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(SpecError, match=message) as caught:
        recipes(load(typed))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["runtime", "client"])
@pytest.mark.parametrize("client, key", [("openai", "OPENAI"), ("anthropic", "ANTHROPIC"), ("none", "OPENAI")])
def test_a_password_in_an_address_is_refused_and_not_shown(name, client, key, monkeypatch):
    monkeypatch.setenv(f"{key}_API_KEY", "x")
    model = ["client.model=m", "runtime.max_usd=none"] if client == "openai" else []
    plus = "+" if name == "client" and client != "openai" else ""
    with pytest.raises(SpecError, match=rf"{name}\.base_url has an @ .*; leave them out and put .* {key}_API_KEY$") as caught:
        load([f"client={client}", *model, f"{plus}{name}.base_url=https://user:hunter2@host/v1"])
    assert "hunter2" not in str(caught.value)


def test_a_password_in_an_address_of_the_environment_is_refused_and_not_shown(monkeypatch):
    for client, key in (("openai_batch", "OPENAI"), ("anthropic", "ANTHROPIC")):
        monkeypatch.setenv(f"{key}_API_KEY", "x")
        monkeypatch.setenv(f"{key}_BASE_URL", "https://user:hunter2@host/v1")
        with pytest.raises(SpecError, match=f"{key}_BASE_URL has an @ .*{key}_API_KEY$") as caught:
            load([f"client={client}", "client.model=m", "runtime.max_usd=none", "explainer=default"])
        assert "hunter2" not in str(caught.value)


def test_a_client_without_its_key_is_told(monkeypatch):
    for name in [n for n in os.environ if n.startswith("ANTHROPIC")]:
        monkeypatch.delenv(name)
    with pytest.raises(SpecError, match="ANTHROPIC_API_KEY is not set"):
        load(["client=anthropic_batch", "explainer=default"])


def test_a_text_column_that_is_not_there_lists_those_that_are(tmp_path):
    write_corpus(tmp_path / "c.parquet")
    with pytest.raises(SpecError, match="corpus.text_column = 'body', but c.parquet has columns text, doc; use one of them"):
        load(["corpus=parquet", f"corpus.path={tmp_path / 'c.parquet'}", "corpus.text_column=body"])


def test_paths_may_hold_what_hydra_keeps_for_itself(tmp_path):
    write_corpus(tmp_path / "a,b (1)" / "c.parquet")
    found = load(["corpus=parquet", f"corpus.path={tmp_path}/a,b (1)/*.parquet"])
    assert found.corpus.path == f"{tmp_path}/a,b (1)/*.parquet"


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_no_limit_on_spending_is_typed_as_people_type_it(word):
    assert load([f"runtime.max_usd={word}"]).runtime.max_usd is None
    assert load(["runtime.max_usd=0.5"]).runtime.max_usd == 0.5


def test_runtime_and_backend_move_no_key_and_everything_else_does(tmp_path):
    world = overrides(tmp_path)

    def keys(*more: str) -> list[str]:
        return [r.key for r in recipes(load([*world, *more])).all()]

    plain = keys()
    assert keys("runtime.device=cpu", "runtime.lm_batch_tokens=64", "runtime.mode=inline", "backend.root=elsewhere") == plain
    for more in ("sae.k=5", "train.seed=1", "corpus.seed=3", "mine.train_sampler.n=3", "capture.context_tokens=32", "norm=token"):
        assert keys(more)[-1] != plain[-1], more


def test_a_second_hookpoint_moves_no_key_of_the_first(tmp_path):
    world = [o for o in overrides(tmp_path) if "hookpoints" not in o]
    one = recipes(load([*world, "capture.hookpoints=[layers.1]"]))
    two = recipes(load([*world, "capture.hookpoints=[layers.0,layers.1]"]))
    assert two.finals[1] == one.finals[0]
    assert set(one.all()) < set(two.all())


def test_only_what_depends_on_a_setting_is_made_anew(tmp_path):
    world = overrides(tmp_path)
    base, other = (set(recipes(load([*world, *more])).all()) for more in ([], ["sae.k=5"]))
    changed = {r.stage.name for r in other - base}
    assert changed == {"train", "evaluate", "encode", "mine", "explain", "score", "analyse", "report"}


def test_every_group_file_decodes_and_names_every_field():
    for group in ("corpus", "lm", "norm", "sae", "explainer", "scorer", "windows", "sampler", "negative"):
        package = {"corpus": "corpora", "windows": "windows"}.get(group, group + "s")
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            from omegaconf import OmegaConf

            from tasks.kinds import spec_class

            fields = OmegaConf.to_container(OmegaConf.load(path))
            if path.name == "load.yaml" and group == "sae":  # no kind of SAE, but an SAE of whichever kind, made elsewhere
                from tasks.adopt import AdoptSpec as cls

                fields.pop("kind")
            else:
                cls = spec_class(f"tasks.{package}", fields["kind"])
            filled = {"fingerprint", "python"}  # pinned when a run is composed
            assert set(fields) == set(cls.model_fields) - filled, path.name
            cls.model_validate(fields)


@pytest.mark.parametrize("section", ["capture", "train", "evaluate", "mine", "explain", "score", "report", "runtime", "backend"])
def test_every_setting_of_a_section_can_be_seen_and_typed(section):
    from flows.places import Place
    from tasks.capture import CaptureSpec
    from tasks.evaluate import EvaluateSpec
    from tasks.explain import ExplainSpec
    from tasks.mine import MineSpec
    from tasks.report import ReportSpec
    from tasks.score import ScoreSpec
    from tasks.spec import Runtime
    from tasks.train import TrainSpec

    cls = {
        "capture": CaptureSpec, "train": TrainSpec, "evaluate": EvaluateSpec, "mine": MineSpec, "explain": ExplainSpec,
        "score": ScoreSpec, "report": ReportSpec, "runtime": Runtime, "backend": Place,
    }[section]  # fmt: skip
    groups = {"sae", "explainer", "client", "scorer"}
    by_recipe = set() if section == "runtime" else {"hookpoint", "split", "shard", "sites"}
    assert set(composed([])[section]) - {"hookpoints", "init_from"} == set(cls.model_fields) - groups - by_recipe


def test_the_whole_configuration_is_plain_data():
    import json

    assert json.loads(json.dumps(composed([])))["sae"]["kind"] == "topk"


def test_planning_imports_neither_torch_nor_prefect_nor_zarr():
    program = (
        "import sys, flows.cli; flows.cli.main(['plan', 'backend.root=none']); flows.cli.main(['--help'])\n"
        "heavy = {'torch', 'prefect', 'zarr', 'transformers', 'anthropic', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import pathlib; assert not pathlib.Path('none').exists()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_kinds_of_windows_samplers_and_negatives_are_picked_by_name_or_written_out():
    def mine(*overrides: str):
        return load(list(overrides)).mine

    default = mine()
    assert (default.windows.kind, default.train_sampler.kind, default.test_sampler.kind) == ("centred", "mix", "quantiles")
    assert [(kind.kind, kind.n) for kind in default.negatives] == [("random", 40), ("near_miss", 20)]
    assert mine("mine.windows=tiled", "mine.train_sampler=top").windows.kind == "tiled"
    assert mine("windows@mine.windows=tiled", "mine.windows.window_tokens=64").windows.window_tokens == 64
    assert mine("sampler@mine.train_sampler=top", "mine.train_sampler.n=7").train_sampler.n == 7
    assert mine("mine.train_sampler={kind: top, n: 5}").train_sampler.payload() == {"kind": "top", "n": 5, "n_quantiles": 10}
    assert [(k.kind, k.n) for k in mine("mine.negatives=[{kind: random, n: 3}]").negatives] == [("random", 3)]
    assert mine("mine.negatives=[]").negatives == ()


@pytest.mark.parametrize(
    "typed, told",
    [
        ("mine.negatives=[random,random]", "mine.negatives = ['random', 'random'], but it names one twice; name each once"),
        ("mine.negatives=[nope]", "mine.negatives.kind = 'nope', but tasks/negatives/ has "),
        ("mine.train_sampler=nope", "mine.train_sampler.kind = 'nope', but tasks/samplers/ has "),
        ("sampler@mine.test_sampler=nope", "sampler = 'nope', but conf/sampler/ has "),
        ("mine.windows.window_tokens=2", "mine.windows.window_tokens = 2, but input should be greater than or equal to 4"),
        ("mine.windows.min_tokens=40", "mine.windows.min_tokens = 40, but a window has at most 32"),
    ],
)
def test_a_wrong_kind_of_window_or_sampler_is_told_before_any_work(typed, told):
    with pytest.raises(SpecError) as error:
        load([typed])
    assert str(error.value).startswith(told)
