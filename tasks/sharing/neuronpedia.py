"""Neuronpedia's tables, as its importer reads them, checked row by row before they are written.

Source: hijohnnylin/neuronpedia (MIT), apps/webapp, ``app/api/admin/import``, ``lib/db/import.ts`` and ``prisma/schema.prisma``, and
SAEDashboard's writer of the same, ``sae_dashboard/neuronpedia/neuronpedia_export.py``, read in November 2026. The importer takes

    <model>/<layer>-<set>/release.jsonl model.jsonl sourceset.jsonl source.jsonl
                          features/batch-N.jsonl.gz activations/batch-N.jsonl.gz explanations/batch-N.jsonl.gz

and puts each line into the table of that name, by the columns of a file's first line: all lines of a file have the same fields.
Traps: ``index`` is text there; PostgreSQL takes no NUL; ``typeName`` and ``explanationModelName`` of an explanation are foreign
keys into lists that its people keep, so one that they do not list would end the import: they stay null, and ``notes`` says it.
The importer reads no scores; ``explanation-scores/batch-N.jsonl.gz`` has them as its exports do, with each latent's explanations.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.sharing.gathered import Gathered, Shown, Word, identity, short, sound
from tasks.spec import SpecError

CREATOR = "clkht01d40000jv08hvalcvly"
"""Id of the user whom Neuronpedia makes for data of its own, which every instance has."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Digits = Annotated[str, Field(pattern=r"^[0-9]+$")]


class Row(BaseModel):
    """A line of a file: its fields are Neuronpedia's columns."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _even(row: Row, *names: str) -> None:
    sizes = {name: len(getattr(row, name)) for name in names}
    if len(set(sizes.values())) > 1:
        raise ValueError("have different lengths: " + ", ".join(f"{name} {n}" for name, n in sizes.items()))


class Release(Row):
    name: Name
    description: str
    descriptionShort: str
    urls: list[str]
    creatorName: str
    creatorNameShort: str
    creatorId: str
    visibility: str = "PUBLIC"
    createdAt: str


class Model(Row):
    id: Name
    displayName: str
    displayNameShort: str
    creatorId: str
    instruct: bool
    layers: Count
    neuronsPerLayer: Count
    dimension: Count | None
    owner: str
    visibility: str = "PUBLIC"
    createdAt: str
    updatedAt: str


class SourceSet(Row):
    modelId: Name
    name: Name
    description: str
    type: str
    creatorName: str
    creatorId: str
    urls: list[str]
    releaseName: Name
    visibility: str = "PUBLIC"
    hasDashboards: bool = True
    createdAt: str


class Source(Row):
    id: Name
    modelId: Name
    setName: Name
    creatorId: str
    dataset: str | None
    num_prompts: Count | None
    num_tokens_in_prompt: Count | None
    hfRepoId: str | None
    hfFolderId: str | None
    notes: str
    visibility: str = "PUBLIC"
    hasDashboards: bool = True
    inferenceEnabled: bool = False
    createdAt: str


class Feature(Row):
    """A latent: a row of their table Neuron."""

    modelId: Name
    layer: Name
    index: Digits
    sourceSetName: Name
    creatorId: str
    createdAt: str
    maxActApprox: Annotated[float, Field(ge=0)]
    frac_nonzero: Share
    pos_str: list[str]
    pos_values: list[float]
    neg_str: list[str]
    neg_values: list[float]
    freq_hist_data_bar_values: list[float]
    freq_hist_data_bar_heights: list[Annotated[float, Field(ge=0)]]
    hasVector: bool = False

    @model_validator(mode="after")
    def _paired(self) -> Self:
        for names in (("pos_str", "pos_values"), ("neg_str", "neg_values")):
            _even(self, *names)
        _even(self, "freq_hist_data_bar_values", "freq_hist_data_bar_heights")
        return self


class OfLatent(Row):
    """What a latent has several of: a row with an id of its own."""

    id: Annotated[str, Field(pattern=r"^c[0-9a-f]{24}$")]
    modelId: Name
    layer: Name
    index: Digits


class Activation(OfLatent):
    """A window on which a latent fires."""

    creatorId: str
    createdAt: str
    tokens: Annotated[list[str], Field(min_length=1)]
    values: list[Annotated[float, Field(ge=0)]]
    maxValue: Annotated[float, Field(gt=0)]
    maxValueTokenIndex: Count
    minValue: Annotated[float, Field(ge=0)]
    binMin: float
    binMax: float
    binContains: Annotated[float, Field(ge=-1, le=1)]
    qualifyingTokenIndex: Count

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n = len(self.tokens)
        if len(self.values) != n:
            raise ValueError(f"have different lengths: tokens {n}, values {len(self.values)}")
        for name, place in (("maxValueTokenIndex", self.maxValueTokenIndex), ("qualifyingTokenIndex", self.qualifyingTokenIndex)):
            if place >= n:
                raise ValueError(f"{name} = {place} is beyond the {n} tokens")
        if self.binMin > self.binMax:
            raise ValueError(f"binMin = {self.binMin} is above binMax = {self.binMax}")
        return self


class Explanation(OfLatent):
    description: Annotated[str, Field(min_length=1)]
    authorId: str
    typeName: None = None
    explanationModelName: None = None
    notes: str
    createdAt: str
    updatedAt: str


class Score(Row):
    explanationId: str
    value: float
    explanationScoreTypeName: str
    explanationScoreModelName: str | None
    jsonDetails: str


class Scored(Row):
    """A latent's explanations with their scores, as exports have them and no importer reads them."""

    modelId: Name
    layer: Name
    index: Digits
    explanations: list[dict[str, Any]]


