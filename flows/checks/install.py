"""Python, the packages, and where SAINT's own modules come from. Reads metadata; imports none of the packages."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from flows.checks.base import Check

PYTHON = ((3, 11), (3, 14))
"""The first that will do, and the first that will not again: hydra-core 1.3.8 does not run on 3.14."""

OURS = ("artifacts", "conf", "flows", "tasks")


def python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    said = "Python " + ".".join(map(str, version))
    if PYTHON[0] <= version < PYTHON[1]:
        return Check("python", "ok", said)
    return Check("python", "wrong", said, "make the environment with Python 3.11, 3.12 or 3.13")


def requirements() -> list[str]:
    """What SAINT asks for: of the pyproject.toml beside us in a checkout, else of the installed package."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        import tomllib

        found = tomllib.loads(project.read_text())["project"]
        if found["name"] == "saint-sae":
            return list(found["dependencies"])
    try:
        return [r for r in metadata.requires("saint-sae") or [] if "extra ==" not in r]
    except metadata.PackageNotFoundError:
        return []


def packages(wanted: list[str], version: Callable[[str], str] = metadata.version) -> Iterator[Check]:
    """One check when all is well, else one for each package that is not."""
    from packaging.requirements import Requirement

    n_wrong = 0
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            found = version(requirement.name)
        except metadata.PackageNotFoundError:
            found = None
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            n_wrong += 1
            said = f"{requirement.name} {found or 'is missing'}, but SAINT needs {requirement.specifier or 'it'}"
            yield Check("packages", "wrong", said, f"pip install '{requirement.name}{requirement.specifier}'")
    if not wanted:
        yield Check("packages", "warning", "SAINT's own metadata is not here, so versions are not known", "pip install -e .")
    elif not n_wrong:
        yield Check("packages", "ok", f"all {len(wanted)} that SAINT needs, in the right versions")


def origins() -> dict[str, Path | None]:
    """The folder that each of our packages would be imported from."""
    found: dict[str, Path | None] = {}
    for name in OURS:
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or []) if spec else []
        found[name] = Path(places[0]).resolve().parent if places else None
    return found


def origin(places: Mapping[str, Path | None]) -> Check:
    """Our top-level names are common ones: a ``tasks.py`` in the folder of a command can stand in front of ours."""
    home = Path(__file__).resolve().parents[2]
    strange = sorted(name for name, place in places.items() if place != home)
    if not strange:
        return Check("modules", "ok", f"SAINT's modules are all of {home}")
    said = ", ".join(f"{name} of {places[name] or 'nowhere'}" for name in strange)
    return Check(
        "modules", "wrong", f"{said}, but flows.checks of {home}", "use another folder to start in, or an environment for SAINT alone"
    )
