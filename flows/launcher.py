"""Hydra's launcher ``prefect``: takes all jobs of a sweep at once, and makes the union of what they want in one flow.

Hydra instantiates launchers only from modules called ``hydra_plugins.*``; ours is published under such a name, so that no
package of that name has to be installed. Its settings are conf/hydra/launcher/prefect.yaml.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from flows.console import print_json
from tasks.spec import SpecError

MODULE = "hydra_plugins.saint_prefect"

_codes: list[int] = []
_options: dict[str, bool] = {"debug": False, "json": False}


class PrefectLauncher(Launcher):
    """All jobs of a sweep as one run. ``mode`` is a ``runtime.mode`` for the whole of it, null the configured one."""

    def __init__(self, mode: str | None = None, dry_run: bool = False) -> None:
        self.mode, self.dry_run = mode, dry_run

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Nothing of Hydra's is needed: jobs are composed by ``flows.composing``, as single runs are."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, or with ``dry_run`` print their plan. Raises ``SpecError``."""
        from flows.plan import plan
        from flows.running import print_plan, run
        from flows.sweep import jobs, repeated, typed

        if self.mode not in (None, "inline", "local", "pool"):
            raise SpecError(f"hydra.launcher.mode = {self.mode!r}, but a run is inline, local or pool; use one of them")
        more = [] if self.mode is None else [f"runtime.mode={self.mode}"]
        each = jobs([[*overrides, *more] for overrides in job_overrides])
        if self.dry_run:
            found = plan(each)
            print_json(found.json) if _options["json"] else print_plan(found, repeated(each))
        else:
            _codes.append(run(each, typed(job_overrides), _options["debug"]))
        returned = []
        for overrides in job_overrides:  # for sweepers that look at results: there are none, artifacts hold them
            one = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            one.return_value = None
            returned.append(one)
        return returned


def register(codes: list[int], debug: bool, json: bool) -> None:
    """Make the launcher known to Hydra; exit codes of its runs are appended to ``codes``."""
    global _codes
    _codes = codes
    _options.update(debug=debug, json=json)
    if MODULE not in sys.modules:
        plugins = Plugins.instance()  # looks for installed plugins now, before there is a module of theirs that is not
        parent_name, _, name = MODULE.partition(".")
        try:
            parent = importlib.import_module(parent_name)
        except ImportError:
            parent = sys.modules[parent_name] = types.ModuleType(parent_name)
            parent.__path__ = []
        module = types.ModuleType(MODULE)
        module.PrefectLauncher = PrefectLauncher  # type: ignore[attr-defined]
        sys.modules[MODULE] = module
        setattr(parent, name, module)
        PrefectLauncher.__module__ = MODULE
        plugins.register(PrefectLauncher)
