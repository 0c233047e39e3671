"""SAEs as other tools' files have them, written key by key, and what those tools make of activations, in plain numpy.

Nothing here knows the formats of ``tasks/formats``: what it reads is held against this. Shapes: d d_in, m n_latents.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

D, M, K = 16, 40, 5

Answer = tuple[np.ndarray, np.ndarray]
"""Latents (B, m), dense, and reconstructions."""


@dataclass
class Case:
    """A file of some format, and its tool's answer on raw activations."""

    path: Path
    answer: Callable[[np.ndarray], Answer]
    kind: str
    """Of ours."""

    format: str
    options: dict[str, Any] = field(default_factory=dict)
    hookpoint: str | None = None
    d_out: int = D


def drawn(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def inputs(n: int = 64, d: int = D) -> np.ndarray:
    """Raw activations: far from 0, and of no even scale."""
    return drawn(99, n, d) * np.linspace(0.5, 3, d, dtype=np.float32) + np.linspace(-1, 2, d, dtype=np.float32)


def relu(z: np.ndarray) -> np.ndarray:
    return np.maximum(z, 0)


def topk(z: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each row, the others 0."""
    kept = np.zeros_like(z)
    place = np.argsort(-z, axis=1, kind="stable")[:, :k]
    np.put_along_axis(kept, place, np.take_along_axis(z, place, 1), 1)
    return kept


def layer_normed(x: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = x.mean(1, keepdims=True)
    deviation = x.std(1, ddof=1, keepdims=True)
    return (x - mean) / (deviation + epsilon), mean, deviation


class Weights:
    """The numbers of an SAE, whose decoder rows are of any length."""

    def __init__(self, seed: int = 0, d: int = D, m: int = M, o: int | None = None) -> None:
        o = d if o is None else o
        self.enc = drawn(seed, m, d, scale=0.4)
        self.dec = drawn(seed + 1, m, o, scale=0.5)
        self.b_enc, self.b_dec = drawn(seed + 2, m, scale=0.3), drawn(seed + 3, o, scale=0.5)
        self.threshold = np.abs(drawn(seed + 4, m, scale=0.6))
        self.skip = drawn(seed + 5, o, d, scale=0.2)
        self.b_gate, self.b_mag, self.r_mag = (drawn(seed + i, m, scale=0.3) for i in (6, 7, 8))
        self.row = np.linalg.norm(self.dec, axis=1)

    def pre(self, x: np.ndarray, subtract: bool) -> np.ndarray:
        return ((x - self.b_dec) if subtract else x) @ self.enc.T + self.b_enc

    def out(self, f: np.ndarray) -> np.ndarray:
        return f @ self.dec + self.b_dec


def safetensors(path: Path, **tensors: np.ndarray) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.array(value, order="C") for name, value in tensors.items()}, path)


def pickle(path: Path, **values: Any) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    found = {n: torch.from_numpy(np.array(v, order="C")) if isinstance(v, np.ndarray) else v for n, v in values.items()}
    torch.save(found, path)


def config(path: Path, **values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


# SAELens


def saelens(folder: Path, architecture: str = "standard", w: Weights | None = None, **more: Any) -> Path:
    """A folder as save_inference_model writes it."""
    w = w or Weights()
    metadata = {
        "sae_lens_version": "6.54.12", "model_name": "gpt2-small", "hook_name": "blocks.7.hook_resid_pre", "hook_head_index": None,
        "dataset_path": "some/text", "context_size": 128, **more.pop("metadata", {}),
    }  # fmt: skip
    tensors = {"W_enc": w.enc.T, "W_dec": w.dec, "b_dec": w.b_dec}
    if architecture == "gated":
        tensors |= {"b_gate": w.b_gate, "b_mag": w.b_mag, "r_mag": w.r_mag}
    else:
        tensors["b_enc"] = w.b_enc
    if architecture.startswith("jumprelu"):
        tensors["threshold"] = w.threshold
    if "skip" in architecture:
        tensors["W_skip"] = w.skip
    tensors |= more.pop("tensors", {})
    safetensors(folder / "sae_weights.safetensors", **tensors)
    settings = {
        "d_in": w.enc.shape[1], "d_sae": len(w.enc), "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none", "architecture": architecture, "metadata": metadata, **more,
    }  # fmt: skip
    config(folder / "cfg.json", **settings)
    return folder


def saelens_cases(root: Path) -> dict[str, Case]:
    w, t = Weights(), Weights(20, o=8)

    def standard(x: np.ndarray) -> Answer:
        f = relu(w.pre(x, True))
        return f, w.out(f)

    def plain(x: np.ndarray) -> Answer:
        f = relu(w.pre(x, False))
        return f, w.out(f)

    def top(x: np.ndarray) -> Answer:
        f = relu(topk(w.pre(x, True), K))
        return f, w.out(f)

    def top_by_row(x: np.ndarray) -> Answer:
        f = relu(topk(w.pre(x, True) * w.row, K))
        return f, w.out(f / w.row)

    def jump(x: np.ndarray) -> Answer:
        z = w.pre(x, True)
        f = relu(z) * (z > w.threshold)
        return f, w.out(f)

    def gated(x: np.ndarray) -> Answer:
        e = (x - w.b_dec) @ w.enc.T
        f = (e + w.b_gate > 0) * relu(((x - w.b_dec) @ (w.enc.T * np.exp(w.r_mag))) + w.b_mag)
        return f, w.out(f)

    def normed(x: np.ndarray) -> Answer:
        y, mean, deviation = layer_normed(x, 1e-5)
        f = relu(topk(w.pre(y, True), K))
        return f, w.out(f) * deviation + mean

    def rescaled(x: np.ndarray) -> Answer:
        s = np.sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True)
        f = relu(w.pre(x * s, True))
        return f, w.out(f) / s

    def scaled(x: np.ndarray) -> Answer:
        f = relu(w.pre(x * 0.25, True))
        return f, w.out(f) / 0.25

    def batch(x: np.ndarray) -> Answer:
        # folded as SAELens does before it publishes: scale first, then rows; the threshold is in the units of both
        z = w.pre(x * 0.25, True) * w.row / 0.25
        f = relu(z) * (z > 0.5 / 0.25)
        return f, (f * 0.25 / w.row @ w.dec + w.b_dec) / 0.25

    matrix = np.linalg.qr(drawn(50, D, D))[0] * np.linspace(0.5, 2, D)
    mean = drawn(51, D).astype(np.float64)

    def whitened(x: np.ndarray) -> Answer:
        y = (x - mean) @ matrix
        f = relu(w.pre(y, True))
        return f, w.out(f) @ np.linalg.inv(matrix) + mean

    def across(skip: bool, threshold: bool) -> Callable[[np.ndarray], Answer]:
        def answer(x: np.ndarray) -> Answer:
            z = t.pre(x, False)
            f = relu(z) * (z > t.threshold) if threshold else relu(z)
            return f, t.out(f) + (x @ t.skip.T if skip else 0)

        return answer

    def case(name: str, answer: Callable[[np.ndarray], Answer], kind: str, architecture: str, **more: Any) -> Case:
        options = more.pop("options", {})
        at, d_out = more.pop("hookpoint", "layers.6"), more.pop("d_out", D)
        folder = saelens(root / name, architecture, **more)
        return Case(folder, answer, kind, "saelens", options, at, d_out)

    found = {
        "standard": case("standard", standard, "standard", "standard"),
        "no_b_dec": case("no_b_dec", plain, "standard", "standard", apply_b_dec_to_input=False),
        "topk": case("topk", top, "topk", "topk", k=K, rescale_acts_by_decoder_norm=False),
        "topk_rescale": case("topk_rescale", top_by_row, "topk", "topk", k=K, rescale_acts_by_decoder_norm=True),
        "jumprelu": case("jumprelu", jump, "jumprelu", "jumprelu"),
        "gated": case("gated", gated, "gated", "gated"),
        "layer_norm": case("layer_norm", normed, "topk", "topk", k=K, normalize_activations="layer_norm"),
        "constant_norm": case("constant_norm", rescaled, "standard", "standard", normalize_activations="constant_norm_rescale"),
        "scale_given": case(
            "scale_given", scaled, "standard", "standard", normalize_activations="expected_average_only_in", options={"scale": 0.25}
        ),
        "batchtopk_checkpoint": case(
            "batchtopk_checkpoint", batch, "batchtopk", "batchtopk", k=K, rescale_acts_by_decoder_norm=True,
            normalize_activations="expected_average_only_in", tensors={"topk_threshold": np.array(0.5)},
        ),
        "whitening_checkpoint": case(
            "whitening_checkpoint", whitened, "standard", "standard", normalize_activations="covariance_whitening"
        ),
    }  # fmt: skip
    config(root / "batchtopk_checkpoint" / "activation_scaler.json", scaling_factor=0.25, has_whitening=False)
    config(root / "whitening_checkpoint" / "activation_scaler.json", scaling_factor=None, has_whitening=True)
    safetensors(
        root / "whitening_checkpoint" / "activation_whitening.safetensors", mean=mean, matrix=matrix, inverse_matrix=np.linalg.inv(matrix)
    )
    hooks = {"hook_name": "blocks.3.mlp.hook_in", "hook_name_out": "blocks.3.hook_mlp_out"}
    for skip in (False, True):
        for threshold in (False, True):
            name = ("jumprelu_" if threshold else "") + ("skip_" if skip else "") + "transcoder"
            found[name] = case(
                name, across(skip, threshold), "jumprelu" if threshold else "standard", name, w=t, d_out=8, apply_b_dec_to_input=False,
                metadata=hooks, hookpoint="layers.3.mlp_in:layers.3.mlp",
            )  # fmt: skip
    old = root / "old"
    ones = np.ones(M, np.float32)
    safetensors(old / "sae_weights.safetensors", W_enc=w.enc.T, W_dec=w.dec, b_enc=w.b_enc, b_dec=w.b_dec, scaling_factor=ones)
    config(
        old / "cfg.json", d_in=D, d_sae=M, model_name="gpt2-small", hook_point="blocks.0.hook_resid_pre", hook_point_layer=0,
        activation_fn_str="topk", activation_fn_kwargs={"k": K}, normalize_activations=False, architecture="standard",
    )  # fmt: skip
    found["before_6_topk"] = Case(old, top, "topk", "saelens", hookpoint="embed")
    return found


# sparsify


def sparsify(folder: Path, w: Weights | None = None, drop: tuple[str, ...] = (), **settings: Any) -> Path:
    w = w or Weights(30)
    skip = {"W_skip": w.skip} if settings.get("skip_connection") else {}
    safetensors(folder / "sae.safetensors", **{"encoder.weight": w.enc, "encoder.bias": w.b_enc}, W_dec=w.dec, b_dec=w.b_dec, **skip)
    found = {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 0, "k": K, "multi_topk": False,
        "skip_connection": False, "transcode": False, "d_in": D, **settings,
    }  # fmt: skip
    config(folder / "cfg.json", **{name: value for name, value in found.items() if name not in drop})
    return folder


def sparsify_cases(root: Path) -> dict[str, Case]:
    w = Weights(30)

    def top(subtract: bool = True, skip: bool = False) -> Callable[[np.ndarray], Answer]:
        def answer(x: np.ndarray) -> Answer:
            f = topk(relu(w.pre(x, subtract)), K)
            return f, w.out(f) + (x @ w.skip.T if skip else 0)

        return answer

    def groups(x: np.ndarray) -> Answer:
        z = relu(w.pre(x, True)).reshape(len(x), K, M // K)
        f = np.where(z == z.max(2, keepdims=True), z, 0).reshape(len(x), M)
        return f, w.out(f)

    old = ("activation", "skip_connection", "transcode", "multi_topk")
    return {
        "topk": Case(sparsify(root / "layers.4"), top(), "topk", "sparsify", hookpoint="layers.4"),
        "seed": Case(sparsify(root / "layers.5" / "seed1"), top(), "topk", "sparsify", hookpoint="layers.5"),
        "old": Case(sparsify(root / "embed_tokens", drop=old), top(), "topk", "sparsify", hookpoint="embed"),
        "groupmax": Case(sparsify(root / "h.2.mlp", activation="groupmax"), groups, "topk", "sparsify", hookpoint="layers.2.mlp"),
        "transcoder": Case(
            sparsify(root / "layers.2.mlp", transcode=True), top(False), "topk", "sparsify", hookpoint="layers.2.mlp_in:layers.2.mlp"
        ),
        "skip": Case(
            sparsify(root / "layers.3.mlp", transcode=True, skip_connection=True), top(False, True), "topk", "sparsify",
            hookpoint="layers.3.mlp_in:layers.3.mlp",
        ),
    }  # fmt: skip


# dictionary_learning


def dictionary_learning(folder: Path, architecture: str, w: Weights, name: str = "ae.pt", **values: Any) -> Path:
    linear = {"encoder.weight": w.enc, "decoder.weight": w.dec.T}
    matrices = {"W_enc": w.enc.T, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec}
    found = {
        "AutoEncoder": {**linear, "encoder.bias": w.b_enc, "bias": w.b_dec},
        "AutoEncoderNew": {**linear, "encoder.bias": w.b_enc, "decoder.bias": w.b_dec},
        "GatedAutoEncoder": {**linear, "decoder_bias": w.b_dec, "r_mag": w.r_mag, "gate_bias": w.b_gate, "mag_bias": w.b_mag},
        "JumpReluAutoEncoder": {**matrices, "threshold": w.threshold},
        "AutoEncoderTopK": {**linear, "encoder.bias": w.b_enc, "b_dec": w.b_dec},
        "BatchTopKSAE": {**linear, "encoder.bias": w.b_enc, "b_dec": w.b_dec},
        "MatryoshkaBatchTopKSAE": {**matrices, "group_sizes": np.array([8, 8, 24])},
    }[architecture]
    if "TopK" in architecture:
        found |= {"k": np.array(K, np.int32), "threshold": np.array(-1.0, np.float32)}
    pickle(folder / name, **{**found, **values})
    trainer = {"dict_class": architecture, "lm_name": "EleutherAI/pythia-70m", "layer": 3, "submodule_name": "resid_post_layer_3"}
    config(folder / "config.json", trainer={"activation_dim": D, "dict_size": M, **trainer})
    return folder


def dictionary_learning_cases(root: Path) -> dict[str, Case]:
    w = Weights(60)

    def standard(x: np.ndarray) -> Answer:
        f = relu(w.pre(x, True)) * w.row  # as from_pretrained gives them: rows are brought to length 1
        return f, f / w.row @ w.dec + w.b_dec

    def new(x: np.ndarray) -> Answer:
        f = relu(w.pre(x, False))
        return f, w.out(f)

    def gated(x: np.ndarray) -> Answer:
        e = (x - w.b_dec) @ w.enc.T
        f = (e + w.b_gate > 0) * relu(np.exp(w.r_mag) * e + w.b_mag)
        return f, w.out(f)

    def jump(x: np.ndarray) -> Answer:
        z = w.pre(x, False)
        f = relu(z * (z > w.threshold))
        return f, w.out(f)

    def top(x: np.ndarray) -> Answer:
        f = topk(relu(w.pre(x, True)), K)
        return f, w.out(f)

    def above(threshold: float) -> Callable[[np.ndarray], Answer]:
        def answer(x: np.ndarray) -> Answer:
            z = relu(w.pre(x, True))
            f = z * (z > threshold)
            return f, w.out(f)

        return answer

    def scaled(x: np.ndarray) -> Answer:  # biases times 2 and the threshold, weights as they are
        z = relu((x - 2 * w.b_dec) @ w.enc.T + 2 * w.b_enc)
        f = z * (z > 1.4)
        return f, f @ w.dec + 2 * w.b_dec

    some = np.array(0.7, np.float32)
    at = {"hookpoint": "layers.3", "options": {"allow_pickle": True}}
    kinds = {
        "AutoEncoder": ("standard", standard), "AutoEncoderNew": ("standard", new), "GatedAutoEncoder": ("gated", gated),
        "JumpReluAutoEncoder": ("jumprelu", jump), "AutoEncoderTopK": ("topk", top), "BatchTopKSAE": ("batchtopk", above(0.7)),
        "MatryoshkaBatchTopKSAE": ("matryoshka", above(0.7)),
    }  # fmt: skip
    found = {}
    for name, (kind, answer) in kinds.items():
        more = {"threshold": some} if "Batch" in name else {}
        folder = dictionary_learning(root / name, name, w, **more)
        found[name] = Case(folder, answer, kind, "dictionary_learning", **at)
    never = dictionary_learning(root / "never", "BatchTopKSAE", w)
    found["never_set"] = Case(never, above(-1.0), "batchtopk", "dictionary_learning", **at)
    step = dictionary_learning(root / "run", "AutoEncoderTopK", w, "checkpoints/ae_500.pt") / "checkpoints" / "ae_500.pt"
    found["checkpoint"] = Case(step, top, "topk", "dictionary_learning", **at)
    alone = dictionary_learning(root / "alone", "GatedAutoEncoder", w) / "ae.pt"
    (root / "alone" / "config.json").unlink()
    found["without_config"] = Case(alone, gated, "gated", "dictionary_learning", {"allow_pickle": True})
    import torch

    backup = dictionary_learning(root / "backup", "BatchTopKSAE", w, threshold=some)
    inner = torch.load(backup / "ae.pt", weights_only=True)
    torch.save({"step": 100, "ae": inner, "optimizer": {"state": {}}, "config": {}, "norm_factor": 2.0}, backup / "ae.pt")
    found["backup"] = Case(backup, scaled, "batchtopk", "dictionary_learning", **at)
    return found


# one file and its path


def openai(path: Path, w: Weights, activation: str, **values: Any) -> Path:
    state = {"activation": activation, "activation_state_dict": {"k": K, "postact_fn": "ReLU"}} if activation else {}
    pickle(
        path, pre_bias=w.b_dec, latent_bias=w.b_enc, stats_last_nonzero=np.zeros(M, np.int64),
        **{"encoder.weight": w.enc, "decoder.weight": w.dec.T}, **state, **values,
    )  # fmt: skip
    return path


def single_cases(root: Path) -> dict[str, Case]:
    w, t = Weights(80), Weights(110, o=8)
    pickled = {"allow_pickle": True}

    def top_normed(epsilon: float, back: bool, f_of: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], Answer]:
        def answer(x: np.ndarray) -> Answer:
            y, mean, deviation = layer_normed(x, epsilon)
            f = f_of(w.pre(y, True))
            return f, w.out(f) * (deviation + (epsilon if back else 0)) + mean

        return answer

    def some(z: np.ndarray) -> np.ndarray:
        return relu(topk(z, K))

    def standard(x: np.ndarray) -> Answer:
        f = relu(w.pre(x, True))
        return f, w.out(f)

    def plain(x: np.ndarray) -> Answer:
        f = relu(w.pre(x, False))
        return f, w.out(f)

    def plain_top(x: np.ndarray) -> Answer:
        f = relu(topk(w.pre(x, False), K))
        return f, w.out(f)

    def across(x: np.ndarray) -> Answer:
        f = relu(t.pre(x, False))
        return f, t.out(f)

    found = {
        "openai_topk": Case(
            openai(root / "resid_post_mlp_v5_32k" / "autoencoders" / "7.pt", w, "TopK"), top_normed(1e-5, False, some), "topk",
            "openai", pickled, "layers.7",
        ),
        "openai_relu": Case(
            openai(root / "mlp_post_act_v1" / "autoencoders" / "2.pt", w, "ReLU"), standard, "standard", "openai", pickled,
            "layers.2.mlp_act",
        ),
    }  # fmt: skip
    mine = {"b_pre": w.b_dec, "encoder.weight": w.enc, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T}
    log = np.log(np.maximum(w.threshold, 1e-3))
    for name, more, options, kind, f_of in (
        ("topk", {}, {"k": K}, "topk", some),
        ("relu", {}, {"architecture": "relu"}, "standard", relu),
        ("batchtopk", {"threshold": np.array(0.6, np.float32)}, {"k": K}, "batchtopk", lambda z: relu(z) * (relu(z) > 0.6)),
        ("jumprelu", {"log_threshold": log}, {}, "jumprelu", lambda z: relu(z) * (relu(z) > np.exp(log))),
    ):
        pickle(root / f"saint_{name}.pt", **mine, **more)
        answer = top_normed(1e-6, True, f_of)
        found[f"saint_{name}"] = Case(root / f"saint_{name}.pt", answer, kind, "saint", {**pickled, **options})
    goodfire = root / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    pickle(goodfire, **{
        "encoder_linear.weight": w.enc, "encoder_linear.bias": w.b_enc, "decoder_linear.weight": w.dec.T, "decoder_linear.bias": w.b_dec,
    })  # fmt: skip
    found["goodfire"] = Case(goodfire, plain, "standard", "goodfire", pickled, "layers.19")
    deepseek = root / "r1" / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    pickle(deepseek, **{"encoder.weight": w.enc, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T, "decoder.bias": w.b_dec})
    found["deepseek_r1"] = Case(deepseek, plain, "standard", "deepseek_r1", pickled, "layers.19")
    qwen = root / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}" / "layer4.sae.pt"
    pickle(qwen, W_enc=w.enc, W_dec=w.dec.T, b_enc=w.b_enc, b_dec=w.b_dec)
    found["qwen_scope"] = Case(qwen, plain_top, "topk", "qwen_scope", pickled, "layers.4")
    mwhanna = root / "qwen3-transcoders" / "layer_5.safetensors"
    safetensors(mwhanna, W_enc=t.enc, W_dec=t.dec, b_enc=t.b_enc, b_dec=t.b_dec)
    (mwhanna.parent / "config.yaml").write_text("model_name: Qwen/Qwen3-0.6B\n")
    found["mwhanna"] = Case(mwhanna, across, "standard", "mwhanna", {}, "layers.5.mlp_in:layers.5.mlp", 8)
    return found


def own_cases(root: Path) -> dict[str, Case]:
    """What SAINT's store has; a rule for its tensors' names that ``tasks/trained.py`` shall not change by mistake."""
    w, mean, scale = Weights(130), np.linspace(-1, 1, D, dtype=np.float32), np.float32(2.5)
    said = {"format": "saint-sae", "version": 1, "hookpoint": "layers.4", "d_in": D, "n_latents": M, "model": "gpt2"}

    def top(x: np.ndarray) -> Answer:
        f = relu(topk(w.pre((x - mean) / scale, True), K))
        return f, w.out(f) * scale + mean

    spec = {"kind": "topk", "k": K, "n_latents": M, "expansion_factor": None, "aux_coefficient": 0.03125, "k_aux": None}
    config(root / "own" / "sae.json", **said, spec=spec, norm={"kind": "rms"})
    tensors = {"W_enc_ND": w.enc, "b_enc_N": w.b_enc, "W_dec_ND": w.dec, "b_dec_D": w.b_dec}
    safetensors(root / "own" / "sae.safetensors", **tensors, **{"norm.mean": mean, "norm.scale": np.array(scale)})
    return {"topk": Case(root / "own", top, "topk", "saint_sae", {}, "layers.4")}


def scope_cases(root: Path) -> dict[str, Case]:
    w, t = Weights(140), Weights(170, o=8)

    def jump(x: np.ndarray) -> Answer:
        z = w.pre(x, False)
        f = relu(z) * (z > w.threshold)
        return f, w.out(f)

    def embedded(x: np.ndarray) -> Answer:
        z = x / np.sqrt(D) @ w.enc.T + w.b_enc  # of the embedding, which the model multiplies by sqrt(d)
        f = relu(z) * (z > w.threshold)
        return f, np.sqrt(D) * (f @ w.dec + w.b_dec)

    def across(x: np.ndarray) -> Answer:
        z = t.pre(x, False)
        f = relu(z) * (z > t.threshold)
        return f, t.out(f) + x @ t.skip.T

    s_in, s_out = np.sqrt(D) / 10.81, np.sqrt(D) / 6.31

    def llama(s_out: float, threshold: float) -> Callable[[np.ndarray], Answer]:
        def answer(x: np.ndarray) -> Answer:
            b_enc, b_dec, dec = w.b_enc / s_in, w.b_dec / s_out, w.dec * s_in / s_out
            n = np.linalg.norm(dec, axis=1)
            z = x @ (w.enc * n[:, None]).T + b_enc * n
            f = z * (z > threshold)
            return f, f @ (dec / n[:, None]) + b_dec

        return answer

    def newer(x: np.ndarray) -> Answer:
        z = (x * s_in) @ w.enc.T + w.b_enc
        f = relu(z) * (z * w.row > w.threshold)  # their latents
        unit = f * w.row / s_in  # in units of rows of length 1 and of raw activations
        return unit, (f @ w.dec + w.b_dec) / s_in

    gemma = {"W_enc": w.enc.T, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": w.threshold}
    one = root / "gemma-scope-2b-pt-res" / "layer_12" / "width_16k" / "average_l0_82"
    embedding = root / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_111"
    for folder in (one, embedding):
        folder.mkdir(parents=True)
        np.savez(folder / "params.npz", **gemma)
    two = root / "gemma-scope-2-1b-pt" / "resid_post" / "layer_7_width_16k_l0_small"
    safetensors(two / "params.safetensors", **{name.lower(): value for name, value in gemma.items()})
    affine = root / "gemma-scope-2-1b-pt" / "transcoder" / "layer_3_width_16k_l0_big_affine"
    safetensors(
        affine / "params.safetensors", w_enc=t.enc.T, w_dec=t.dec, b_enc=t.b_enc, b_dec=t.b_dec, threshold=t.threshold,
        affine_skip_connection=t.skip.T,
    )  # fmt: skip
    config(
        affine / "config.json", architecture="jump_relu", model_name="google/gemma-3-1b-pt", affine_connection=True,
        hf_hook_point_in="model.layers.3.pre_feedforward_layernorm.output",
        hf_hook_point_out="model.layers.3.post_feedforward_layernorm.output",
    )  # fmt: skip
    linear = {"encoder.weight": w.enc, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T, "decoder.bias": w.b_dec}
    scope = root / "Llama3_1-8B-Base-LXR-8x" / "Llama3_1-8B-Base-L15R-8x"
    safetensors(scope / "checkpoints" / "final.safetensors", **linear)
    about = {
        "d_model": D, "d_sae": M, "act_fn": "jumprelu", "norm_activation": "dataset-wise", "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False, "sparsity_include_decoder_norm": True, "top_k": 50,
    }  # fmt: skip
    r, tc = "blocks.15.hook_resid_post", "blocks.8.hook_mlp_out"
    norms = {"in": 10.81, "out": 10.81}
    config(
        scope / "hyperparams.json", **about, hook_point_in=r, hook_point_out=r, jump_relu_threshold=0.3555,
        dataset_average_activation_norm=norms,
    )  # fmt: skip
    transcoder = root / "Llama3_1-8B-Base-LXTC-8x" / "Llama3_1-8B-Base-L8TC-8x"
    safetensors(transcoder / "checkpoints" / "final.safetensors", **linear)
    config(
        transcoder / "hyperparams.json", **about, hook_point_in="blocks.8.ln2.hook_normalized", hook_point_out=tc,
        jump_relu_threshold=0.2, dataset_average_activation_norm={"in": 10.81, "out": 6.31},
    )  # fmt: skip
    new = root / "new" / "L15R"
    norm = {f"dataset_average_activation_norm.{r}": np.array(10.81, np.float32)}
    log = np.log(np.maximum(w.threshold, 1e-6))
    safetensors(
        new / "sae_weights.safetensors", W_E=w.enc.T, W_D=w.dec, b_E=w.b_enc, b_D=w.b_dec, **norm,
        **{"activation_function.log_jumprelu_threshold": log},
    )  # fmt: skip
    distill = root / "distill" / "L15R"
    safetensors(distill / "sae_weights.safetensors", **linear, log_jumprelu_threshold=log)
    shared = {"d_model": D, "expansion_factor": 3, "hook_point_in": r, "hook_point_out": r, "sparsity_include_decoder_norm": True}
    config(new / "config.json", **shared)
    config(distill / "config.json", **shared, dataset_average_activation_norm={r: 10.81})
    return {
        "gemma_1": Case(one, jump, "jumprelu", "gemma_scope", {}, "layers.12"),
        "gemma_1_embedding": Case(embedding, embedded, "jumprelu", "gemma_scope", {}, "embed"),
        "gemma_2": Case(two, jump, "jumprelu", "gemma_scope", {}, "layers.7"),
        "gemma_2_affine": Case(affine, across, "jumprelu", "gemma_scope", {}, "layers.3.mlp_in:layers.3.mlp", 8),
        "llama_scope": Case(scope, llama(s_in, 0.3555), "jumprelu", "llama_scope", {}, "layers.15"),
        "llama_scope_transcoder": Case(transcoder, llama(s_out, 0.2), "jumprelu", "llama_scope", {}, "layers.8.mlp_in:layers.8.mlp"),
        "llama_scope_newest": Case(new, newer, "jumprelu", "llama_scope", {}, "layers.15"),
        "llama_scope_distill": Case(distill, newer, "jumprelu", "llama_scope", {}, "layers.15"),
    }


def every_case(root: Path) -> dict[str, Case]:
    """All of them, by format and name."""
    makers = {
        "saelens": saelens_cases, "sparsify": sparsify_cases, "dictionary_learning": dictionary_learning_cases,
        "single": single_cases, "scope": scope_cases, "own": own_cases,
    }  # fmt: skip
    return {f"{name}-{case}": found for name, make in makers.items() for case, found in make(root / name).items()}
