"""The subject of an experiment: a language model, and an SAE at one of its hookpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.lm.language_model import LanguageModel
    from tasks.trained import TrainedSAE


@dataclass
class Subject:
    """Both of them, opened, on one device."""

    lm: LanguageModel
    sae: TrainedSAE
