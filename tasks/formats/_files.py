"""The files of one SAE, and their tensors by name and shape. Nothing is run that a file says: pickles are read as data only."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.lazy import np, torch
from tasks.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".pt", ".pth", ".bin")
WEIGHTS = (".safetensors", ".npz", *PICKLES)
CONFIGS = (".json", ".yaml", ".yml")
_NAMING = ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
"""Steps of a pickle that look up a function or a class."""

_LETTERS = {"N": "n_latents", "D": "d_in", "O": "d_out"}


class Files:
    """The files of one SAE: those of a folder (and of its folder ``checkpoints``), or one file and the configs beside it."""

    def __init__(self, path: str | Path, allow_pickle: bool = False, origin: str | None = None) -> None:
        """``origin``: where they come from, for formats that say layer and model in their path (a hub's id and subfolder);
        None: ``path``. Raises ``SpecError`` where nothing is."""
        self.path = Path(path).expanduser()
        self.allow_pickle, self.origin = allow_pickle, origin or self.path.absolute().as_posix()
        if not self.path.exists():
            raise SpecError(f"sae.path = {str(path)!r}, but nothing is there; name a folder with an SAE, or its file")
        self.top = self.path if self.path.is_dir() else self.path.parent
        self.only = None if self.path.is_dir() else self.path.name
        self.trouble: SpecError | None = None
        """The first error of a file that was only looked into."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of weights and configs, relative to the folder, sorted."""
        found = [*self.top.iterdir(), *(self.top / "checkpoints").glob("*")]
        named = sorted(p.relative_to(self.top).as_posix() for p in found if p.is_file() and p.suffix in (*WEIGHTS, *CONFIGS))
        return tuple(name for name in named if self.only in (None, name) or name.endswith(CONFIGS))

    def has(self, *names: str) -> bool:
        return all(name in self.names for name in names)

    def one(self, *patterns: str) -> str | None:
        """The file that has one of these names; None where there is none. Raises ``SpecError`` for several."""
        found = [name for name in self.names if any(fnmatch(name, pattern) for pattern in patterns)]
        if len(found) > 1:
            some = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
            raise SpecError(f"sae.path = {self.shown}, but it holds {len(found)} files with weights ({some}); name one of them")
        return found[0] if found else None

    @property
    def shown(self) -> str:
        return repr(str(self.path))

    def json(self, name: str) -> dict[str, Any]:
        """A config. Raises ``SpecError`` where it is none."""
        try:
            found = json.loads((self.top / name).read_text("utf-8"))
        except ValueError as error:
            raise self.wrong(name, f"is not JSON ({error})", "copy it again") from None
        if not isinstance(found, dict):
            raise self.wrong(name, "holds no object with settings", "copy it again")
        return found

    def yaml(self, name: str) -> dict[str, Any]:
        """A config in YAML. Raises ``SpecError`` where it is none."""
        import yaml

        try:
            found = yaml.safe_load((self.top / name).read_text("utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            raise self.wrong(name, f"is not YAML ({' '.join(str(error).split())})", "copy it again") from None
        return found if isinstance(found, dict) else {}

    def wrong(self, name: str, fact: str, do: str) -> SpecError:
        """The error about one of the files."""
        at = self.shown if name == self.only else f"{self.shown}, but its {name}"
        return SpecError(f"sae.path = {at}{', but it' if name == self.only else ''} {fact}; {do}")

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Tensor names to shapes, by the file's header where it has one. Raises ``SpecError`` for what cannot be read."""
        if name.endswith(".safetensors"):
            return {key: tuple(entry["shape"]) for key, entry in self._header(name).items() if key != "__metadata__"}
        if name.endswith(".npz"):
            return dict(self._arrays(name))
        held = self._pickled(name)
        held = held["ae"] if isinstance(held.get("ae"), dict) else held
        return {key: tuple(value.shape) for key, value in held.items() if isinstance(value, torch.Tensor)}

    def keys(self, name: str) -> set[str]:
        """Names of what a file holds; none where it cannot be read, which ``trouble`` then tells of."""
        try:
            if name.endswith(PICKLES):
                return set(self._pickled(name))
            return set(self.shapes(name))
        except SpecError as error:
            self.trouble = self.trouble or error
            return set()

    def tensors(self, name: str) -> dict[str, Any]:
        """What a file holds by name: tensors, and in pickles also plain values. Raises ``SpecError`` for what cannot be read."""
        if name.endswith(".safetensors"):
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return load_file(self.top / name)
            except (SafetensorError, OSError) as error:
                raise self._cut(name, "safetensors", error) from None
        if name.endswith(".npz"):
            try:
                with np.load(self.top / name, allow_pickle=False) as held:
                    return {key: torch.from_numpy(np.ascontiguousarray(held[key])) for key in held.files}
            except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
                raise self._cut(name, "npz", error) from None
        return self._pickled(name)

    def _cut(self, name: str, kind: str, error: Exception | str) -> SpecError:
        said = " ".join(str(error).split())[:160]
        said = f" ({said})" if re.search(r"[a-z]{2}", said) else ""  # a KeyError says no more than a number
        return self.wrong(name, f"is cut short, or no {kind} file{said}", "copy it again")

    def _header(self, name: str) -> dict[str, Any]:
        try:
            with open(self.top / name, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if not 2 <= size <= 100_000_000:
                    raise self._cut(name, "safetensors", "its header is missing")
                found = json.loads(file.read(size))
            data = max((entry["data_offsets"][1] for key, entry in found.items() if key != "__metadata__"), default=0)
            if (have := (self.top / name).stat().st_size) != (want := 8 + size + data):
                raise self._cut(name, "safetensors", f"{have:,} bytes, and its header tells of {want:,}")
            return found
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, SpecError):
                raise
            raise self._cut(name, "safetensors", error) from None

    def _arrays(self, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        try:
            with zipfile.ZipFile(self.top / name) as held:
                for member in held.namelist():
                    with held.open(member) as file:
                        version = np.lib.format.read_magic(file)
                        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                        yield member.removesuffix(".npy"), tuple(read(file)[0])
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise self._cut(name, "npz", error) from None

    def _pickled(self, name: str) -> dict[str, Any]:
        if not self.allow_pickle:
            raise self.wrong(
                name, "is a pickle, and pickles can run code when they are opened",
                "set sae.allow_pickle=true to have its tensors, and nothing else, read (torch.load with weights_only)",
            )  # fmt: skip
        if name not in self._held:
            self._held[name] = self._opened(name)
        return self._held[name]

    @cached_property
    def _held(self) -> dict[str, dict[str, Any]]:
        return {}

    def _opened(self, name: str) -> dict[str, Any]:
        import pickle
        import warnings

        more = self.wrong(
            name, "holds more than tensors and plain values, and was not opened further, since that can run code",
            "have its author save a state dict of tensors",
        )  # fmt: skip
        try:
            # Mapped and not read, where the file's layout allows it: its shapes cost nothing then.
            mapped = zipfile.is_zipfile(self.top / name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of pickles that it did not write
                found = torch.load(self.top / name, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            said = " ".join(str(error).split())
            if any(word in said for word in ("Unsupported global", "Unsupported class", "GLOBAL")) or self._names_code(name):
                raise more from None
            raise self._cut(name, "torch.save", "its pickle cannot be read") from None
        except Exception as error:  # of a damaged pickle almost any
            raise (more if self._names_code(name) else self._cut(name, "torch.save", error)) from None
        if not isinstance(found, Mapping):
            raise self.wrong(name, f"holds a {type(found).__name__}, and no tensors by name", "name a file with a state dict")
        return {str(key): value for key, value in found.items()}


    def _names_code(self, name: str) -> bool:
        """Whether a file is one whole pickle, not of torch.save, that names functions or classes. Nothing of it is run."""
        import pickletools

        try:
            with open(self.top / name, "rb") as file:
                return any([op.name in _NAMING for op, _, _ in pickletools.genops(file)])  # to its end: a list
        except Exception:  # no pickle
            return False


class Tensors:
    """The tensors of an SAE's file, taken by name with their shape checked: N n_latents, D d_in, O d_out."""

    def __init__(self, files: Files, name: str, format: str, found: Mapping[str, Any] | None = None, **known: int) -> None:
        """``found``: what the file holds, where it is not all of it; ``known``: sizes by letter that a config tells."""
        self.files, self.name, self.format = files, name, format
        self.found = files.tensors(name) if found is None else found
        self.sizes = {letter: (size, "the config") for letter, size in known.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def size(self, letter: str) -> int:
        return self.sizes[letter][0]

    def take(self, *names: str, shape: str = "", turn: bool = False) -> Tensor:
        """The tensor that is called one of ``names``, float32 and contiguous; ``turn`` gives its transpose.

        A letter that no tensor had before takes its size from this one. Raises ``SpecError`` for one that is missing, has
        another shape, is not floating, or holds what is not finite.
        """
        name = next((n for n in names if isinstance(self.found.get(n), torch.Tensor)), None)
        if name is None:
            held = ", ".join(self.found) or "nothing"
            raise self.files.wrong(self.name, f"has no {names[0]}, which {self.format} keeps there (it has {held})", "copy it again")
        tensor = self.found[name]
        if not shape and tensor.numel() == 1:
            tensor = tensor.reshape(())
        if not tensor.is_floating_point():
            raise self.files.wrong(
                self.name, f"has {name} as {str(tensor.dtype).removeprefix('torch.')}, which are no weights without their scale",
                "take the SAE in float32, float16 or bfloat16",
            )  # fmt: skip
        self._check(name, tuple(tensor.shape), shape)
        if not tensor.numel():
            raise self.files.wrong(self.name, f"has {name} of shape {tuple(tensor.shape)}, without a number", "copy it again")
        tensor = (tensor.mT if turn else tensor).float().contiguous()
        if not bool(torch.isfinite(tensor).all()):
            n = int((~torch.isfinite(tensor)).sum())
            fact = f"has {n:,} values in {name} that are not finite (NaN or infinite), of {tensor.numel():,}"
            raise self.files.wrong(self.name, fact, "copy it again, or take another SAE")
        return tensor

    def _check(self, name: str, have: tuple[int, ...], shape: str) -> None:
        fits = len(have) == len(shape) and all(self.sizes.get(s, (n,))[0] == n for s, n in zip(shape, have, strict=True))
        if fits:
            for letter, n in zip(shape, have, strict=True):
                self.sizes.setdefault(letter, (n, name))
            return
        wanted = ", ".join(f"{_LETTERS[s]}" + (f" {self.sizes[s][0]}" if s in self.sizes else "") for s in shape)
        by = sorted({self.sizes[s][1] for s in shape if s in self.sizes})
        turned = len(have) == 2 and len(shape) == 2 and all(
            self.sizes.get(s, (n,))[0] == n for s, n in zip(shape, reversed(have), strict=True)
        )  # fmt: skip
        fact = f"has {name} of shape {have}, where {self.format} has ({wanted})" + (f" by {' and '.join(by)}" if by else "")
        fact += ": it is transposed" if turned else ""
        do = "write it the other way round" if turned else "name the right one with sae.format=..., or copy it again"
        raise self.files.wrong(self.name, fact, do)


def number(value: Any) -> float | None:
    """A finite number of a config or a scalar tensor; None for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
