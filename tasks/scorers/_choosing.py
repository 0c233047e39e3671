"""Which test windows are judged: activating ones evenly from all quantiles, others by shares of their groups.

Draws come from generators of their own, named by seed, latent and purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from tasks.explainers.base import Window


def generator(seed: int, latent: int, purpose: str) -> Random:
    """A random generator that depends on nothing but these, here and everywhere."""
    return Random(f"{seed}/{latent}/{purpose}")


def evenly(windows: Sequence[Window], n: int, draw: Random) -> list[Window]:
    """At most ``n`` windows, as many from each quantile; the strongest ones only where the sampled ones do not do."""
    taken: dict[str, Window] = {}
    for sampled in (True, False):
        layers: dict[int, list[Window]] = {}
        for window in windows:
            if (window.group != "top") == sampled:
                layers.setdefault(window.quantile, []).append(window)
        for layer in layers.values():
            draw.shuffle(layer)
        for i in range(max(map(len, layers.values()), default=0)):
            at_i = [layers[q][i] for q in sorted(layers) if i < len(layers[q])]
            draw.shuffle(at_i)
            for window in at_i:
                if len(taken) < n:
                    taken.setdefault(window.window_id, window)
    return list(taken.values())


def by_group(windows: Sequence[Window], n: int, shares: Mapping[str, float], draw: Random) -> list[Window]:
    """At most ``n`` windows, of each group its share; groups that have too few are filled up for by the others.

    No shares at all mean equal ones of all groups that there are. Every window is taken once, though several groups
    may have found it.
    """
    groups: dict[str, list[Window]] = {}
    for window in windows:
        if not shares or shares.get(window.group, 0) > 0:
            groups.setdefault(window.group, []).append(window)
    order = sorted(groups)
    for name in order:
        draw.shuffle(groups[name])
    taken: dict[str, Window] = {}
    counts = dict.fromkeys(order, 0)
    while len(taken) < n and any(groups.values()):
        # the group that is furthest behind its share is next
        name = min((g for g in order if groups[g]), key=lambda g: ((counts[g] + 1) / (shares or {}).get(g, 1), g))
        window = groups[name].pop()
        counts[name] += window.window_id not in taken
        taken.setdefault(window.window_id, window)
    return list(taken.values())
