"""What a user typed, composed by Hydra into plain data, and Hydra's complaints in our grammar."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from tasks.choosing import named_in_file
from tasks.kinds import kinds
from tasks.lm.sites import Sites
from tasks.spec import SpecError

GROUPS = {"corpus": "corpora", "lm": "lms", "norm": "norms", "sae": "saes", "explainer": "explainers", "client": "clients"}
"""Groups of ``conf/`` that are nouns of the configuration, and the package of their kinds."""


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration as plain data. Raises ``SpecError`` for what Hydra cannot make sense of."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        parsed = OverridesParser.create().parse_overrides([in_grammar(o) for o in overrides])
        for override in parsed:
            if override.is_sweep_override():
                raise SpecError(f"{override.input_line}, but a run takes one value; add -m to run each of them, or write one")
        groups = [o for o in parsed if _is_group(o.key_or_group)]
        config = copy.deepcopy(_composed_groups(tuple(o.input_line for o in groups)))
        # What Hydra does after composing. Apart, since jobs of a sweep differ in fields, and files cost most of the time.
        fields = [o for o in parsed if o not in groups]
        for override in fields:  # what names its kind replaces the kind that was there, and is not mixed with its fields
            value = None if override.is_delete() else override.value()
            if isinstance(value, dict) and "kind" in value and OmegaConf.select(config, override.key_or_group) is not None:
                OmegaConf.update(config, override.key_or_group, None, merge=False)
        ConfigLoaderImpl._apply_overrides_to_config(fields, config)
        found = plain(config)
        if (found.get("sae") or {}).get("kind") == "load" and not any(map(_names_hookpoints, fields)):
            found["capture"]["hookpoints"] = None  # nobody typed them: its files say where it stands, or nobody does
        _check_preset(next((str(o.value()) for o in reversed(groups) if o.key_or_group == "sae"), ""), found)
        return found
    except (HydraException, OmegaConfBaseException) as error:
        raise SpecError(explained(error, overrides)) from None


@cache
def _composed_groups(groups: tuple[str, ...]) -> Any:
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    if not GlobalHydra.instance().is_initialized():
        initialize_config_module("conf", version_base="1.3")
    return compose("config", overrides=list(groups))


def _names_hookpoints(override: Any) -> bool:
    name = override.key_or_group
    if name != "capture" or override.is_delete():
        return name == "capture.hookpoints" and not override.is_delete()
    value = override.value()
    return isinstance(value, Mapping) and "hookpoints" in value


def _is_group(name: str) -> bool:
    from importlib.resources import files

    return name.startswith("hydra") or (files("conf") / name.partition("@")[0]).is_dir()


def in_grammar(override: str, sweep: bool = False) -> str:
    """An override with the characters in paths and globs quoted that Hydra's grammar keeps for itself.

    In a ``sweep``, commas part values, as they do everywhere else there.
    """
    name, sign, value = override.partition("=")
    is_path = name.endswith(("path", "root", "url", "endpoint", "cache"))
    is_path = is_path or (name.endswith("latents") and any(map(named_in_file, value.split(","))))
    if sign and is_path and value and value[0] not in "'\"[{" and value != "null":
        return f"{name}=" + ",".join(f"'{one}'" for one in (value.split(",") if sweep else [value]))
    return override


def plain(config: Any) -> dict[str, Any]:
    """A Hydra configuration as plain data. Raises ``SpecError`` for a value that is still to be given."""
    from omegaconf import OmegaConf

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise SpecError(f"{missing[0]} is not set, but this configuration needs it; add {missing[0]}=...")
    found = OmegaConf.to_container(config, resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def _check_preset(name: str, config: Mapping[str, Any]) -> None:
    """Whether the file ``conf/sae/<name>.yaml``, as somebody typed it, is for SAEs of such sites. Afterwards nobody knows its name."""
    if name not in ("transcoder", "skip_transcoder", "crosscoder"):
        return
    for sites in map(Sites.parse, hookpoints_of((config.get("capture") or {}).get("hookpoints"))):
        if name == "crosscoder" and len(sites.writes) == 1:
            raise SpecError(
                f"sae = {name!r}, but {sites} writes one hookpoint; use capture.hookpoints=[layers.1+layers.2], or sae=batchtopk"
            )
        if name != "crosscoder" and sites.gives_back:
            raise SpecError(
                f"sae = {name!r}, but {sites} is written as it is read; use capture.hookpoints=[layers.1.mlp_in:layers.1.mlp], or sae=topk"
            )


def hookpoints_of(value: Any) -> tuple[str, ...]:
    """Sites as ``tasks.lm.sites`` spells them, of one name or a list. Raises ``SpecError``."""
    names = [str(Sites.parse(name)) for name in ([value] if isinstance(value, str) else list(value or []))]
    if not names:
        raise SpecError("capture.hookpoints = [], but an SAE needs one; use [layers.1]")
    if len(set(names)) < len(names):
        raise SpecError(f"capture.hookpoints = {names}, but it names one twice; name each once")
    return tuple(names)


def fields_of(group: str, name: str) -> dict[str, Any]:
    """What ``conf/<group>/<name>.yaml`` has; nothing where there is no such file."""
    from importlib.resources import files

    from omegaconf import OmegaConf

    path = files("conf") / group / f"{name}.yaml"
    if not path.is_file():
        return {}
    found = OmegaConf.to_container(OmegaConf.create(path.read_text()))
    return found if isinstance(found, dict) else {}  # type: ignore[return-value]


def explained(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint in our grammar."""
    text = str(error).strip()
    if found := re.search(r"Could not override '([^']+)'", text):
        path = found[1]
        typed = next((o for o in overrides if o.lstrip("+~").startswith(path)), path)
        group, _, field = path.partition(".")
        chosen = next((o.partition("=")[2] for o in reversed(overrides) if o.partition("=")[0] == group), None)
        if group in GROUPS and chosen and (fields := fields_of(group, chosen)):  # the defaults' own kind may well have it
            near = difflib.get_close_matches(field, fields, 1, 0.6)
            hint = f"did you mean {group}.{near[0]}?" if near else f"it has {', '.join(n for n in fields if n != 'kind')}"
            return f"{typed}, but {group}={chosen} has no {field}; {hint}"
        near = _near(path)
        hint = f"did you mean {near}?" if near else "see saint run --cfg job for all there is"
        return f"{typed}, but there is no {path} in the configuration; {hint}"
    if found := re.search(r"Could not find '(hydra/[^'/]+)/([^']+)'", text):
        return f"{found[1]} = {found[2]!r}, but no plugin of Hydra here is called so; use prefect, or install its plugin"
    if found := re.search(r"Could not find '([^'/]+)/([^']+)'", text):
        group, name = found[1], found[2]
        options = kinds(f"tasks.{GROUPS[group]}") if group in GROUPS else []
        with suppress(OSError):
            options = _options(group)
        new = f", or add tasks/{GROUPS[group]}/{name}.py and conf/{group}/{name}.yaml" if group in GROUPS else ""
        return f"{group} = {name!r}, but conf/{group}/ has {', '.join(options)}; use one of them{new}"
    if found := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]}, but a run takes one value; add -m to run each of them, or write one"
    first = text.splitlines()[0] if text else type(error).__name__
    bad = next((o for o in overrides if o and o in text), None) or " ".join(overrides)
    return f"{bad}, but it is no override that can be read ({first}); write name=value, and quote what has commas or spaces"


def _options(group: str) -> list[str]:
    from importlib.resources import files

    return sorted(p.name.removesuffix(".yaml") for p in (files("conf") / group).iterdir() if p.name.endswith(".yaml"))


def _near(path: str) -> str:
    names: list[str] = []

    def walk(value: Any, at: str) -> None:
        for name, inner in value.items() if isinstance(value, Mapping) else ():
            names.append(f"{at}{name}")
            walk(inner, f"{at}{name}.")

    walk(composed([]), "")
    found = difflib.get_close_matches(path, names, 1, 0.6)
    return found[0] if found else ""
