"""What a study would take on a federation that is described in a file: `relay study plan --federation`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.config.study import Study
from common.errors import RelayError
from common.plan import Census
from common.plan.graph import FineTune
from common.text import count, duration, percent, short_bytes
from deploy.planning.durations import durations
from deploy.planning.federation import Federation, VirtualSite, relative
from deploy.planning.trial import Speed
from deploy.planning.virtual_run import (
    CLOSED,
    COMPUTING,
    COORDINATOR,
    KINDS,
    MBIT,
    MESSAGES,
    OWN_LINK,
    POOL,
    SHARED_LINK,
    StageOnPaper,
    World,
    descriptions_of,
    run_virtually,
)

BETWEEN = "averaging at the coordinator"
"""What passes on the longest chain between the end of a stage and the beginning of the next."""
MOST_LINES = 40
"""The most sites that are printed one by one; of more, the means of each entry of the file are."""
TITLES = {
    COMPUTING: "computing",
    POOL: "for a card",
    CLOSED: "closed",
    OWN_LINK: "own link",
    SHARED_LINK: "shared link",
    MESSAGES: "messages",
    COORDINATOR: "coordinator",
}
"""The heads of the table."""


@dataclass(frozen=True)
class SiteTime:
    """Where the time of a site goes: seconds of each kind, and without a stage; their sum is the whole time."""

    site: str
    group: int
    stages: int
    seconds: Mapping[str, float]
    """By kind; see `deploy.planning.virtual_run.KINDS`."""
    idle: float


@dataclass(frozen=True)
class Outlook:
    """What a study would take on a federation."""

    seconds: float
    """From the first order to the last answer."""
    trainings: int
    scorings: int
    sites: tuple[SiteTime, ...]
    to_sites: float
    from_sites: float
    """Bytes of weights."""
    up_share: float
    down_share: float
    """Of the bytes that the coordinator's link to and from the sites could have carried in all the time."""
    link_busy: float
    """The share of the time in which any weights are on the way."""
    processor_share: float
    """Of the two messages with weights that the coordinator can work on at a time, over all the time."""
    averaging: float
    """Seconds for which the coordinator averages."""
    pools: Mapping[str, float]
    """The share of each pool's cards that compute, over all the time."""
    most_bytes: int
    """The most bytes of weights on the coordinator's disk at a time."""
    chain: Mapping[str, float]
    """Of the chain of stages that ends last, each begun by the end of the one before, the seconds of each kind; their
    sum is the whole time."""
    chain_sites: tuple[str, ...]
    """The sites of the chain's stages, in its order, without repetitions side by side."""


def outlook(
    study: Study,
    census: Census,
    federation: Federation,
    sites: Mapping[str, VirtualSite],
    measured: Callable[[Study], Speed],
) -> Outlook:
    """Run all networks and seeds of a study on paper, one after the other.

    Args:
        study: the study.
        census: the training slices of each site in each fold.
        federation: the federation.
        sites: its sites.
        measured: returns the speed of this machine with a plain study's network.

    Raises:
        RelayError: a part of the study could not be run at all.
    """
    world = World(federation, sites)
    for variant in study.variants:
        speeds = {
            name: site.speed or relative(measured(variant), site.config.speed or 1) for name, site in sites.items()
        }
        seconds = durations(variant, census, {}, speeds.__getitem__, beside=0.0)
        state = run_virtually(variant, descriptions_of(variant, census, sites), world, seconds)
        if state.parked:
            raise RelayError(f"The study cannot be run on paper: {next(iter(state.parked.values()))}.")
    return summary(world, sites)


def summary(world: World, sites: Mapping[str, VirtualSite]) -> Outlook:
    """Return what came of a world's runs."""
    total = world.clock.now or 1.0
    of_site = {name: dict.fromkeys(KINDS, 0.0) for name in sites}
    stages: Counter[str] = Counter()
    for stage in world.stages:
        for kind, seconds in stage.spent.items():
            of_site[stage.node.site][kind] += seconds
        stages[stage.node.site] += not stage.known
    # Two stages may be the same work, which is done once.
    done = [stage.node for stage in world.stages if not stage.known]
    trainings = sum(isinstance(node, FineTune) and node.trains for node in done)
    chain, visited = _chain(world)
    link = world.federation.coordinator
    return Outlook(
        seconds=world.clock.now,
        trainings=trainings,
        scorings=len(done) - trainings,
        sites=tuple(
            SiteTime(
                site=name,
                group=site.group,
                stages=stages[name],
                seconds=of_site[name],
                idle=max(0.0, world.clock.now - sum(of_site[name].values())),
            )
            for name, site in sites.items()
        ),
        to_sites=world.to_sites.carried,
        from_sites=world.from_sites.carried,
        up_share=world.to_sites.carried / (total * link.up_mbit * MBIT),
        down_share=world.from_sites.carried / (total * link.down_mbit * MBIT),
        link_busy=max(world.to_sites.busy_seconds, world.from_sites.busy_seconds) / total,
        processor_share=world.transfers.held_seconds / (total * world.transfers.count),
        averaging=world.averaging,
        pools={name: pool.held_seconds / (total * pool.count) for name, pool in world.pools.items()},
        most_bytes=world.ledger.most_bytes,
        chain=chain,
        chain_sites=visited,
    )


