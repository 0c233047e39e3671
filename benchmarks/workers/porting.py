"""In a peer's environment: its SAEs written with perturbed weights, or ours read by it; each with what it makes of activations.

    python porting.py PEER write|read FOLDER

``write`` makes FOLDER/<case>/ as the peer saves it; ``read`` opens every FOLDER/<case>/ as the peer loads it. Both put
``answer.npz`` beside: latents (dense) and reconstructions of FOLDER/inputs.npy. Nothing of ours is imported here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

N_LATENTS, K = 160, 6


def perturbed(module: Any, seed: int = 0) -> None:
    """Weights that are nobody's initial ones: no two tensors tied, no bias 0, no row of length 1."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.add_(torch.randn(tensor.shape, generator=draw) * (0.3 if tensor.dim() == 1 else 0.2))
            if "threshold" in name:
                tensor.abs_()


Answers = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def answered(folder: Path, answer: Answers, x_BD: torch.Tensor) -> None:
    """Write what a peer makes of activations."""
    with torch.no_grad():
        f, x_hat = answer(x_BD)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "answer.npz", f=f.float().numpy(), x_hat=x_hat.float().numpy())


# SAELens


def lens_write(top: Path, x_BD: torch.Tensor) -> None:
    from sae_lens.saes import (
        AbsTopKSAE,
        AbsTopKSAEConfig,
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        GatedSAE,
        GatedSAEConfig,
        GatedTrainingSAE,
        GatedTrainingSAEConfig,
        JumpReLUSAE,
        JumpReLUSAEConfig,
        JumpReLUSkipTranscoder,
        JumpReLUSkipTranscoderConfig,
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        JumpReLUTranscoder,
        JumpReLUTranscoderConfig,
        MatchingPursuitSAE,
        MatchingPursuitSAEConfig,
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        SkipTranscoder,
        SkipTranscoderConfig,
        StandardSAE,
        StandardSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TemporalSAE,
        TemporalSAEConfig,
        TopKSAE,
        TopKSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
        Transcoder,
        TranscoderConfig,
    )  # fmt: skip
    from sae_lens.saes import sae as base
    from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening

    d = x_BD.shape[1]
    about = {"d_in": d, "d_sae": N_LATENTS, "device": "cpu", "dtype": "float32"}
    hook = base.SAEMetadata(model_name="gpt2-small", hook_name="blocks.5.hook_resid_pre")
    both = base.SAEMetadata(model_name="gpt2-small", hook_name="blocks.5.mlp.hook_in", hook_name_out="blocks.5.hook_mlp_out")

    plain = {
        "standard": (StandardSAE, StandardSAEConfig, {}),
        "standard, no b_dec": (StandardSAE, StandardSAEConfig, {"apply_b_dec_to_input": False}),
        "standard, layer_norm": (StandardSAE, StandardSAEConfig, {"normalize_activations": "layer_norm"}),
        "standard, constant_norm_rescale": (StandardSAE, StandardSAEConfig, {"normalize_activations": "constant_norm_rescale"}),
        "gated": (GatedSAE, GatedSAEConfig, {}),
        "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
        "topk": (TopKSAE, TopKSAEConfig, {"k": K}),
        "topk, rescale": (TopKSAE, TopKSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": True}),
        "refused: abstopk": (AbsTopKSAE, AbsTopKSAEConfig, {"k": K}),
        "refused: matching_pursuit": (MatchingPursuitSAE, MatchingPursuitSAEConfig, {}),
        "refused: temporal": (TemporalSAE, TemporalSAEConfig, {"n_heads": 2, "bottleneck_factor": 4}),
    }
    for name, (cls, settings, more) in plain.items():
        made = cls(settings(**about, metadata=hook, **more))
        perturbed(made)
        made.save_model(top / name)
        if not name.startswith("refused"):
            answered(top / name, lambda x, made=made: _lens(made, x), x_BD)
    across = {
        "transcoder": (Transcoder, TranscoderConfig), "skip_transcoder": (SkipTranscoder, SkipTranscoderConfig),
        "jumprelu_transcoder": (JumpReLUTranscoder, JumpReLUTranscoderConfig),
        "jumprelu_skip_transcoder": (JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig),
    }  # fmt: skip
    for name, (cls, settings) in across.items():
        made = cls(settings(**about, d_out=d - 8, apply_b_dec_to_input=False, metadata=both))
        perturbed(made)
        made.save_model(top / name)
        answered(top / name, lambda x, made=made: _lens(made, x), x_BD)
    training = {
        "standard": (StandardTrainingSAE, StandardTrainingSAEConfig, {}),
        "gated": (GatedTrainingSAE, GatedTrainingSAEConfig, {}),
        "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, {}),
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": K}),
        "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": K}),
        "matryoshka": (
            MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig, {"k": K, "matryoshka_widths": [20, 80, N_LATENTS]},
        ),
    }  # fmt: skip
    mean, draw = x_BD.double().mean(0), torch.Generator().manual_seed(4)
    turn = torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float64))[0] * torch.linspace(0.5, 2, d, dtype=torch.float64)
    for name, (cls, settings, more) in training.items():
        for scaling in ("none", "expected_average_only_in", "covariance_whitening"):
            made = cls(settings(**about, metadata=hook, normalize_activations=scaling, **more))
            perturbed(made)
            if hasattr(made, "topk_threshold"):
                made.topk_threshold.fill_(0.9)
            scaler = ActivationScaler()
            if scaling == "expected_average_only_in":
                scaler.scaling_factor = 0.4
            if scaling == "covariance_whitening":
                scaler.whitening = ActivationWhitening(mean=mean, matrix=turn, inverse_matrix=torch.linalg.inv(turn))
            at = f"{name} checkpoint, {scaling}"
            made.save_model(top / at)
            scaler.save(str(top / at / "activation_scaler.json"))
            if scaler.scaling_factor is not None:
                made.fold_activation_norm_scaling_factor(scaler.scaling_factor)
            if scaler.whitening is not None:
                made.fold_activation_whitening(mean, turn, torch.linalg.inv(turn))
            published = f"{name} published, {scaling}"
            made.save_inference_model(top / published)
            loaded = base.SAE.load_from_disk(top / published)
            for folder in (at, published):
                answered(top / folder, lambda x, loaded=loaded: _lens(loaded, x), x_BD)


