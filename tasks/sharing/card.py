"""The card of a published SAE: a README with a front matter that the hub reads. All foreign text in it is escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from tasks.explainers.base import one_line
from tasks.sharing.escaping import code, markdown
from tasks.spec import SpecError

TAGS = ("sparse-autoencoder", "interpretability", "mechanistic-interpretability", "saint")

_REPO = r"[A-Za-z0-9][A-Za-z0-9._-]*"


def repo_id(text: str, where: str = "REPO_ID") -> str:
    """The id of a repository on the hub. Raises ``SpecError`` for what cannot be one."""
    odd = any(bad in text for bad in ("--", "..", ".git/")) or text.endswith((".git", "-", "."))
    if odd or not re.fullmatch(rf"{_REPO}/{_REPO}", text):
        raise SpecError(
            f"{where} = {text!r}, but a repository is OWNER/NAME of letters, digits, '-', '_' and '.'; write it as in me/gpt2-sae-layer-8"
        )
    return text


def licence(text: str) -> str:
    """A license by the name that the hub has for it. Raises ``SpecError`` for what cannot be one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,63}", text):
        raise SpecError(f"--license = {text!r}, but the hub has names such as mit, apache-2.0, cc-by-4.0, gemma, llama3.2, other; use one")
    return text


def front_matter(
    license: str, base_model: str | None, dataset: str | None, library: str | None, title: str, metrics: Mapping[str, float],
) -> str:
    """YAML between lines of dashes. ``metrics`` are those of the evaluation, by name."""
    from huggingface_hub import EvalResult, ModelCardData

    title, dataset = one_line(title), one_line(dataset) if dataset else None
    results = [
        EvalResult(
            task_type="feature-extraction", task_name="Sparse reconstruction of activations", dataset_type=dataset or "custom",
            dataset_name=dataset or "held-out texts", metric_type=name, metric_name=name.replace("_", " "), metric_value=value,
        )
        for name, value in metrics.items()
    ]  # fmt: skip
    data = ModelCardData(
        license=license, base_model=base_model, datasets=[dataset] if dataset else None, library_name=library, tags=list(TAGS),
        model_name=title, eval_results=results or None,
    )  # fmt: skip
    return f"---\n{data.to_yaml().strip()}\n---\n"


def body(shown: Mapping[str, Any]) -> str:
    """The page below the front matter."""
    from jinja2 import Environment, StrictUndefined

    page = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    page.filters |= {"md": markdown, "code": code}
    text = files("tasks.sharing").joinpath("card.md.j2").read_text("utf-8")
    return re.sub(r"\n{3,}", "\n\n", page.from_string(text).render(**shown))


STRENGTH = 0.8
"""Of its largest activation, at which a latent is shown at work: more often gives garbage than it shows more."""

_BLOCKS = {"gpt2": "transformer.h", "gpt_neo": "transformer.h", "gptj": "transformer.h", "gpt_neox": "gpt_neox.layers"}
_LLAMAS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "olmo3", "phi", "phi3", "stablelm", "smollm3",
)  # fmt: skip


def uses(
    repo: str, folder: str, format: str, hookpoint: str, lm: Mapping[str, Any], labelled: bool, latent: int, amount: float
) -> Sequence[tuple[str, str, str]]:
    """Name, language and lines of each way to use it. ``latent`` is one worth steering with, ``amount`` its largest activation."""
    hub_id = lm.get("hub_id")
    found = [
        (
            "SAINT: look, explain, steer",
            "bash",
            f"saint import sae.repo={repo} sae.subfolder={folder} lm=hf lm.path={hub_id or 'MODEL'}\n"
            + ("saint explain adopt/KEY explainer=load explainer.path=explanations.parquet   # the labels here\n" if labelled else "")
            + f'saint steer adopt/KEY "Once upon a time" --latent {latent}={STRENGTH}',
        )
    ]
    if format != "saelens":
        return found
    lens = (
        f'from sae_lens import SAE\nsae = SAE.from_pretrained("{repo}", "{folder}")\n'
        "latents = sae.encode(activations)   # (..., d_in) to (..., d_sae), of sae.cfg.metadata.hook_name"
    )
    found.insert(0, ("SAE Lens", "python", lens))
    kind = lm.get("model_type")
    blocks = "model.layers" if kind in _LLAMAS else _BLOCKS.get(str(kind))
    if blocks and (at := re.fullmatch(r"layers\.(\d+)", hookpoint)) and amount > 0:
        found.append((
            f"Steering in plain transformers, with latent {latent} at {STRENGTH} of its largest activation, one prompt at a time",
            "python",
            "from huggingface_hub import hf_hub_download; from safetensors.torch import load_file\n"
            f'row = load_file(hf_hub_download("{repo}", "{folder}/sae_weights.safetensors"))["W_dec"][{latent}]\n\n'
            "def push(module, arguments, out):\n"
            "    x = out[0] if isinstance(out, tuple) else out\n"
            "    first = int(x.shape[1] > 1)   # of a prompt not the first token: BOS is a sink of attention\n"
            f"    x[:, first:] += {STRENGTH} * {amount:.4g} * row.to(x)\n\n"
            f'handle = model.get_submodule("{blocks}.{at[1]}").register_forward_hook(push)   # handle.remove() ends it',
        ))  # fmt: skip
    return found
