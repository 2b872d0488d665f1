"""Forgetting: each hospital's test Dice of the travelling model after every hop."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from common.plan import method_of, place_of
from common.text import listed
from server.report.wording import capital, figure, signed, site_names
from server.results.schema import Forgetting, Results


@dataclass(frozen=True)
class Kept:
    """A model's test Dice at a site, in per cent."""

    dice: float | None
    change: float | None
    """The change since the hop before, in Dice points; None after the first hop."""
    trained: bool
    """Whether the hop led to this site."""


@dataclass(frozen=True)
class HopLine:
    """The line of a hop, with a cell for each site."""

    site: str
    cells: tuple[Kept, ...]


@dataclass(frozen=True)
class Matrix:
    """The table of a route: a line for each hop, a column for each site."""

    target: str
    way: str
    headline: bool
    repeat: int
    """The number of the repeat, from 1."""
    sites: tuple[str, ...]
    lines: tuple[HopLine, ...]
    sentence: str
    """Each site's loss or gain, in words."""
    transfer: str
    """Backward and forward transfer, in words."""


@dataclass(frozen=True)
class TransferLine:
    """The transfer of a method, a mean over its selected routes of all targets and repeats."""

    title: str
    routes: int
    backward: float | None
    forward: float | None


def transfer_lines(results: Results) -> list[TransferLine]:
    """Return a line for each method with routes of two hops or more, in the table's order of methods."""
    found = []
    for kind in sorted({method_of(entry.method) for entry in results.forgetting}, key=place_of):
        entries = [entry for entry in results.forgetting if entry.method == kind.key]
        backward = [entry.backward_transfer for entry in entries if entry.backward_transfer is not None]
        forward = [entry.forward_transfer for entry in entries if entry.forward_transfer is not None]
        if backward or forward:
            found.append(TransferLine(kind.title, len(entries), _mean(backward), _mean(forward)))
    return found


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def matrices(results: Results) -> list[Matrix]:
    """Return the tables of all selected routes of a network: headlines first, then by repeat and target."""
    sites, repeats = site_names(results), results.repeats
    found = [
        Matrix(
            target=entry.target,
            way=_way(entry),
            headline=entry.headline,
            repeat=repeats.index(entry.repeat) + 1 if entry.repeat in repeats else 1,
            sites=sites,
            lines=_lines(entry, sites),
            sentence=_sentence(entry, sites),
            transfer=_transfer(entry),
        )
        for entry in results.forgetting
    ]
    order = {site: index for index, site in enumerate(sites)}
    return sorted(found, key=lambda one: (not one.headline, one.repeat, order.get(one.target, len(order))))


def _way(entry: Forgetting) -> str:
    """Return the name of a route with its brake, if it has one; of laps, all their hops."""
    kind = method_of(entry.method)
    return kind.name(entry.route, entry.target) if kind.own_line else " → ".join(entry.route)


def _lines(entry: Forgetting, sites: tuple[str, ...]) -> tuple[HopLine, ...]:
    lines = []
    for index, hop in enumerate(entry.after):
        before = entry.after[index - 1].dice if index else {}
        cells = tuple(Kept(hop.dice.get(s), _less(hop.dice.get(s), before.get(s)), s == hop.site) for s in sites)
        lines.append(HopLine(hop.site, cells))
    return tuple(lines)


def _sentence(entry: Forgetting, sites: tuple[str, ...]) -> str:
    """Return each site's loss or gain along a route, in words.

    For a site that the model left, the sentence compares the end of the route with the site's own hop; for the last
    site, the last hop with the hop before.
    """
    last = entry.after[-1]
    parts = []
    for site in sites:
        visits = [index for index, hop in enumerate(entry.after) if hop.site == site]
        if not visits or visits[-1] == len(entry.after) - 1:
            continue
        own, end = entry.after[visits[-1]].dice.get(site), last.dice.get(site)
        gap = _less(end, own)
        if gap is not None:
            parts.append(f"{site} {_verb(gap)}, from {figure(own)} after its own hop to {figure(end)}")
    if len(entry.after) > 1:
        gap = _less(last.dice.get(last.site), entry.after[-2].dice.get(last.site))
        if gap is not None:
            parts.append(f"{last.site} {_verb(gap)} with the last hop")
    return f"{'; '.join(parts)}." if parts else ""


def _transfer(entry: Forgetting) -> str:
    """Return the backward and forward transfer of a route in words; empty where neither is known."""
    values = (("backward", entry.backward_transfer), ("forward", entry.forward_transfer))
    known = [f"{name} transfer {signed(value)}" for name, value in values if value is not None]
    return capital(f"{listed(known)}.") if known else ""


def _verb(gap: float) -> str:
    if signed(gap) == "±0.0":
        return "stayed as it was"
    return f"{'won' if gap > 0 else 'lost'} {abs(gap):.1f}"


def _less(value: float | None, other: float | None) -> float | None:
    """Return a difference, or None if a value is missing."""
    return None if value is None or other is None else value - other