def _chain(world: World) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the seconds of each kind on the chain of stages that ends last, and the chain's sites."""
    spent: dict[str, float] = dict.fromkeys((*KINDS, BETWEEN), 0.0)
    visited: list[str] = []
    stage: StageOnPaper | None = max(world.stages, key=lambda one: one.ended, default=None)
    end = world.clock.now
    while stage is not None:
        spent[BETWEEN] += end - stage.ended
        for kind, seconds in stage.spent.items():
            spent[kind] += seconds
        if visited[-1:] != [stage.node.site]:
            visited.append(stage.node.site)
        end, stage = stage.began, stage.cause
    spent[BETWEEN] += end
    return spent, tuple(reversed(visited))


def as_values(found: Outlook, federation: Federation) -> dict[str, Any]:
    """Return an outlook for a script; what is drawn is said, too."""
    return {**asdict(found), "days": found.seconds / 86400, "dice": federation.dice, "bottleneck": bottleneck(found)}


def outlook_lines(found: Outlook, federation: Federation, *, adaptive: bool) -> list[str]:
    """Return an outlook in lines for a person.

    Args:
        found: the outlook.
        federation: the federation.
        adaptive: whether the study finds routes while it runs.
    """
    sites = count(len(found.sites), "site")
    work = f"{count(found.trainings, 'training')} and {count(found.scorings, 'scoring')}"
    first = (
        f"On a federation of {sites}: {_long(found.seconds)} from the first order to the last answer, for {work}. The"
        " coordinator's own scheduler was run under a virtual clock; preparing the patients is not counted."
    )
    lines = ["", first]
    if adaptive:
        how = "every hop is better than the one before" if federation.dice == "every hop gains" else "any may be best"
        lines.append(
            "Which routes are tried hangs on validation Dice that nobody knows yet: they were drawn with the seed"
            f" {federation.seed}, so that {how}."
        )
    lines += ["", *_table(found), ""]
    lines.append(
        f"The coordinator sends {short_bytes(found.to_sites)} and gets {short_bytes(found.from_sites)} of weights: its"
        f" link is used to {percent(found.up_share)} and {percent(found.down_share)}. It works on two messages with"
        f" weights at a time, for {percent(found.processor_share)} of the time, and averages for"
        f" {duration(found.averaging)}. At most {short_bytes(found.most_bytes)} of weights lie on its disk at a time."
    )
    lines += [
        f"The cards of the pool {name} compute for {percent(share)} of the time." for name, share in found.pools.items()
    ]
    lines.append(bottleneck(found))
    return lines


def bottleneck(found: Outlook) -> str:
    """Return, in a sentence, what the longest chain of stages spends its time on, and what would shorten it."""
    total = sum(found.chain.values()) or 1.0
    (first, most), *others = sorted(found.chain.items(), key=lambda item: -item[1])
    rest = [f"{percent(seconds / total, 0)} {kind}" for kind, seconds in others[:3] if seconds >= 0.005 * total]
    advice = {
        COMPUTING: "faster machines at the sites, or a study of fewer steps in sequence, would shorten it",
        POOL: "more graphics cards in the pool would shorten it",
        CLOSED: "longer hours would shorten it",
        OWN_LINK: "faster links of the sites would shorten it",
        SHARED_LINK: "a faster link of the coordinator would shorten it",
        MESSAGES: "fewer and longer stages (or a larger leg_minutes) would shorten it",
        COORDINATOR: "the coordinator's own processor is the bottleneck",
        BETWEEN: "the coordinator's own processor is the bottleneck",
    }[first]
    more = f" ({', '.join(rest)})" if rest else ""
    return f"The chain of stages that ends last is {percent(most / total, 0)} {first}{more}: {advice}."


def _long(seconds: float) -> str:
    """Return a time span, in days as well from a day on."""
    return f"{seconds / 86400:.1f} days ({duration(seconds)})" if seconds >= 86400 else duration(seconds)


def _table(found: Outlook) -> list[str]:
    """Return the table of where the time of each site goes, in shares of all the time."""
    kinds = [kind for kind in KINDS if any(site.seconds[kind] for site in found.sites)]
    head = ["", "stages", *(TITLES[kind] for kind in kinds), "idle"]
    total = found.seconds or 1.0
    rows: list[tuple[str, list[SiteTime]]] = [(site.site, [site]) for site in found.sites]
    if len(found.sites) > MOST_LINES:
        groups = {site.group: [one for one in found.sites if one.group == site.group] for site in found.sites}
        rows = [(f"{of[0].site} to {of[-1].site}", of) for of in groups.values()]
    cells = [head]
    for name, of in rows:
        shares = [sum(site.seconds[kind] for site in of) / len(of) / total for kind in kinds]
        idle = sum(site.idle for site in of) / len(of) / total
        stages = sum(site.stages for site in of) / len(of)
        cells.append([name, f"{stages:.0f}", *(percent(share) for share in (*shares, idle))])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
