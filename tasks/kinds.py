"""Kinds: the list of kinds is the listing of a package. No registry, no import path in YAML, no decorator list.

``kind: topk`` in ``conf/sae/topk.yaml`` is the one ``Spec`` subclass defined in ``tasks/saes/topk.py`` whose
field ``kind`` is ``Literal["topk"]``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from tasks.spec import Spec, SpecError

_NOT_KINDS = {"base"}


def kinds(package: ModuleType | str) -> list[str]:
    """The names of all kinds in a package such as ``tasks.saes``, sorted."""
    module = importlib.import_module(package) if isinstance(package, str) else package
    names = (info.name for info in pkgutil.iter_modules(module.__path__))
    return sorted(name for name in names if not name.startswith("_") and name not in _NOT_KINDS)


def spec_class(package: ModuleType | str, kind: str) -> type[Spec]:
    """The class that a kind's file defines: the one ``Spec`` whose field ``kind`` says the file's name."""
    name = package if isinstance(package, str) else package.__name__
    folder = name.replace(".", "/")
    known = kinds(name)
    if kind not in known:
        raise SpecError(
            f"kind = {kind!r}, but {folder}/ has {', '.join(known)}; "
            f"use one of them, or add {folder}/{kind}.py and its YAML in conf/"
        )
    module = importlib.import_module(f"{name}.{kind}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Spec)
        and value.__module__ == module.__name__
        and "kind" in value.model_fields
        and value.model_fields["kind"].default == kind
    ]
    if len(found) != 1:
        raise SpecError(
            f"{folder}/{kind}.py defines {len(found)} specs whose field kind defaults to {kind!r}, "
            f"but a kind's file defines exactly one; write `kind: Literal[{kind!r}] = {kind!r}` in it"
        )
    return found[0]


def decode(package: ModuleType | str, fields: Mapping[str, Any], where: str = "") -> Any:
    """The typed spec for some plain fields, of which ``kind`` names the file.

    ``where`` is the config path as the user types it (``sae``), for the error. Raises ``SpecError``.
    """
    where = where or (package if isinstance(package, str) else package.__name__).rsplit(".", 1)[-1]
    if "kind" not in fields:
        raise SpecError(f"{where} has no kind, but one is needed; set {where}.kind to one of {', '.join(kinds(package))}")
    try:
        cls = spec_class(package, str(fields["kind"]))
    except SpecError as error:
        raise SpecError(f"{where}.{error}") from None
    return validated(cls, fields, where)


def validated(cls: type[Any], fields: Mapping[str, Any], where: str) -> Any:
    """An instance of a pydantic class, with its first complaint put into our grammar."""
    try:
        return cls.model_validate(dict(fields))
    except ValidationError as error:
        raise SpecError(_complaint(cls, error, where)) from None


def _complaint(cls: type[Any], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = ".".join([where, *(str(part) for part in first["loc"])]) if first["loc"] else where
    context = first.get("ctx", {}).get("error")
    if isinstance(context, SpecError):
        return str(context)
    if first["type"] == "extra_forbidden":
        fields = ", ".join(sorted(cls.model_fields))
        return f"{path} = {first['input']!r}, but there is no such field; use one of {fields}"
    if first["type"] == "missing":
        return f"{path} is missing, but it is needed; set it"
    reason = first["msg"][0].lower() + first["msg"][1:]
    return f"{path} = {first['input']!r}, but {reason}; change it"
