"""``saint inspect`` and ``flows.api`` on a small world: terminal, JSON, page, notebook."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from artifacts.store import Store
from flows.api import OpenSAE, open_sae
from flows.cli import main
from flows.lineage import recipe_of
from tasks.adopt import AdoptSpec, adopt
from tasks.spec import SpecError
from tests.browser import DESK, TELEPHONE, width_of
from tests.foreign import Weights, saelens
from tests.making import make
from tests.small import overrides

PROMPT = "The cat saw a red apple in the garden."
HOSTILE = (
    """</script><img src=x onerror="document.title='XSS'">\x1b[31m"""
    "\x1b]0;own\x07 cat\u202e saw\x9b2J a\u2066 dog\r\x00\U000e0041 {{7*7}}"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A world in which some latents of an SAE are explained twice, and scored."""
    folder = tmp_path_factory.mktemp("inspecting")
    store = [f"backend.root={folder / 'store'}", "runtime.mode=inline"]
    assert main(["score", *overrides(folder), "train.n_tokens=10000", "capture.n_shards=1", "explain.latents=0:40", *store]) == 0
    return folder


@pytest.fixture
def store(built) -> Store:
    return Store.at(built / "store")


def named(store: Store, stage: str) -> str:
    (found,) = [str(a) for a in store.artifacts() if a.stage == stage]
    return found


@pytest.fixture(scope="module")
def sae(built) -> OpenSAE:
    opened = Store.at(built / "store")
    return open_sae(named(opened, "train"), opened, device="cpu")


@pytest.fixture
def saint(built, capsys):
    """A command given in the world: exit code, and what it says."""

    def give(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, f"backend.root={built / 'store'}", "runtime.device=cpu"])
        return code, *capsys.readouterr()

    return give


# the command


def test_the_terminal_shows_tokens_latents_labels_losses_and_what_rows_promote(saint, store):
    code, out, err = saint("inspect", named(store, "train"), PROMPT)
    assert code == 0, err
    assert named(store, "train") in out and named(store, "explain") in out and PROMPT in out
    assert "special: keeps its own activation" in out and "recovered" in out and "with the SAE:" in out and "promotes" in out
    body = json.loads(saint("inspect", named(store, "train"), PROMPT, "--json")[1])
    lines = out.splitlines()
    for token in body["prompts"][0]["tokens"][1:]:
        line = next(line for line in lines if re.match(rf" *{token['position']} +{re.escape(token['token'].replace(' ', '␣'))} ", line))
        strongest = token["latents"][0]
        assert f"{token['relative_error']:.3f}" in line and f"{strongest['latent']} " in line and f"{strongest['value']:.2f}" in line
    below = lines[next(i for i, line in enumerate(lines) if line.startswith("latent ")) + 1 :]
    ranked = [int(line.split()[0]) for line in below if re.match(r" {0,6}\d", line)]
    assert ranked == [row["latent"] for row in body["latents"][:10]]


def test_json_has_all_and_agrees_with_the_api(saint, store, sae):
    body = json.loads(saint("inspect", named(store, "train"), PROMPT, "a dog", "--json", "--attribute")[1])
    assert set(body) >= {"sae", "lm", "figures", "prompts", "latents", "explanations", "scorers"} and len(body["prompts"]) == 2
    tokens = body["prompts"][0]["tokens"]
    assert tokens[0]["special"] and tokens[0]["l0"] is None and all(t["l0"] == len(t["latents"]) == 4 for t in tokens[1:])
    assert all("attribution" in one for t in tokens for one in t["latents"])
    assert body == json.loads(json.dumps(sae.inspect([PROMPT, "a dog"], attribute=True, n_pushed=5).json))


