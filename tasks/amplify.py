"""Amplify: what a language model says when a latent is turned up, beside what it says untouched.

Each latent's strength is tuned until the model's next token has moved by a set KL divergence. Many latents share a
pass: rows of a batch differ in what is pushed. Prompts at even places are for explainers, the others for scorers, so
that no continuation is both shown and judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tasks.asking import Rows
from tasks.choosing import chosen, parsed_latents
from tasks.explainers.base import Amplified, LatentExamples
from tasks.lazy import pa, pq, torch
from tasks.resuming import Parts
from tasks.spec import Spec, SpecError
from tasks.stage import Job, Summary, stage
from tasks.steering.push import Positions

if TYPE_CHECKING:
    from torch import Tensor

    from artifacts.store import Opened
    from tasks.lm.contexts import Context
    from tasks.steering.subject import Subject

PROMPTS = (
    "The", "I think that", "It was", "In the", "My friend said", "There is a", "When we", "She looked at",
    "This is", "They want to", "At first,", "Here are some", "He told me about", "One of the", "Yesterday,", "You can",
)  # fmt: skip
"""Beginnings that leave open what follows."""

_BLOCK_LATENTS = 64
"""Latents worked on together."""

_MAX_LOGITS = 2**26
"""Numbers held for the next tokens of a block's prompts; a vocabulary of 256,000 makes 16 latents of 16 prompts."""

class AmplifySpec(Spec):
    """Which latents are turned up, how far, and what is asked of the model then."""

    latents: Annotated[str | tuple[int, ...], BeforeValidator(parsed_latents)] = "all"
    """As of the stage ``explain``. Latents that never fired are left out: there is no scale to turn them by."""

    prompts: tuple[str, ...] = PROMPTS
    """What the model goes on from. Short and neutral ones let the latent say what comes."""

    n_window_prompts: int = Field(0, ge=0)
    """Further prompts of each latent's own: beginnings of non-activating windows of the train split."""

    window_prompt_tokens: int = Field(12, ge=1)
    """Tokens of those, BOS included."""

    strength: float | None = None
    """Multiple of a latent's largest activation that is added; null tunes it to ``target_kl``."""

    target_kl: float = Field(0.5, gt=0)
    """KL divergence of the next token that a strength is tuned to, in nats, mean over prompts."""

    tolerance: float = Field(0.1, gt=0)
    """Share of ``target_kl`` by which it may be missed."""

    max_tries: int = Field(12, ge=1)
    """Measurements of a latent's KL divergence at most."""

    positions: Positions = "all"
    """``all`` tokens are pushed, or only from the ``last`` of the prompt on; BOS never is."""

    n_tokens: int = Field(24, ge=1)
    """Tokens of a continuation at most."""

    temperature: float = Field(1.0, ge=0)
    """Of the draws; 0 takes the likeliest token."""

    n_changes: int = Field(10, ge=1)
    """Tokens listed whose probability rises most, and falls most."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision that the language model computes in."""

    seed: int = 0
    """Of the draws."""


@stage("amplify", version=1, tags=("gpu",))
def amplify(job: Job[AmplifySpec]) -> Summary:
    """One row per latent that fired. Inputs: ``lm``, ``sae`` (of stage train), ``mine``."""
    from tasks.mine import examples
    from tasks.steering.subject import Subject

    spec, mined = job.spec, job.one("mine")
    subject = Subject.open(job.one("lm"), job.one("sae"), job.runtime, spec.dtype)
    latents = chosen(spec.latents, mined)
    maker = _Amplifying(spec, subject)
    done = Parts(job.attempt, "amplified.jsonl")
    with job.progress.bar("amplify", len(latents), "latents") as bar:
        for start in range(0, len(latents), maker.block_latents):
            block = list(latents[start : start + maker.block_latents])
            if str(block) not in done:
                alive = [one for one in examples(mined, block) if one.max_value > 0]
                done.add(str(block), maker.rows(alive))
            bar.advance(len(block))
    kls, strengths, n_reached = [], [], 0
    with Rows(job.out / "amplified.parquet", _schema()) as rows:
        for row in done.rows():
            rows.add(**row)
            kls.append(row["kl"])
            strengths.append(row["strength"])
            n_reached += row["reached"]
    return {
        "n": len(latents),
        "n_amplified": len(kls),
        "n_reached": n_reached,
        "median_kl": median(kls) if kls else None,
        "median_strength": median(strengths) if strengths else None,
        "hookpoint": subject.sae.hookpoint,
    }