def _lens(made: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if hasattr(made, "forward_with_activations"):
        return made.forward_with_activations(x)[1], made(x)
    return made.encode(x), made(x)


def lens_read(folder: Path) -> Answers:
    from sae_lens.saes.sae import SAE

    made = SAE.load_from_disk(folder)
    return lambda x: _lens(made, x)


# sparsify


def sparsify_write(top: Path, x_BD: torch.Tensor) -> None:
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    d = x_BD.shape[1]
    cases: dict[str, dict[str, Any]] = {
        "topk": {}, "groupmax": {"activation": "groupmax", "k": 5}, "expansion": {"num_latents": 0, "expansion_factor": 4},
        "transcode": {"transcode": True}, "skip": {"transcode": True, "skip_connection": True}, "skip of an SAE": {"skip_connection": True},
    }  # fmt: skip
    for name, more in cases.items():
        made = SparseCoder(d, SparseCoderConfig(**{"num_latents": N_LATENTS, "k": K, **more}))
        perturbed(made)
        made.save_to_disk(top / name)
        answered(top / name, lambda x, made=made: _sparse(made, x), x_BD)


def _sparse(made: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = made.encode(x)
    f = torch.zeros(len(x), made.num_latents).scatter(1, found.top_indices, found.top_acts)
    return f, made(x).sae_out


def sparsify_read(folder: Path) -> Answers:
    from sparsify import SparseCoder

    made = SparseCoder.load_from_disk(folder)
    return lambda x: _sparse(made, x)


# dictionary_learning


def dictionary_write(top: Path, x_BD: torch.Tensor) -> None:
    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    d = x_BD.shape[1]
    cases = {
        "AutoEncoder": dictionary.AutoEncoder(d, N_LATENTS), "AutoEncoderNew": dictionary.AutoEncoderNew(d, N_LATENTS),
        "GatedAutoEncoder": dictionary.GatedAutoEncoder(d, N_LATENTS), "JumpReluAutoEncoder": dictionary.JumpReluAutoEncoder(d, N_LATENTS),
        "AutoEncoderTopK": AutoEncoderTopK(d, N_LATENTS, K), "BatchTopKSAE": BatchTopKSAE(d, N_LATENTS, K),
        "BatchTopKSAE, never set": BatchTopKSAE(d, N_LATENTS, K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(d, N_LATENTS, K, [20, 60, N_LATENTS - 80]),
    }  # fmt: skip
    for name, made in cases.items():
        perturbed(made)
        if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            made.threshold.fill_(0.7)
        (top / name).mkdir(parents=True, exist_ok=True)
        torch.save(made.state_dict(), top / name / "ae.pt")
        trainer = {"dict_class": type(made).__name__, "k": K, "layer": 4, "lm_name": "gpt2", "activation_dim": d, "dict_size": N_LATENTS}
        (top / name / "config.json").write_text(json.dumps({"trainer": trainer}))
        answered(top / name, dictionary_read(top / name), x_BD)


def dictionary_read(folder: Path) -> Answers:
    from dictionary_learning.utils import load_dictionary

    made, _ = load_dictionary(str(folder), "cpu")
    return lambda x: ((f := made.encode(x)), made.decode(f))


PEERS = {
    "sae-lens": (lens_write, lens_read),
    "eai-sparsify": (sparsify_write, sparsify_read),
    "dictionary-learning": (dictionary_write, dictionary_read),
}


def main() -> None:
    peer, what, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    write, read = PEERS[peer]
    x_BD = torch.from_numpy(np.load(folder / "inputs.npy"))
    torch.set_num_threads(1)
    if what == "write":
        write(folder, x_BD)
        return
    for case in sorted(p for p in folder.iterdir() if p.is_dir()):
        try:
            answered(case, read(case), x_BD)
        except Exception as error:  # whatever the peer says is the finding
            (case / "error.txt").write_text(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