def test_labels_are_those_of_the_store_with_their_scores(saint, store):
    body = json.loads(saint("inspect", named(store, "train"), PROMPT, "--json", "--latents", "0:40")[1])
    rows = [row for row in body["latents"] if row["wanted"]]
    assert [row["latent"] for row in rows] == list(range(40)) and body["scorers"] == ["detection"]
    assert any(row["label"] and row["scores"].get("detection") is not None for row in rows)
    assert all(row["promoted"] and row["suppressed"] for row in rows)
    outside = [row for row in body["latents"] if row["latent"] >= 40]
    assert outside and not any(row["label"] for row in outside) and all(row["largest"] is not None for row in outside)


def test_prompts_come_from_files_lines_and_standard_input_too(saint, store, tmp_path, monkeypatch):
    (tmp_path / "one.txt").write_text("The cat\nsaw a stone.\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("a dog = a bird\n"))
    body = json.loads(saint("inspect", named(store, "train"), "-", "x = 5", "--file", str(tmp_path / "one.txt"), "--json")[1])
    assert [prompt["text"] for prompt in body["prompts"]] == ["a dog = a bird", "x = 5", "The cat\nsaw a stone."]
    body = json.loads(saint("inspect", named(store, "train"), "--lines", "--file", str(tmp_path / "one.txt"), "--json")[1])
    assert [prompt["text"] for prompt in body["prompts"]] == ["The cat", "saw a stone."]


def test_a_hostile_prompt_drives_neither_the_terminal_nor_the_page(saint, store, tmp_path):
    code, out, _ = saint("inspect", named(store, "train"), HOSTILE, "--html", str(tmp_path / "page.html"))
    assert code == 0
    assert all(c.isprintable() or c == "\n" for c in out)
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page and page.count("</script>") == 2
    assert "\x1b" not in page and "\u202e" not in page and "default-src 'none'" in page and "http" not in re.sub(r"http-equiv", "", page)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["train/zzz", "x"], "train/zzz, but no artifact of this store is called so"),
        (["lm/", "x"], "is no SAE; name one"),
        (["train/"], "there is no prompt"),
        (["train/", ""], "prompt 1 = '', but it has no token"),
        (["train/", "a " * 200], "tokens, BOS included, and"),
        (["train/", "a", "--latents", "5,128"], "latent = 128, but the SAE has latents 0 to 127"),
        (["train/", "a", "--latents", "x"], "'x' is no latent"),
        (["train/", "a", "--latents", "5:2"], "--latents = '5:2', but 5:2 holds none"),
        (["train/", "--file", "/nonexistent"], "--file = '/nonexistent', but it cannot be read (No such file or directory)"),
        (["train/", "a", "--html", "/nonexistent/page.html"], "--html = '/nonexistent/page.html', but there is no folder /nonexistent"),
        (["train/", "a", "--by", "size"], "by = 'size', but latents are ranked by sum, max, n_tokens, attribution"),
        (["train/", "a", "--explain", "train/"], "is no explanations"),
        (["train/", "a", "--top", "-1"], "--top -1, but it counts"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(saint, arguments, told):
    code, out, err = saint("inspect", *arguments)
    assert code == 2 and told in err and err.count("\n") == 1 and not out


def test_a_model_that_is_gone_is_told(built, capsys, tmp_path):
    shutil.copytree(built / "store", tmp_path / "store")
    copy = Store.at(tmp_path / "store")
    (lm,) = [a for a in copy.artifacts() if a.stage == "lm"]
    copy.delete(lm)
    assert main(["inspect", named(copy, "train"), "x", f"backend.root={tmp_path / 'store'}"]) == 2
    said = capsys.readouterr().err
    assert f"its language model ({lm}) is not in this store" in said


def test_a_model_whose_folder_is_gone_is_told(built, saint, store):
    (built / "model").rename(built / "elsewhere")
    try:
        code, _, err = saint("inspect", named(store, "train"), "x")
    finally:
        (built / "elsewhere").rename(built / "model")
    assert code == 2 and "but the language model that lay there is gone" in err


def test_an_sae_whose_activations_are_gone_still_has_its_model(built, tmp_path):
    shutil.copytree(built / "store", tmp_path / "store")
    copy = Store.at(tmp_path / "store")
    for artifact in [a for a in copy.artifacts() if a.stage == "capture"]:
        copy.delete(artifact)
    assert open_sae(named(copy, "train"), copy).inspect("The cat").figures.l0 == 4
    for artifact in [a for a in copy.artifacts() if a.stage in ("mine", "encode")]:
        copy.delete(artifact)
    with pytest.raises(SpecError, match="which language model it is of"):
        open_sae(named(copy, "train"), copy).inspect("The cat")


# an SAE of another tool


@pytest.fixture(scope="module")
def adopted(built, tmp_path_factory) -> tuple[OpenSAE, Weights]:
    """A JumpReLU SAE in SAELens' format, in the same store."""
    store, weights = Store.at(built / "store"), Weights(d=32, m=80)
    weights.enc *= 4  # the small model's activations are small
    at = {"hook_name": "blocks.1.hook_resid_post", "model_name": "small"}
    folder = saelens(tmp_path_factory.mktemp("foreign"), "jumprelu", weights, metadata=at)
    (lm,) = [a for a in store.artifacts() if a.stage == "lm"]
    made = make(adopt(AdoptSpec(path=str(folder), any_model=True).pinned(), lm=recipe_of(store, lm)), store)
    return open_sae(str(made.artifact), store, device="cpu"), weights


def test_an_imported_sae_is_inspected_like_one_of_ours(adopted, saint):
    sae, weights = adopted
    assert str(sae.artifact).startswith("adopt/") and sae.hookpoint == "layers.1" and sae.n_latents == 80
    one = sae.encode(PROMPT)
    subject = sae.subject
    (context,) = subject.prompts([PROMPT])
    token, mask = torch.from_numpy(context.token_id)[None], torch.ones(1, len(context.token_id), dtype=torch.bool)
    x = subject.lm.activations(token, mask, ["layers.1"])["layers.1"][0, 1:].numpy()
    pre = weights.pre(x, subtract=True)
    value = pre * (pre > weights.threshold)
    ours = one.dense()[1:].numpy()
    np.testing.assert_allclose(ours, value, atol=1e-4)
    seen = sae.inspect(PROMPT).found.prompts[0]
    assert seen.l0_T[1:].tolist() == (value > 0).sum(1).tolist() and len(set(seen.l0_T[1:].tolist())) > 1
    np.testing.assert_allclose(seen.error_T[1:], np.linalg.norm(x - weights.out(value), axis=1), rtol=1e-4)
    code, out, err = saint("inspect", str(sae.artifact), PROMPT)
    assert code == 0 and "jumprelu, 80 latents" in out and f"no labels yet: saint explain {sae.artifact}" in out, err


# in Python


def test_the_three_lines_of_the_docstring_run(built, monkeypatch, store):
    import doctest

    from flows import api

    monkeypatch.setenv("SAINT_STORE", str(built / "store"))
    source = "\n".join(f">>> {line.strip()}" for line in api.__doc__.splitlines() if line.startswith("    "))
    source = source.replace("train/3f2a", named(store, "train")).replace(">>> sae.inspect", ">>> page = sae.inspect")
    assert source.count(">>>") == 3
    test = doctest.DocTestParser().get_doctest(source + "\n", {}, "three lines", None, 0)
    told = doctest.DocTestRunner().run(test, clear_globs=False)
    assert told.failed == 0 and test.globs["page"].figures.l0 == 4


def test_a_store_is_named_by_argument_by_the_environment_or_by_where_one_is(built, monkeypatch, tmp_path, store, capsys):
    name = named(store, "train")
    monkeypatch.delenv("SAINT_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="store = 'saint-store', but there is no such folder"):
        open_sae(name)
    assert open_sae(name, built / "store").n_latents == 128
    (tmp_path / "saint-store").symlink_to(built / "store")
    assert open_sae(name).hookpoint == "layers.1"
    monkeypatch.chdir("/")
    monkeypatch.setenv("SAINT_STORE", str(built / "store"))
    assert str(open_sae(name).artifact) == name
    assert main(["ls", "train"]) == 0 and name in capsys.readouterr().out


def test_encode_gives_tokens_and_latents_sparse_and_dense(sae):
    one = sae.encode(PROMPT)
    assert "".join(one.tokens[1:]) == PROMPT and one.dense().shape == (len(one.tokens), 128)
    assert ((one.dense() > 0).sum(1).tolist()) == [0] + [4] * (len(one.tokens) - 1)
    seen = sae.inspect(PROMPT).found.prompts[0]
    np.testing.assert_allclose(one.value_TK, seen.value_TK, atol=1e-5)
    several = sae.encode([PROMPT, "a dog"])
    assert [x.text for x in several] == [PROMPT, "a dog"] and several[0].tokens == one.tokens


def test_labels_are_a_table_and_open_no_model(store):
    sae = open_sae(named(store, "train"), store)
    table = sae.explanations
    assert table.num_rows == 128 and table.column_names[:2] == ["latent", "label"] and "detection" in table.column_names
    assert sum(label is not None for label in table["label"].to_pylist()) > 20
    assert sae.trained.sae.W_dec_ND.shape[0] == 128 and "_subject" not in vars(sae)


def test_tables_of_an_inspection_hold_what_its_json_does(sae):
    found = sae.inspect([PROMPT, "a dog"], latents=[3], attribute=True)
    assert found.tokens.num_rows == sum(len(p["tokens"]) for p in found.json["prompts"])
    assert found.active.num_rows == sum(len(t["latents"]) for p in found.json["prompts"] for t in p["tokens"])
    assert found.latents["latent"].to_pylist()[0] == 3 and len(found.latents["promoted"].to_pylist()[0]) == 8
    assert found._repr_html_().startswith("<iframe srcdoc=") and "sandbox" in found._repr_html_()


def test_steering_is_that_of_the_subject_and_nothing_turned_is_the_model_itself(sae):
    plain = sae.steer({}, PROMPT, 8, temperature=0.0)
    assert plain == sae.steer({3: 0.0}, PROMPT, 8, temperature=0.0) and isinstance(plain, str)
    pushed = sae.steer({3: 400.0}, [PROMPT, "a dog"], 8, temperature=0.0, unit="activation")
    assert len(pushed) == 2 and pushed[0] != plain
    largest = sae.said.known([3])[3].largest
    assert sae.steer({3: 400.0 / largest}, PROMPT, 8, temperature=0.0) == pushed[0]
    with pytest.raises(SpecError, match="latent = 999"):
        sae.steer({999: 1.0}, PROMPT)


def test_several_threads_share_one_sae(store):
    sae = open_sae(named(store, "train"), store, device="cpu")
    texts = [PROMPT, "a dog", "My sister found two letters."]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda text: sae.inspect(text).json, texts * 4))
    alone = [sae.inspect(text).json for text in texts]
    assert found == alone * 4


