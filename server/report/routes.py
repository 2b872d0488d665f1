"""The route maps: each route as a path of stops, with the gain or loss of Dice at every hop."""

from __future__ import annotations

from dataclasses import dataclass

from server.report.table import Comparison
from server.report.wording import figure, full_name, signed
from server.results.schema import Results, Row

STRIP, EDGE, TOP = 78.0, 40.0, 8.0


@dataclass(frozen=True)
class Stop:
    """A stop of a route."""

    x: float
    site: str
    dice: str
    gain: str
    """Dice points against the site's training alone; empty at a route's first site, where both models are the same."""
    sign: str
    """The style of the hop to this stop: "gain", "loss" or "even"."""
    half: float
    """Half the width of the stop's box."""


@dataclass(frozen=True)
class RouteStrip:
    """A route with its stops."""

    y: float
    start: float
    stops: tuple[Stop, ...]
    name: str
    shorter: str
    """Dice points against the same route without its first hop; empty if the study has no such route."""
    shorter_name: str
    """The same route without its first hop."""
    headline: bool


@dataclass(frozen=True)
class Map:
    """The routes of a target."""

    target: str
    width: float
    height: float
    strips: tuple[RouteStrip, ...]


def _is_stage(row: Row, route: tuple[str, ...]) -> bool:
    """Return whether a row's model is the end of a route; for a route of a single site, the target alone."""
    if row.target != route[-1]:
        return False
    return row.kind.baseline if len(route) == 1 else row.kind.routed and row.route == route


class _Found:
    """Looks up the Dice of the model at a stop of a route."""

    def __init__(self, results: Results, table: Comparison) -> None:
        self._table = table
        first = next(iter(results.repeats), None)
        self._rows = [row for row in results.rows if row.repeat == first]
        self._parents = {stage.id: stage.parent for stage in results.stages}
        self._hops = {
            (entry.method, entry.route, entry.target): entry.after
            for entry in results.forgetting
            if entry.repeat == first
        }

    def at(self, route: tuple[str, ...], method: str, stage: str | None = None) -> float | None:
        """Return the Dice at the end of a route: of the row with a given stage, else of the selected row.

        Args:
            route: the sites of the route; a single one stands for the target alone.
            method: the method of a longer route, of whose rows one is preferred.
            stage: the `id` of the stage, where it is known.
        """
        found = [row for row in self._rows if _is_stage(row, route)]
        found.sort(key=lambda row: row.method != method)
        exact = [row for row in found if stage is not None and row.stage == stage]
        row = next(iter(exact or [row for row in found if row.selected]), None)
        return self._table.shown(row) if row else None

    def along(self, row: Row) -> list[float | None]:
        """Return the Dice at every stop of a route, of the models handed on if results.json has their scores."""
        hops = self._hops.get((row.method, row.route, row.target))
        if hops and self._table.tested:
            return [hop.dice.get(hop.site) for hop in hops]
        stops = [self._table.shown(row)]
        stage = row.stage
        for length in range(len(row.route) - 1, 0, -1):
            stage = self._parents.get(stage) if stage else None
            stops.append(self.at(row.route[:length], row.method, stage))
        return stops[::-1]


def _difference(value: float | None, other: float | None) -> float | None:
    """Return a difference, or None if a value is missing."""
    return None if value is None or other is None else value - other


def _sign(difference: float | None) -> str:
    if difference is None or signed(difference) == "±0.0":
        return "even"
    return "gain" if difference > 0 else "loss"


def _half(site: str) -> float:
    return max(15.0, 4.2 * min(len(site), 9) + 7)


def route_maps(results: Results, table: Comparison) -> list[Map]:
    """Return a map for each target, of the first repeat.

    A map has the target's training alone and then every selected route, right-aligned at the target.
    """
    found = _Found(results, table)
    maps = []
    for column, target in enumerate(table.targets):
        cells = [cell.row for _, cell in table.column(column)]
        # Laps pass the same stops repeatedly, and are easier to read in the tables of forgetting.
        routed = [row for row in cells if row.kind.baseline or (row.kind.routed and row.route)]
        if all(row.kind.baseline for row in routed):
            continue
        longest = max(len(row.route) for row in routed)
        hop = max(96.0, 40 + 2 * max(_half(site) for row in routed for site in row.route or (target,)))
        end = EDGE + hop * longest
        # room right of the target for the comparison without the first hop
        side = 100 + 6.2 * max(len(" → ".join(row.route[1:])) if len(row.route) > 2 else 0 for row in routed)
        strips = []
        for index, row in enumerate(routed):
            route = row.route or (target,)
            along = found.along(row) if row.route else [table.shown(row)]
            stops = []
            for place, (site, dice) in enumerate(zip(route, along, strict=True)):
                gain = _difference(dice, found.at((site,), row.method)) if place else None
                stops.append(
                    Stop(
                        x=end - hop * (len(route) - 1 - place),
                        site=site,
                        dice=figure(dice),
                        gain="" if gain is None else signed(gain),
                        sign=_sign(gain),
                        half=_half(site),
                    )
                )
            shorter = found.at(route[1:], row.method) if len(route) > 2 else None
            against = _difference(along[-1], shorter)
            strips.append(
                RouteStrip(
                    y=TOP + STRIP * index + 22,
                    start=stops[0].x - hop + 12,
                    stops=tuple(stops),
                    name=full_name(row),
                    shorter="" if against is None else signed(against),
                    shorter_name=" → ".join(route[1:]),
                    headline=row.headline,
                )
            )
        maps.append(
            Map(
                target=target,
                width=end + _half(target) + side,
                height=TOP + STRIP * len(strips),
                strips=tuple(strips),
            )
        )
    return maps
