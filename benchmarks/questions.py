"""What it takes to explain and score a latent, in requests and characters, beside delphi's defaults.

    python -m benchmarks.questions

Ours is counted from the requests that explainer and scorers make, schemas included, on windows of 32 tokens out of
Python's own documentation, for as many scored windows as delphi's defaults have: 50 activating and 50 non-activating
ones for detection, as many for fuzzing. Delphi's are those that eai-delphi 0.1.1 (commit 3c2e139) was measured to send
for them: its fixed examples travel again with every five windows.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import re
import statistics
from collections.abc import Sequence
from random import Random

from tasks.clients.base import Request
from tasks.explainers.base import Explanation, LatentExamples, Window
from tasks.explainers.default import Default
from tasks.scorers.detection import Detection
from tasks.scorers.fuzzing import Fuzzing
from tasks.scorers.intruder import Intruder
from tasks.scorers.recall import Recall
from tasks.scorers.simulation import Simulation

DELPHI = {"explanation": (1, 8_600), "detection": (20, 57_000), "fuzzing": (20, 66_000), "all": (41, 135_000)}
"""Requests and characters per latent."""

WINDOW_TOKENS = 32
WORDS = ("value", "method", "import", "string", "class", "list", "module", "return", "object", "names")


def text_tokens() -> list[str]:
    """Python's documentation in pieces as long as a language model's tokens: some 4 characters."""
    text = re.sub(r"[ \t]+", " ", "\n".join(pydoc_data.topics.topics.values()))
    return re.findall(r" ?[A-Za-z]{1,8}|\s?[^\sA-Za-z]{1,3}|\s+", text)


def latents(n_windows: int = 50, words: Sequence[str] = WORDS) -> list[LatentExamples]:
    """Latents that fire on a word each, with windows as mining makes them: three quarters before the peak."""
    tokens = text_tokens()
    found = []
    for latent, word in enumerate(words):
        draw = Random(word)
        strength = [draw.uniform(2, 10) if token.strip() == word else 0.0 for token in tokens]
        peaks = [i for i, value in enumerate(strength) if value and i > WINDOW_TOKENS]
        silent = [
            i
            for i in draw.sample(range(WINDOW_TOKENS, len(tokens) - WINDOW_TOKENS), 8 * n_windows)
            if not any(strength[i - 24 : i + 8])
        ]
        draw.shuffle(peaks)
        windows = []
        for split, part in (("train", 0), ("test", 1)):
            mine = peaks[part::2][:n_windows]
            order = sorted(mine, key=lambda i: -strength[i])
            windows += [_window(tokens, strength, i, split, order.index(i) * 10 // len(mine)) for i in mine]
            windows += [_window(tokens, strength, i, split, -1) for i in silent[part::2][:n_windows]]
        promoted = tuple((f" {word}{end}", 3.0) for end in ("", "s", "ed", "ing", "er"))
        found.append(LatentExamples(latent, len(peaks), 1e-3, 10.0, tuple(windows), promoted * 2))
    return found


def _window(tokens: list[str], strength: list[float], peak: int, split: str, quantile: int) -> Window:
    begin = peak - 24
    group = "quantile" if quantile >= 0 else "near_miss" if peak % 2 else "random"
    inside = slice(begin, begin + WINDOW_TOKENS)
    return Window(f"{split}/0/{peak}", split, group, quantile, 0, tuple(tokens[inside]), tuple(strength[inside]), 24)


def characters(requests: Sequence[Request]) -> int:
    """All that is sent: both turns and the schema."""
    return sum(len(r.system) + len(r.user) + len(json.dumps(r.schema, separators=(",", ":"))) for r in requests)


def counted(examples: LatentExamples, n_windows: int = 50) -> dict[str, tuple[int, int]]:
    """Requests and characters of each step for one latent, with defaults for all but the number of windows."""
    label = Explanation(examples.latent, "ok", "the word that names what a function gives back, in technical prose about programs")
    many = {"n_positive": n_windows, "n_negative": n_windows}
    steps = {
        "explanation": Default().requests(examples),
        "detection": Detection(**many).requests(label, examples, 0),
        "fuzzing": Fuzzing(**many).requests(label, examples, 0),
        "recall": Recall(**many).requests(label, examples, 0),
        "intruder": Intruder().requests(label, examples, 0),
        "simulation": Simulation().requests(label, examples, 0),
    }
    found = {step: (len(requests), characters(requests)) for step, requests in steps.items()}
    parts = [found[step] for step in ("explanation", "detection", "fuzzing")]
    return {**found, "all": (sum(n for n, _ in parts), sum(c for _, c in parts))}


def main() -> None:
    every = latents()
    windows = [w for examples in every for w in examples.windows]
    tokens = sum(len(w.tokens) for w in windows)
    per_token = sum(len(w.text) for w in windows) / tokens
    print(f"{len(every)} latents, {len(windows) // len(every)} windows each, {per_token:.2f} characters a token; means per latent\n")
    print(f"{'':14}{'requests':>10}{'characters':>12}{'delphi':>18}{'ours over theirs':>20}")
    counts = [counted(examples) for examples in every]
    for step in counts[0]:
        n, chars = (statistics.fmean(count[step][i] for count in counts) for i in range(2))
        theirs = DELPHI.get(step)
        beside = f"{theirs[0]:>8}{theirs[1]:>10,}{n / theirs[0]:>10.0%}{chars / theirs[1]:>10.0%}" if theirs else ""
        print(f"{step:14}{n:>10.1f}{chars:>12,.0f}{beside}")
    print("\nall: explanation, detection, fuzzing. Recall puts detection's questions, so beside it it costs nothing.")


if __name__ == "__main__":
    main()
