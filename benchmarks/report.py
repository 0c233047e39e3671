"""What the report of 65,536 latents costs to make and to open.

    python benchmarks/report.py                          # floors: 5 MB, and 1,000 ms until it can be used
    python benchmarks/report.py n_latents=4096 folder=/tmp/here

Writes artifacts of that size, of random but lifelike contents, as ``benchmarks/browse.py`` does, runs stages analyse and report
on them, and opens the page in headless Chromium, from disk and by HTTP, if playwright and Chromium are there.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from artifacts.store import Opened
from benchmarks.browse import opened, shelf_of
from tasks.analyse import AnalyseSpec, analyse
from tasks.browsing.shelf import Shelf
from tasks.progress import Progress
from tasks.report import ReportSpec, report
from tasks.spec import Runtime, Spec
from tasks.stage import Job, Stage

FLOOR_BYTES, FLOOR_MS = 5_000_000, 1_000
JUDGED = 10
SEEN = """
const look = () => {
  if (document.querySelector("#latents tbody tr")) window.table_seen = performance.now(); else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
"""By the page's own clock, which begins when it is asked for."""


def main() -> None:
    settings = {"n_latents": "65536", "d": "768", "threads": "2", "folder": ""}
    settings |= dict(word.split("=") for word in sys.argv[1:])
    torch.set_num_threads(int(settings["threads"]))
    pa.set_cpu_count(int(settings["threads"]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(settings["folder"] or temporary)
        shelf = shelf_of(folder, int(settings["n_latents"]), int(settings["d"]))
        made = written(shelf, folder, ReportSpec())
        if shutil.which("chromium"):
            looked_at(made)


def written(shelf: Shelf, folder: Path, spec: ReportSpec) -> Path:
    """The report of a shelf, and what it cost."""
    inputs = inputs_of(shelf, folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    summary = ran(report, spec, inputs, folder / "report")
    seconds = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    n = len(list((folder / "report").rglob("*"))) - 2
    verdict = "holds" if summary["bytes"] <= FLOOR_BYTES else "does NOT hold"
    print(f"report: {seconds:.0f} s, the process grew by {grown / 1e3:.0f} MB")
    print(f"report.html: {summary['bytes'] / 1e6:.2f} MB; floor {FLOOR_BYTES / 1e6:g} MB {verdict}")
    print(f"beside it: {max(0, n)} files, {summary['bytes_beside'] / 1e6:.0f} MB")
    return folder / "report" / "report.html"


def looked_at(page: Path) -> None:
    """Opened in a browser: how long until the table is there, until a word is searched, until a latent's windows are seen."""
    from playwright.sync_api import sync_playwright

    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(page.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, url in (("file", page.as_uri()), ("http", f"http://127.0.0.1:{server.server_port}/report.html")):
            took = [opening(browser, url) for _ in range(3)]
            figures = {key: statistics.median(one[key] for one in took) for key in took[0]}
            verdict = "holds" if figures["table"] <= FLOOR_MS else "does NOT hold"
            said = ", ".join(f"{key} {ms:.0f}" for key, ms in figures.items())
            print(f"opened by {name}, ms: {said}; floor {FLOOR_MS} ms until the table {verdict}")
        browser.close()
    server.shutdown()


def opening(browser: Any, url: str) -> dict[str, float]:
    page = browser.new_page()
    page.add_init_script(SEEN)
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector("#latents tbody tr")
    entry = "(name, field) => performance.getEntriesByType(name)[0][field]"
    found = {
        "first paint": page.evaluate(f"() => ({entry})('paint', 'startTime')"),
        "DOMContentLoaded": page.evaluate(f"() => ({entry})('navigation', 'domContentLoadedEventEnd')"),
        "table": page.evaluate("table_seen"),
    }
    timed = "(do_) => { const began = performance.now(); do_(); return performance.now() - began; }"
    box = "const box = document.getElementById('search'); box.value = %s; box.dispatchEvent(new Event('input'));"
    found["search"] = page.evaluate(f"() => ({timed})(() => {{ {box % json.dumps('w1 w2')} }})")
    found["search all"] = page.evaluate(f"() => ({timed})(() => {{ {box % json.dumps('')} }})")
    found["sort"] = page.evaluate(f"() => ({timed})(() => document.querySelector('[data-by=label]').click())")
    began = time.perf_counter()
    page.locator("#latents tbody tr").nth(5).click()
    page.wait_for_selector("#chosen .window, #chosen .columns")
    found["latent"] = 1e3 * (time.perf_counter() - began)
    page.close()
    return found


def ran(stage: Stage, spec: Spec, inputs: dict[str, Any], folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    nothing: Any = None
    return stage.run(Job(nothing, spec, inputs, SimpleNamespace(path=folder), Runtime(), Progress(), nothing))


def inputs_of(shelf: Shelf, folder: Path) -> dict[str, Any]:
    """What stage report reads beside what is on the shelf."""
    assert shelf.sae is not None
    explained, n = shelf.explained[0], shelf.sae.summary["n_latents"]
    score = explained.scores["detection"]
    _answered(score)
    corpus = opened(folder / "corpus", "corpus", {}, {"n_documents": 1_000_000})
    lm = opened(folder / "lm", "lm", {}, {"name": "a-model"})
    d = 768
    shelf.sae.summary.update({"hookpoint": "layers.6", "d_in": d, "n_tokens": 10**9})
    (shelf.sae.path / "sae.json").write_text(json.dumps({"spec": {"kind": "topk"}}))
    steps = np.arange(1, 1001)
    log: dict[str, Any] = {"step": steps, "tokens": steps * 10**6, "lr": np.ones(1000), "dead_fraction": 1 / steps, "fvu": 1 / steps**0.3}
    log["split"] = ["train"] * 1000
    pq.write_table(pa.table(log), shelf.sae.path / "log.parquet")
    evaluate = opened(folder / "evaluate", "evaluate", {}, {})
    metrics = {name: {"value": value} for name, value in (("fvu", 0.1), ("l0", 32.0), ("ce_clean", 3.0), ("ce_sae", 3.1))}
    (evaluate.path / "metrics.json").write_text(json.dumps(metrics))
    statistics = opened(folder / "statistics", "analyse", {}, {})
    asked = {"mine": shelf.mine, "explain": explained.explain, "scores": (score,)}
    began = time.perf_counter()
    ran(analyse, AnalyseSpec(), asked, statistics.path)
    print(f"analyse: {n:,} latents, {time.perf_counter() - began:.0f} s")
    return {"corpus": corpus, "lm": lm, "train": shelf.sae, "evaluate": evaluate, **asked, "statistics": statistics}


def _answered(score: Opened) -> None:
    """The columns and answers of a score that stage analyse looks at, and browsing does not."""
    table = pq.read_table(score.path / "scores.parquet")
    for name, value in (("n", JUDGED), ("control_n", JUDGED), ("base_rate", 0.5), ("chance", 0.5), ("usd", 0.0), ("input_tokens", 0)):
        table = table.append_column(name, pa.array([value] * table.num_rows))
    pq.write_table(table.append_column("output_tokens", table["input_tokens"]), score.path / "scores.parquet", compression="zstd")
    draw, n = np.random.default_rng(2), table.num_rows * JUDGED
    truth = draw.random(n) < 0.5
    rows = {
        "latent": np.repeat(table["latent"].to_numpy(), JUDGED), "truth": truth, "predicted": truth ^ (draw.random(n) < 0.2),
        "quantile": np.where(truth, draw.integers(0, 10, n), -1).astype(np.int32), "probability": draw.random(n),
        "group": np.where(truth, "quantile", "random").tolist(), "status": ["ok"] * n, "control": np.arange(n) % 2 == 0,
    }  # fmt: skip
    pq.write_table(pa.table(rows), score.path / "answers.parquet", compression="zstd")


if __name__ == "__main__":
    main()