class _Amplifying:
    """The subject, its prompts, and what it says of them untouched."""

    def __init__(self, spec: AmplifySpec, subject: Subject) -> None:
        self.spec, self.subject = spec, subject
        if not spec.prompts and not spec.n_window_prompts:
            raise SpecError("amplify.prompts = [], but a model goes on from something; write some, or set n_window_prompts")
        self.prompts = list(zip(spec.prompts, subject.prompts(spec.prompts, "amplify.prompts"), strict=True))
        longest, room = max((len(c.token_id) for _, c in self.prompts), default=0), subject.lm.context_length
        longest = max(longest, spec.window_prompt_tokens if spec.n_window_prompts else 0)
        if room is not None and longest + spec.n_tokens > room:
            raise SpecError(
                f"amplify.n_tokens = {spec.n_tokens}, but {subject.lm.name} reads at most {room} tokens and a prompt has "
                f"{longest}; use {max(1, room - longest)} or fewer"
            )
        self.texts = subject.lm.token_strings()
        n_numbers = (len(self.prompts) + spec.n_window_prompts) * len(self.texts)
        self.block_latents = max(1, min(_BLOCK_LATENTS, _MAX_LOGITS // n_numbers))
        self._said: dict[bytes, str] = {}

    def rows(self, block: Sequence[LatentExamples]) -> list[dict[str, Any]]:
        """A row of the table for each latent of a block."""
        from tasks.steering.effects import changes, kl, name_of, tuned_strengths, untouched
        from tasks.steering.push import Push, Row
        from tasks.steering.tuning import Tuned

        spec, subject = self.spec, self.subject
        # without prompts that all share, a latent may have none
        whose = [(one, own) for one in block if (own := self._prompts_of(one))]
        if not whose:
            return []
        block, named = zip(*whose, strict=True)
        prompts = [[context for _, context in own] for own in named]
        pushes = [Push(one.latent, spec.strength or 0.0, one.max_value) for one in block]
        found: list[Tuned] = [Tuned(push.strength, 0.0, True, 0) for push in pushes]
        if spec.strength is None:
            limits = {"tolerance": spec.tolerance, "max_tries": spec.max_tries}
            found = tuned_strengths(subject, pushes, prompts, spec.target_kl, spec.positions, **limits)
            pushes = [p._replace(strength=t.strength) for p, t in zip(pushes, found, strict=True)]
        rows = [Row(prompt, (push,)) for push, own in zip(pushes, prompts, strict=True) for prompt in own]
        log_p = untouched(subject, [row.prompt for row in rows], spec.positions)
        log_q_RV = subject.next_log_probs(rows, spec.positions)
        said = self._continued(rows)
        made, start = [], 0
        for one, own, t in zip(block, named, found, strict=True):
            place = slice(start, start + len(own))
            p, q = torch.stack([log_p[name_of(context)] for _, context in own]), log_q_RV[place]
            raised, lowered = changes(p[::2], q[::2], self.texts, spec.n_changes)
            made.append({
                "latent": one.latent, "strength": t.strength, "kl": _finite(kl(p, q).mean()), "reached": t.reached,
                "n_tries": t.n_tries, "raised": _listed(raised), "lowered": _listed(lowered),
                "prompts": [text for text, _ in own], "untouched": [self._said[name_of(context)] for _, context in own],
                "steered": said[place],
            })  # fmt: skip
            start += len(own)
        return made

    def _prompts_of(self, one: LatentExamples) -> list[tuple[str, Context]]:
        """The prompts that all latents share, and those of this latent's own."""
        if not self.spec.n_window_prompts:
            return self.prompts
        from tasks.lm.contexts import of_texts

        lm = self.subject.lm
        windows = [w.text for w in one.train(activating=False)]
        cut = of_texts(windows, lm.tokenizer, lm.bos_token_id, self.spec.window_prompt_tokens)
        own = [c for c in cut if c.keep.any()][: self.spec.n_window_prompts]
        return self.prompts + [(lm.tokenizer.decode(c.token_id.tolist(), skip_special_tokens=True), c) for c in own]

    def _continued(self, rows: Sequence[Any]) -> list[str]:
        """The continuation of each row; untouched ones of prompts that are new are kept aside."""
        from tasks.steering.effects import name_of
        from tasks.steering.push import Row

        spec = self.spec
        known = {name_of(context) for _, context in self.prompts}
        self._said = {name: text for name, text in self._said.items() if name in known}
        fresh = {name_of(row.prompt): Row(row.prompt) for row in rows if name_of(row.prompt) not in self._said}
        said = self.subject.continuations(
            [*fresh.values(), *rows], spec.n_tokens,
            temperature=spec.temperature, seed=spec.seed, positions=spec.positions,
        )  # fmt: skip
        self._said |= dict(zip(fresh, said, strict=False))
        return said[len(fresh) :]


def _finite(number: Tensor) -> float:
    """A number for files that hold none but finite ones: a model that broke has moved as far as can be told."""
    return float(torch.nan_to_num(number, nan=torch.finfo(torch.float32).max))


def _listed(changes: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"token": token, "change": change} for token, change in changes]


def _schema() -> pa.Schema:
    item = pa.list_(pa.struct([("token", pa.string()), ("change", pa.float32())]))
    texts = pa.list_(pa.string())
    return pa.schema(
        [
            ("latent", pa.int32()), ("strength", pa.float64()), ("kl", pa.float64()), ("reached", pa.bool_()),
            ("n_tries", pa.int32()), ("raised", item), ("lowered", item), ("prompts", texts), ("untouched", texts),
            ("steered", texts),
        ]
    )  # fmt: skip


def amplified(opened: Opened) -> Mapping[int, Amplified]:
    """What an amplify artifact holds, by latent; read from disk as it is asked for, some latents at a time."""
    return _Held(opened.path / "amplified.parquet")


class _Held(Mapping[int, Amplified]):
    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        groups = [self._file.read_row_group(g, ["latent"])["latent"].to_pylist() for g in range(self._file.num_row_groups)]
        self._place = {latent: (g, row) for g, latents in enumerate(groups) for row, latent in enumerate(latents)}
        self._group, self._table = -1, pa.table({})

    def __getitem__(self, latent: int) -> Amplified:
        group, row = self._place[latent]
        if group != self._group:
            self._group, self._table = group, self._file.read_row_group(group)
        held = self._table.slice(row, 1).to_pylist()[0]
        return Amplified(
            strength=held["strength"],
            kl=held["kl"],
            raised=tuple((t["token"], t["change"]) for t in held["raised"]),
            lowered=tuple((t["token"], t["change"]) for t in held["lowered"]),
            prompts=tuple(held["prompts"]),
            untouched=tuple(held["untouched"]),
            steered=tuple(held["steered"]),
        )

    def __iter__(self) -> Iterator[int]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)
