"""The commands of a lab with a Prefect server: follow, deploy, worker, doctor. What they do lies in modules of their own."""

from __future__ import annotations

import argparse

from flows.looking import parsed, store_of
from tasks.spec import SpecError

ABOUT = {
    "follow": "show what a run in the pool does, as it does it ('last', or its id)",
    "deploy": "tell the Prefect server of SAINT: pools, deployments, limits; --cron '0 2 * * *' schedules a run or a sweep",
    "worker": "run Prefect workers on this machine, one to a GPU (--pool gpu), or for runs that watch over them (--pool cpu)",
    "doctor": "check versions, server, pools, workers, GPU, store, locks, disk; says what to do about each",
}


def follow(rest: list[str]) -> int:
    from flows import running
    from flows.runs import recorded

    _, names, overrides = parsed("follow", rest, ABOUT["follow"])
    store = store_of(overrides)
    if len(names) > 1:
        raise SpecError(f"{' '.join(names)}, but saint follow shows one run at a time; name one")
    if not names or names[0] == "last":
        names = [run["id"] for run in recorded(store) if run.get("mode") == "pool"][-1:]
    if not names:
        raise SpecError("follow, but no run of this store went to the pool; saint run runtime.mode=pool sends one")
    return running.follow(store, names[0])


def deploy(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="saint deploy", description=ABOUT["deploy"], allow_abbrev=False)
    parser.add_argument("--cron", help="also schedule a run of the overrides: minute hour day month weekday")
    parser.add_argument("--timezone", default="UTC", help="of the cron expression, such as Europe/Berlin (UTC)")
    parser.add_argument("--name", default="scheduled", help="of the scheduled deployment (scheduled)")
    parser.add_argument("-m", "--multirun", action="store_true", help="commas in overrides sweep")
    parser.add_argument("overrides", nargs="*", metavar="name=value")
    flags = parser.parse_intermixed_args(rest)
    if flags.overrides and not flags.cron:
        raise SpecError(f"{flags.overrides[0]}, but only a schedule takes overrides; add --cron '0 2 * * *'")
    from flows import deploy as server

    each, times = None, None
    if flags.cron:  # first, so that a mistake in it is told before anything is changed
        from flows.sweep import jobs, split

        times = server.times(flags.name, flags.cron, flags.timezone)
        each = jobs(split(flags.overrides) if flags.multirun else [flags.overrides])
    for line in server.deploy():
        print(line)
    if each is not None:
        print(server.schedule(each, flags.name, times))
    return 0


def worker(rest: list[str]) -> int:
    from flows import worker as workers

    parser = argparse.ArgumentParser(prog="saint worker", description=ABOUT["worker"], allow_abbrev=False)
    parser.add_argument("--pool", default="gpu", help="work pool (gpu)")
    parser.add_argument("--n", type=int, default=0, help="workers; 0: one to a GPU, or one where there is none")
    parser.add_argument(
        "--share", type=int, default=0, help="jobs at a time on each (gpu: 1, cpu: 8); on GPUs also runtime.gpu_share=true"
    )
    flags = parser.parse_args(rest)
    for name, least in (("n", 0), ("share", 0)):
        if (value := getattr(flags, name)) < least:
            raise SpecError(f"--{name} {value}, but it counts workers or jobs; use {least} or more")
    return workers.worker(flags.pool, flags.n, flags.share or (8 if flags.pool == "cpu" else 1))


def doctor(rest: list[str]) -> int:
    from flows import doctor as checking

    return checking.doctor(rest)