def test_explanations_can_be_named_and_those_of_another_sae_are_refused(store, sae):
    named_ones = open_sae(named(store, "train"), store, explain=named(store, "explain"))
    assert named_ones.explanations == sae.explanations
    with pytest.raises(SpecError, match="is no explanations"):
        _ = open_sae(named(store, "train"), store, explain=named(store, "lm")).explanations


def test_of_each_latent_the_newest_label_is_taken_and_random_ones_only_by_name(built, tmp_path):
    shutil.copytree(built / "store", tmp_path / "store")
    copy, options = Store.at(tmp_path / "store"), [f"backend.root={tmp_path / 'store'}", "runtime.mode=inline"]
    sae, old = named(copy, "train"), named(copy, "explain")

    def explained(*more: str) -> str:
        before = {str(a) for a in copy.artifacts()}
        assert main(["explain", sae, "latents=0:10", *more, *options]) == 0
        (made,) = (str(a) for a in copy.artifacts() if a.stage == "explain" and str(a) not in before)
        return made

    time.sleep(1.1)  # manifests tell the time by the second
    newer = explained("explainer.max_terms=1")
    (first,) = [a for a in copy.artifacts() if str(a) == old]
    mute = explained("explainer=random", f"explainer.path={copy.open(first).path / 'explanations.parquet'}")
    rows = open_sae(sae, copy).explanations.to_pylist()
    by = {row["explain"] for row in rows[:10] if row["status"] == "ok"}
    assert by == {newer} and {row["explain"] for row in rows[10:40]} == {old} and rows[40]["explain"] is None
    assert all(row["detection"] is None for row in rows[:10] if row["explain"] == newer), "scores are of another label"
    assert any(row["detection"] is not None for row in rows[10:40])
    said = open_sae(sae, copy, explain=mute).explanations.to_pylist()
    assert {row["explainer"] for row in said} == {"random", None}


