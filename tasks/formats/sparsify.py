"""sparsify: a folder with cfg.json and sae.safetensors, named after its hookpoint.

Source: eai-sparsify 1.3.3 (PyPI). encoder.weight (m, d), W_dec (m, d) and not transposed, b_dec is subtracted first unless the
config says transcode; W_skip (d, d). Old files call tensors as SAELens does, or lack activation, skip and transcode.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from tasks.formats._files import Files, Tensors, number
from tasks.formats._folding import raw, single_site
from tasks.formats._hooks import ours
from tasks.formats.base import Format, Given, Portable, found_sae, portable
from tasks.lazy import torch
from tasks.spec import SpecError

CONFIG, NAME = "cfg.json", "sae.safetensors"


class Sparsify(Format):
    """A folder of sparsify."""

    SAYS: ClassVar[str] = f"{CONFIG} and {NAME}"
    WEIGHTS: ClassVar[tuple[str, ...]] = (NAME,)
    WRITES: ClassVar[tuple[str, ...]] = ("topk",)

    kind: Literal["sparsify"] = "sparsify"

    def matches(self, files: Files) -> bool:
        return files.has(CONFIG, NAME)

    def hookpoint(self, files: Files) -> str | None:
        folders = [p for p in files.origin.split("/") if p and not p.startswith("seed")]
        at = ours(folders[-1]) if folders else None
        if at is None or ":" in at or not files.json(CONFIG).get("transcode"):
            return at
        before = f"{at}_in" if at.endswith(".mlp") else ours(at.replace("layers", "blocks") + ".hook_resid_pre")
        return f"{before}:{at}" if before else None  # a module's input, to its output

    def read(self, files: Files, given: Given) -> Portable:
        config = files.json(CONFIG)
        activation = config.get("activation") or "topk"
        if activation not in ("topk", "groupmax") or config.get("signed"):
            what = f"activation = {activation!r}" if not config.get("signed") else "signed = true"
            raise files.wrong(CONFIG, f"says {what}", "topk and groupmax are read, with values >= 0")
        k = given.k or number(config.get("k"))
        if k is None or k < 1:
            raise files.wrong(CONFIG, "says no k", "set sae.k=... to the active latents of a token")
        known = {"D": int(d)} if (d := number(config.get("d_in"))) else {}
        held = Tensors(files, NAME, "sparsify", **known)
        if not any(name in held for name in ("W_dec", "decoder.weight")):
            raise files.wrong(NAME, "has no W_dec: it was saved without its decoder", "take one that has it")
        tensors = {
            "b_dec_D": held.take("b_dec", "decoder.bias", shape="D"),
            "b_enc_N": held.take("encoder.bias", "b_enc", shape="N"),
            "W_enc_ND": held.take("encoder.weight", shape="ND") if "encoder.weight" in held
            else held.take("W_enc", shape="DN", turn=True),
            "W_dec_ND": held.take("W_dec", "decoder.weight", shape="ND"),
        }  # fmt: skip
        if skip := "W_skip" in held:
            tensors["W_skip_OD"] = held.take("W_skip", shape="DD")
        fields: dict[str, Any] = {"k": int(k), "skip": skip, "subtract_b_dec": not config.get("transcode", False)}
        if activation == "groupmax":
            fields["groupmax"] = True
        sae = found_sae("topk", tensors, **fields)
        folders = files.origin.split("/")
        about = {
            "architecture": activation, "transcode": config.get("transcode"), "hook": next(
                (p for p in reversed(folders) if not p.startswith("seed")), None
            ),
        }  # fmt: skip
        trained = files.top.parent / "config.json"  # of the run that trained all its SAEs
        if files.origin == files.path.absolute().as_posix() and trained.is_file():
            run = Files(files.top.parent).json("config.json")
            about |= {"model": run.get("model"), "dataset": run.get("dataset")}
        return portable(sae, self.hookpoint(files), about)

    def write(self, it: Portable, folder: Path) -> list[str]:
        from safetensors.torch import save_file

        spec = it.sae.spec
        single_site(it, "sparsify")
        if spec.kind != "topk" or it.sae.d_in != it.sae.d_out:
            what = f"sae.kind = {spec.kind!r}" if spec.kind != "topk" else f"d_out = {it.sae.d_out} of an SAE with d_in {it.sae.d_in}"
            raise SpecError(f"{what}, but sparsify has topk and groupmax of one width only; export to saelens or dictionary_learning")
        sae = raw(it).sae
        weights = {name: tensor.detach().float() for name, tensor in sae.weights().items()}
        names = {"encoder.weight": "W_enc_ND", "encoder.bias": "b_enc_N", "W_dec": "W_dec_ND", "b_dec": "b_dec_D"}
        names |= {"W_skip": "W_skip_OD"} if spec.skip else {}
        length_N = weights["W_dec_ND"].norm(dim=-1)
        unit = bool(torch.allclose(length_N, torch.ones_like(length_N), atol=1e-4))
        config = {
            "activation": "groupmax" if spec.groupmax else "topk", "expansion_factor": max(1, round(sae.n_latents / sae.d_in)),
            "normalize_decoder": unit, "num_latents": sae.n_latents, "k": spec.k, "multi_topk": False,
            "skip_connection": spec.skip, "transcode": not spec.subtract_b_dec, "d_in": sae.d_in,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        save_file({theirs: weights[name].contiguous().clone() for theirs, name in names.items()}, folder / NAME)
        (folder / CONFIG).write_text(json.dumps(config, indent=1))
        return [f"the hookpoint ({it.hookpoint}): sparsify takes it from the folder's name"] if it.hookpoint else []
