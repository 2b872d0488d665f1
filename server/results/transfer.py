"""Backward and forward transfer along a route (Lopez-Paz and Ranzato, Gradient Episodic Memory, NeurIPS 2017).

Let R[i][s] be the test Dice at site s of the model after hop i of a route of n hops, and b[s] that of the site's own
model, trained alone for one stage.

- Backward transfer: over the sites that the model left, the mean of R[n][s] - R[i][s], where i is the site's last hop.
  Below zero, the model has forgotten.
- Forward transfer: over the sites that the model came to after the first hop, the mean of R[i-1][s] - b[s], where i is
  the site's first hop: what the model brought before the site trained it, against what the site has by itself.

On a route without repetition these are the paper's sums over tasks. The paper's b is that of an untrained model; an
untrained model segments nothing that could be compared, so that b here is the model that a hospital would have alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from server.results.schema import MeasuredHop


def backward_transfer(after: Sequence[MeasuredHop]) -> float | None:
    """Return a route's backward transfer in Dice points; None where no site was left or a Dice is missing."""
    last = {hop.site: hop for hop in after}
    end = after[-1]
    return _mean([(end.dice.get(site), hop.dice.get(site)) for site, hop in last.items() if site != end.site])


def forward_transfer(after: Sequence[MeasuredHop], alone: Mapping[str, float | None]) -> float | None:
    """Return a route's forward transfer in Dice points; None where no site was reached later or a Dice is missing.

    Args:
        after: the model after every hop of the route.
        alone: by site, the test Dice of the site's own model, per cent.
    """
    first: dict[str, int] = {}
    for place, hop in enumerate(after):
        first.setdefault(hop.site, place)
    reached = [(site, place) for site, place in first.items() if place]
    return _mean([(after[place - 1].dice.get(site), alone.get(site)) for site, place in reached])


def _mean(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """Return the mean difference of pairs; None without pairs, or where a value is missing."""
    gaps = [one - other for one, other in pairs if one is not None and other is not None]
    return round(statistics.fmean(gaps), 6) if gaps and len(gaps) == len(pairs) else None