def test_without_a_name_the_newest_sae_is_opened_and_an_empty_store_says_so(store, tmp_path):
    newest = max((m for m in map(store.find, store.artifacts()) if m.artifact.stage in ("train", "adopt")), key=lambda m: m.made_by["when"])
    assert open_sae(store=store).artifact == newest.artifact
    with pytest.raises(SpecError, match="but it has no SAE; make one with saint run"):
        open_sae(store=Store.at(tmp_path / "empty"))


# in a browser


@pytest.mark.special
@pytest.mark.parametrize("width", [DESK, TELEPHONE])
def test_a_real_browser_heats_tokens_shows_latents_and_runs_no_foreign_script(sae, tmp_path, served, visit, width):
    inspected = sae.inspect([PROMPT, HOSTILE], attribute=True)
    inspected.html(tmp_path / "page.html")
    folder = served(tmp_path)
    page = visit(folder.url + "page.html", width=width)
    assert width_of(page) == width
    assert "XSS" not in page.title() and page.locator("img").count() == 0
    body = inspected.json
    spans = page.locator(".text span")
    assert spans.count() == sum(len(p["tokens"]) for p in body["prompts"]) and "special" in spans.first.get_attribute("class")

    def hot() -> list[bool]:
        return ["rgba" in style for style in spans.evaluate_all("all => all.map(one => one.getAttribute('style') || '')")]

    assert any(hot())
    spans.nth(2).click()
    latents = body["prompts"][0]["tokens"][2]["latents"]
    lines = page.locator("#panel .latent .id")
    assert [int(text) for text in lines.all_inner_texts()] == [one["latent"] for one in latents]
    lines.first.click()  # the latent's heat over the prompts
    strongest = latents[0]["latent"]
    assert f"latent {strongest}" in page.locator("#panel h3").first.inner_text() and f"#latent-{strongest}" in page.url
    where = [any(one["latent"] == strongest for one in t["latents"]) for p in body["prompts"] for t in p["tokens"]]
    assert hot() == where
    assert width_of(page) == width, "nor does the panel stick out"
    every = page.locator("#latents tbody tr").count()
    page.fill("#search", str(strongest))
    assert 1 <= page.locator("#latents tbody tr").count() < every
    assert folder.paths == ["/page.html"]


@pytest.mark.special
def test_a_page_in_a_notebook_answers_clicks(sae, tmp_path, served, visit):
    inspected = sae.inspect([PROMPT, HOSTILE], attribute=True)
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8><body>{inspected._repr_html_()}", "utf-8")
    folder = served(tmp_path)
    page = visit(folder.url + "notebook.html")
    inner = page.frame_locator("iframe")
    inner.locator(".text span").nth(2).click()
    inner.locator("#panel .latent").first.click()
    strongest = inspected.json["prompts"][0]["tokens"][2]["latents"][0]["latent"]
    assert f"latent {strongest}" in inner.locator("#panel h3").first.inner_text()
    assert folder.paths == ["/notebook.html"]