class Place(Row):
    """Where latents of an SAE stand on Neuronpedia."""

    model: Name
    layer: Count
    set: Name
    creator_id: str = CREATOR
    when: str

    @property
    def source(self) -> str:
        return f"{self.layer}-{self.set}"

    @cached_property
    def _common(self) -> dict[str, str]:
        return {"modelId": self.model, "layer": self.source}

    def feature(self, it: Gathered) -> Feature:
        """The row of a latent. Raises ``SpecError`` for what Neuronpedia would not take."""
        found = it.found
        return checked(
            Feature, it.latent, **self._common, index=str(it.latent), sourceSetName=self.set, creatorId=self.creator_id,
            createdAt=self.when, maxActApprox=short(found.max_value), frac_nonzero=found.density,
            pos_str=[sound(t) for t, _ in found.promoted], pos_values=[short(v) for _, v in found.promoted],
            neg_str=[sound(t) for t, _ in found.suppressed], neg_values=[short(v) for _, v in found.suppressed],
            freq_hist_data_bar_values=[v for v, _ in it.bars], freq_hist_data_bar_heights=[float(n) for _, n in it.bars],
        )  # fmt: skip

    def activation(self, it: Gathered, shown: Shown, mine: str) -> Activation:
        """The row of a window; ``mine`` is the artifact that it is of. Raises ``SpecError`` likewise."""
        window = shown.window
        values = [v and short(v) for v in window.values]  # nearly all are 0
        most = max(values, default=0.0)
        return checked(
            Activation, it.latent, id=identity(mine, it.latent, window.window_id), **self._common, index=str(it.latent),
            creatorId=self.creator_id, createdAt=self.when, tokens=list(map(sound, window.tokens)), values=values,
            maxValue=most, maxValueTokenIndex=values.index(most) if values else 0, minValue=min(values, default=0.0),
            binMin=short(shown.low), binMax=short(shown.high), binContains=short(shown.share),
            qualifyingTokenIndex=window.peak,
        )  # fmt: skip

    def explanation(self, it: Gathered, word: Word) -> Explanation:
        """The row of a label. Raises ``SpecError`` likewise."""
        scores = "; ".join(f"{s['scorer']}: {s['metric']} {s['value']:.3f}" for s in word.scores)
        by = f"SAINT, explainer {word.explainer}" + (f", model {word.model}" if word.model else "")
        when = _instant(word.when) or self.when
        return checked(
            Explanation, it.latent, id=identity(word.address, it.latent), **self._common, index=str(it.latent),
            description=sound(word.label), authorId=self.creator_id, notes=sound("; ".join(filter(None, [by, scores]))),
            createdAt=when, updatedAt=when,
        )  # fmt: skip

    def scored(self, it: Gathered) -> Scored:
        """The row of a latent's explanations with scores. Raises ``SpecError`` likewise."""
        found = []
        for word in it.words:
            id = identity(word.address, it.latent)
            scores = [
                checked(
                    Score, it.latent, explanationId=id, value=short(s["value"]), explanationScoreTypeName=sound(f"saint_{s['scorer']}"),
                    explanationScoreModelName=None, jsonDetails=_details(s),
                ).model_dump()
                for s in word.scores
            ]  # fmt: skip
            found.append({
                "id": id, "description": sound(word.label), "typeName": sound(f"saint_{word.kind}"),
                "explanationModelName": None if word.model is None else sound(word.model), "scores": scores,
            })  # fmt: skip
        return checked(Scored, it.latent, **self._common, index=str(it.latent), explanations=found)


def _details(score: dict[str, Any]) -> str:
    fields = {name: score[name] for name in ("metric", "low", "high", "n", "chance", "control_value")}
    return json.dumps({n: short(v) if isinstance(v, float) else v for n, v in fields.items()}, allow_nan=False)


def _instant(text: str) -> str:
    return text if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z?", text or "") else ""


def checked(kind: type[Any], latent: int | None, **fields: Any) -> Any:
    """A row of a kind. Raises ``SpecError`` that names latent and field for what the format does not take."""
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        whose = "" if latent is None else f"latent {latent}: "
        shown = f"{kind.__name__.lower()}{'.' + at if at else ''}"
        value = f" = {first['input']!r:.80}" if at else ""
        why = first["msg"].removeprefix("Value error, ")
        raise SpecError(
            f"{whose}{shown}{value}, but Neuronpedia takes no such thing ({why[0].lower() + why[1:]}); "
            + ("look at its windows (saint verify tells of damage)" if latent is not None else "name another")
        ) from None
