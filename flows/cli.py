"""``saint``: the command line. Only parsing and printing; torch and Prefect are imported when a run needs them."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from artifacts.errors import ArtifactError
from flows import inspecting, lab, looking, porting, pushing, steer, studying, surveying
from flows.console import clean, print_json
from flows.looking import parsed
from flows.server import ServerFailed
from flows.ui import launch
from tasks.spec import SpecError

_OURS = {"-m", "--multirun", "--json"}

EXIT_USER, EXIT_WORLD, EXIT_INTERRUPTED = 2, 1, 130

ABOUT = {
    "run": "make everything that is missing, from text to report",
    "plan": "what a run would find and make: tokens, bytes, seconds, dollars; does nothing",
    **studying.ABOUT,
    **inspecting.ABOUT,
    **steer.ABOUT,
    **surveying.ABOUT,
    **launch.ABOUT,
    **porting.ABOUT,
    **pushing.ABOUT,
    **looking.ABOUT,
    "report": "print where the latest report lies; with overrides, make theirs first if it is missing",
    **lab.ABOUT,
    "completion": "shell completion: eval \"$(saint completion bash)\"",
}

HELP = """usage: saint COMMAND [options] [name=value ...]

From text and a language model to a sparse autoencoder whose latents are explained and scored.

{commands}

Configuration is by overrides: saint run lm=hf lm.path=MODEL corpus=parquet corpus.path=FILE sae.k=16
  saint run --cfg job         the whole configuration, resolved
  saint run --help            groups and their options
  saint run -m sae.k=8,16     a sweep: every combination, what they share made once
  saint explain train/3f2a explainer=default client=anthropic_batch latents=0:100
  saint score explain/9c0d scorers=[detection,fuzzing] client=anthropic_batch
  saint inspect train/3f2a "Once upon a time"
  saint steer train/3f2a "Once upon a time" --latent 17=0.8 --save her.json; saint steer --recipe her.json
  saint survey train/3f2a with=train/9b1c
  saint ui --open
  saint import sae.path=DIR lm=hf lm.path=MODEL; saint export train/3f2a saelens DIR
  saint export train/3f2a neuronpedia DIR; saint push train/3f2a OWNER/NAME --license mit
Options: --json on commands that print data; --debug shows tracebacks; backend.root=DIR is the store.
"""


def program() -> int:
    """``saint`` as a process: the command, and then an end that Ctrl-C does not spoil. A second Ctrl-C ends it at once."""
    try:
        return main()
    finally:  # Python puts things away now, and answers Ctrl-C with a traceback of whatever it is at
        signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.SIG_DFL))


def main(argv: Sequence[str] | None = None) -> int:
    """A command, as typed. Returns the exit code: 0 done, 1 the world's fault, 2 the user's, 130 or 128 + signal interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:12}{about}" for name, about in ABOUT.items())))
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("saint-sae"))
        return 0
    command, rest = arguments[0], arguments[1:]
    debug = "--debug" in rest
    try:
        if command not in ABOUT:
            raise SpecError(f"{command!r}, but saint has the commands {', '.join(ABOUT)}; use one of them")
        plain = [a for a in rest if a != "--debug"]
        return _PLAIN[command](plain) if command in _PLAIN else _COMMANDS[command](plain, debug)
    except SpecError as error:
        return _failed(error, EXIT_USER, debug)
    except BrokenPipeError:  # whoever read our output has enough of it (saint ls | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ArtifactError, ServerFailed, OSError) as error:
        return _failed(error, EXIT_WORLD, debug)
    except KeyboardInterrupt as stop:
        print("interrupted; what was committed stays\nresume: the same command", file=sys.stderr)
        from flows.running import Terminated

        return stop.code if isinstance(stop, Terminated) else EXIT_INTERRUPTED


def _failed(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"error: {clean(str(error))}", file=sys.stderr)
    return code


def _plan(rest: list[str], debug: bool) -> int:
    from flows.plan import plan
    from flows.running import print_plan
    from flows.sweep import jobs, repeated, split

    if any(_is_hydras(a) for a in rest):
        return _through_hydra([*rest, "++hydra.launcher.dry_run=true"], debug)
    flags, names, overrides = parsed("plan", rest, ABOUT["plan"], json="print the plan as JSON", multirun="commas in overrides sweep")
    _only_overrides(names, "plan")
    each = jobs(split(overrides) if flags.multirun else [overrides])
    found = plan(each)
    if flags.json:
        return print_json(found.json)
    print_plan(found, repeated(each))
    return 0


def _only_overrides(names: list[str], command: str) -> None:
    if names:
        raise SpecError(f"{names[0]}, but saint {command} takes overrides only; write name=value")


def _is_hydras(argument: str) -> bool:
    """Whether Hydra's own machinery is asked for: another launcher or sweeper, ``--cfg``, ``--help``."""
    return argument.lstrip("+~").startswith("hydra") or (argument.startswith("-") and argument not in _OURS)


def _run(rest: list[str], debug: bool) -> int:
    if any(_is_hydras(a) for a in rest):
        return _through_hydra(rest, debug)
    if _sweeps(rest):
        from flows.running import run
        from flows.sweep import jobs, split

        overrides = [a for a in rest if a not in _OURS]
        return run(jobs(split(overrides)), ["-m", *overrides], debug)
    return run_once(rest, debug)


def _sweeps(rest: list[str]) -> bool:
    return "-m" in rest or "--multirun" in rest


def run_once(overrides: list[str], debug: bool = False) -> int:
    """One run: plan, work, summary. Returns the exit code."""
    from flows.running import run
    from flows.sweep import jobs

    return run(jobs([overrides]), overrides, debug)


def _through_hydra(rest: list[str], debug: bool) -> int:
    """``--help``, ``--cfg``, ``--info``, ``-m`` and Hydra's other flags, as its users know them."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from flows import launcher
    from flows.composing import explained, in_grammar

    codes: list[int] = []

    def job(config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        codes.append(run_once(list(HydraConfig.get().overrides.task), debug))

    sweep = _sweeps(rest)
    if not sweep and (words := [a for a in rest if "=" in a and a.lstrip("+~").startswith("hydra.launcher")]):
        raise SpecError(f"{words[0]}, but only a sweep has a launcher; add -m")
    if sweep and not any(a.startswith("hydra/launcher=") for a in rest):
        rest = [*rest, "hydra/launcher=prefect"]
    launcher.register(codes, debug, "--json" in rest)
    flags = [a for a in rest if a != "--json" and ("=" not in a or a.startswith("-")) and not a.startswith("~")]
    overrides = [in_grammar(a, sweep) for a in rest if a != "--json" and a not in flags]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and go out in our words
    scratch = tempfile.TemporaryDirectory(prefix="saint-hydra-")  # for the multirun.yaml that Hydra's sweeper leaves
    if sweep and not any(a.startswith("hydra.sweep.dir=") for a in rest):
        overrides.append(f"hydra.sweep.dir='{scratch.name}'")
    argv, sys.argv = sys.argv, ["saint run", *flags, *overrides]  # in this order: Hydra's parser knows no other
    try:
        hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise SpecError(explained(error, [a for a in rest if "=" in a])) from None
    finally:
        sys.argv = argv
        scratch.cleanup()
    return max(codes, default=0)


def _report(rest: list[str], debug: bool) -> int:
    from flows.audit import latest_reports

    flags, names, overrides = parsed(
        "report", rest, ABOUT["report"], open="also open it in a browser", multirun="commas in overrides sweep"
    )
    _only_overrides(names, "report")
    run_first = [*(["-m"] if flags.multirun else []), *overrides]
    if not all(override.startswith("backend.") for override in overrides) and (code := _run(run_first, debug)):
        return code
    pages = latest_reports(looking.store_of([o for o in overrides if o.startswith("backend")]))
    for path in pages:
        print(path)
    if flags.open:
        import webbrowser

        webbrowser.open(pages[0].as_uri())
    return 0


def _completion(rest: list[str], debug: bool) -> int:
    from flows.completion import script

    print(script(rest[0] if rest else "bash", ABOUT))
    return 0


_COMMANDS = {"run": _run, "plan": _plan, "report": _report, "completion": _completion}
_COMMANDS |= {
    name: getattr(module, name) for module in (studying, inspecting, steer, surveying, launch, pushing) for name in module.ABOUT
}
_COMMANDS |= porting.COMMANDS
_PLAIN = {name: getattr(module, name) for module in (looking, lab) for name in module.ABOUT}

if __name__ == "__main__":
    sys.exit(program())
