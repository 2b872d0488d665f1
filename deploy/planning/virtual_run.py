"""A study on paper: the coordinator's own scheduler with virtual sites, links and weights, under a virtual clock.

What is run next, what is waited for, which weights are deleted and when: all of it is decided by `server.scheduling`,
the code of every real run. In place of the sites stand the seconds that their work would take.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from common.config.study import Study
from common.digest import digest_of
from common.errors import DiskFull
from common.model.network import declared, declared_bytes, staying_bytes
from common.plan import Census, plan
from common.plan.graph import Average, Evaluate, FineTune, Node, Refilled, ServerStep, lacks_batch_norm, way_of
from common.plan.stage_key import completed_digest
from common.protocol.messages import Description
from common.seeds import seed_of
from common.strategies import STRATEGIES
from common.text import short_bytes
from deploy.planning.federation import Federation, SiteGroup, VirtualSite, open_from
from deploy.planning.virtual_clock import MBIT, Clock, Process, SharedLink, Slots
from server.disk_space import needed_at_once
from server.ledger.ledger import Ledger, StageRecord
from server.scheduling.scheduler import Scheduler
from server.scheduling.state import RunState, census_of, parts_of
from server.transport.outcomes import Parked
from server.transport.site_channel import TRANSFERS_AT_ONCE, Traffic

MB = 1e6
ROUNDING = 1e-5
"""Seconds of computing that are no reason to wait for another day or card."""

COMPUTING = "computing"
POOL = "waiting for a card of the pool"
CLOSED = "outside its hours"
OWN_LINK = "sending over its own link"
SHARED_LINK = "sending over the coordinator's link"
MESSAGES = "messages"
COORDINATOR = "at the coordinator"
KINDS = (COMPUTING, POOL, CLOSED, OWN_LINK, SHARED_LINK, MESSAGES, COORDINATOR)
"""What the seconds from an order to its result go to. Of a transfer, what it would have taken over the site's own link
alone is `OWN_LINK`, and what the coordinator's link adds is `SHARED_LINK`; `COORDINATOR` are the checks and copies of
weights there, the wait for them, and the time until the coordinator looks at an answer."""


@dataclass
class StageOnPaper:
    """A stage that was begun."""

    node: FineTune | Evaluate
    began: float
    cause: StageOnPaper | None
    """The stage whose outcome the coordinator took in before it began this one; None of the first ones."""
    ended: float = math.nan
    known: bool = False
    """Whether another stage had come to the same record before, so that the site was not asked."""
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    """Seconds of each kind, from `KINDS`; their sum is `ended` less `began`."""


class VirtualLedger(Ledger):
    """Records, and the sizes of weights that would lie on the coordinator's disk."""

    def __init__(self) -> None:
        """Begin without records and weights, and without a folder."""
        self._kept: dict[str, StageRecord] = {}
        self._sizes: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        """Bytes of all weights that there ever were."""
        self.bytes = self.most_bytes = 0
        """Bytes on the disk now, and the most that there were at any time."""

    def get(self, key: str) -> StageRecord | None:
        """Return the record with a key, or None."""
        return self._kept.get(key)

    def put(self, record: StageRecord) -> None:
        """Add a record."""
        self._kept[record.key] = record

    def has(self, digest: str) -> bool:
        """Return whether the weights with a digest are on the disk."""
        return digest in self._sizes

    def drop(self, digest: str) -> None:
        """Delete weights."""
        self.bytes -= self._sizes.pop(digest, 0)

    def add(self, digest: str, size: int) -> None:
        """Store weights."""
        if digest not in self._sizes:
            self._sizes[digest] = self.sizes[digest] = size
            self.bytes += size
            self.most_bytes = max(self.most_bytes, self.bytes)


class World:
    """What outlasts a network and a pair of seeds: the clock, the links, the pools and the coordinator's disk."""

    def __init__(self, federation: Federation, sites: Mapping[str, VirtualSite]) -> None:
        """Begin at the federation's hour, with everything idle.

        Args:
            federation: the federation.
            sites: its sites, by the study's names.
        """
        link = federation.coordinator
        self.federation, self.clock = federation, Clock()
        self.groups: dict[str, SiteGroup] = {name: site.config for name, site in sites.items()}
        self.to_sites = SharedLink(self.clock, link.up_mbit * MBIT)
        self.from_sites = SharedLink(self.clock, link.down_mbit * MBIT)
        self.transfers = Slots(self.clock, TRANSFERS_AT_ONCE)
        self.pools = {pool.name: Slots(self.clock, pool.cards) for pool in federation.pools}
        self.ledger = VirtualLedger()
        self.held: dict[str, str] = defaultdict(str)
        """For each site, the digest of its last trained weights while it holds them."""
        self.stages: list[StageOnPaper] = []
        """All stages, in the order in which they were begun."""
        self.averaging = 0.0
        """Seconds for which the coordinator averaged, and began no stage."""

    @property
    def hour(self) -> float:
        """The hour of the day now."""
        return (self.federation.begins + self.clock.now / 3600) % 24


def drawn_dice(federation: Federation) -> Callable[[Node, str], float]:
    """Return a function that draws the Dice (0 to 1) of weights at a site; see `Federation.dice`."""

    def dice(weights: Node, site: str) -> float:
        draw = seed_of("federation", federation.seed, weights.id, site) / 2**63
        if federation.dice == "drawn":
            return 0.5 + 0.45 * draw
        # The worst draw after one more hop is above the best draw before it.
        return 1 - (1 + 0.4 * draw) * 0.5 ** (way_of(weights).count("→") + 2)

    return dice


class VirtualScheduler(Scheduler):
    """The scheduler's loop, with virtual sites in the place of threads."""

    def __init__(
        self,
        state: RunState,
        world: World,
        seconds: Callable[[FineTune | Evaluate], float],
        dice: Callable[[Node, str], float],
        *,
        keep_weights: bool = False,
    ) -> None:
        """Set up a run.

        Args:
            state: the state of the run.
            world: the clock and what it moves.
            seconds: returns for how long a stage computes.
            dice: returns the Dice (0 to 1) of weights at a site.
            keep_weights: keep all weights, even after their last use.
        """
        super().__init__(
            state,
            channels={},
            ledger=world.ledger,
            observe=lambda _: None,
            traffic=Traffic(),
            keep_weights=keep_weights,
        )
        self.world, self._seconds, self._dice = world, seconds, dice
        self._outcomes: deque[tuple[StageOnPaper, StageRecord]] = deque()
        self._last: StageOnPaper | None = None
        self._size = declared_bytes(state.study.model)
        self._norm = staying_bytes(state.study.model, "batch-norm")

    def held(self, site: str) -> str:
        """Return the digest of a site's last trained weights while the site holds them."""
        return self.world.held[site]

    def begin(self, node: FineTune | Evaluate) -> None:
        """Begin a stage at its virtual site."""
        stage = StageOnPaper(node, self.world.clock.now, self._last)
        self.world.stages.append(stage)
        self.world.clock.begin(self._answered(stage))

    def await_outcome(self) -> tuple[FineTune | Evaluate, StageRecord | Parked]:
        """Let the time pass until a stage has ended and the coordinator has looked at its outcome."""
        while not self._outcomes:
            self.world.clock.step()
        stage, record = self._outcomes.popleft()
        self.world.clock.pass_by(self.world.federation.coordinator.message_seconds)
        stage.spent[COORDINATOR] += self.world.clock.now - stage.ended
        stage.ended = self.world.clock.now
        self._last = stage
        return stage.node, record

    def make(self, node: Average | Refilled) -> StageRecord:
        """Return the record of an average, while the coordinator's loop does nothing else."""
        state, ledger = self.state, self.world.ledger
        moments = 0
        if isinstance(node, Refilled):
            key, size = state.refilled_key(node, state.records), self._size
            parents = [state.records[node.weights].file, state.start.weights]
        else:
            key = state.average_key(node, state.records)
            parents = [part.models[0] for part in parts_of(node, state.records).values()]
            size = self._size - self._norm * lacks_batch_norm(node)
            server = STRATEGIES[node.strategy].server if isinstance(node, ServerStep) else None
            moments = len(server.moments) if server else 0
        seconds = self._handling(size + sum(ledger.sizes[digest] for digest in parents))
        self.world.averaging += seconds
        self.world.clock.pass_by(seconds)
        record = StageRecord(
            key=key,
            kind="average" if isinstance(node, Average) else "refilled",
            fold=node.fold if isinstance(node, Average) else state.records[node.weights].fold,
            parents=tuple(parents),
            weights=digest_of(f"weights {key}".encode()),
            state=digest_of(f"state {key}".encode()) if moments else "",
        )
        ledger.add(record.weights, size)
        if moments:
            ledger.add(record.state, moments * self._size)
        ledger.put(record)
        return record

    def _handling(self, size: float) -> float:
        """Return the seconds in which the coordinator checks and copies so many bytes."""
        return size / MB * self.world.federation.coordinator.seconds_a_mb

    def _answered(self, stage: StageOnPaper) -> Process:
        """Take a stage from its order to its outcome, as `server.scheduling.dispatch` and a site's channel do."""
        world, node = self.world, stage.node
        site = world.groups[node.site]
        record = self.state.known(node)
        stage.known = record is not None
        if record is None:
            yield from self._sent(stage)
            left, leg = self._seconds(node), self._leg(node)
            while True:  # a leg of the stage, and a message for the next one
                yield from self._computed(stage, min(left, leg))
                left -= leg
                if left <= 0:
                    break
                with self._spending(stage, MESSAGES):
                    yield world.clock.sleep(site.message_seconds)
            record = self._record(node)
            came = record.models if isinstance(node, FineTune) else ()
            for digest in came:
                yield from self._carried(stage, digest, world.from_sites, site.up_mbit)
                yield from self._handled(stage, digest)
            world.ledger.put(record)
            for digest in came:
                world.ledger.add(digest, self._bytes(digest))
                world.held[node.site] = digest
        stage.ended = world.clock.now
        self._outcomes.append((stage, record))

    def _sent(self, stage: StageOnPaper) -> Process:
        """Send an order, with the weights that the site does not hold; several of an ensemble, each in its message."""
        world, node, state = self.world, stage.node, self.state
        site = world.groups[node.site]
        given = state.records[node.parents[0]]
        files = given.models or ("",)
        if world.held[node.site] not in files:
            world.held[node.site] = ""  # the order acknowledges the last result, which the site then deletes
        for digest in files:
            if digest and digest != world.held[node.site]:
                yield from self._handled(stage, digest)
                yield from self._carried(stage, digest, world.to_sites, site.down_mbit)
            with self._spending(stage, MESSAGES):
                yield world.clock.sleep(site.message_seconds)

    def _handled(self, stage: StageOnPaper, digest: str) -> Process:
        """Have a message with weights read or stored at the coordinator."""
        slots = self.world.transfers
        with self._spending(stage, COORDINATOR):
            yield slots.take
            yield self.world.clock.sleep(self._handling(self._bytes(digest)))
        slots.release()

    def _carried(self, stage: StageOnPaper, digest: str, link: SharedLink, own_mbit: float) -> Process:
        size, fastest = self._bytes(digest), own_mbit * MBIT
        began = self.world.clock.now
        yield link.carry(size, fastest)
        seconds = self.world.clock.now - began
        alone = min(seconds, size / fastest)
        stage.spent[OWN_LINK] += alone
        stage.spent[SHARED_LINK] += seconds - alone

    def _computed(self, stage: StageOnPaper, seconds: float) -> Process:
        """Compute for some seconds, within the site's hours and on a card of its pool."""
        world, site = self.world, self.world.groups[stage.node.site]
        pool = world.pools.get(site.pool)
        while seconds > ROUNDING:
            until, for_hours = open_from(site.hours, world.hour)
            with self._spending(stage, CLOSED):
                yield world.clock.sleep(3600 * until)
            if pool:
                with self._spending(stage, POOL):
                    yield pool.take
                # The site may have had to wait for a card until its hours were over.
                until, for_hours = open_from(site.hours, world.hour)
            part = 0.0 if until > 0 else min(seconds, 3600 * for_hours)
            with self._spending(stage, COMPUTING):
                yield world.clock.sleep(part)
            if pool:
                pool.release()
            seconds -= part

    def _leg(self, node: FineTune | Evaluate) -> float:
        """Return the seconds of a leg: it ends with the first epoch that ends after the study's `leg_minutes`."""
        if isinstance(node, Evaluate) or not node.schedule.epochs:
            return math.inf
        epoch = self._seconds(node) / node.schedule.epochs
        least = 60 * self.state.study.training.leg_minutes
        # The division may be off by a rounding error; a leg too many would be one of no epoch.
        return epoch * max(1, math.ceil(least / epoch - 1e-9)) * (1 + 1e-12) if epoch else math.inf

    @contextmanager
    def _spending(self, stage: StageOnPaper, kind: str) -> Iterator[None]:
        began = self.world.clock.now
        yield
        stage.spent[kind] += self.world.clock.now - began

    def _bytes(self, digest: str) -> int:
        return self.world.ledger.sizes[digest]

    def _size_of(self, node: FineTune) -> int:
        """Return the bytes of the weights that a training sends."""
        return self._size - (self._norm if node.stays == "batch-norm" else 0)

    def _record(self, node: FineTune | Evaluate) -> StageRecord:
        """Return the record that a stage would have."""
        state, study = self.state, self.state.study
        key = state.key(node, state.records)
        weights = node if isinstance(node, FineTune) else node.weights
        dice = self._dice(weights, node.site)
        if isinstance(node, Evaluate):
            models = state.records[node.weights].models
            return StageRecord(
                key=key,
                kind="evaluate",
                site=node.site,
                fold=node.fold,
                parents=models,
                dice=dice,
                iou=dice / (2 - dice),
                dice_volume=dice,
            )
        sent = digest_of(f"weights {key}".encode()) if node.stays != "everything" else ""
        own = digest_of(f"own {key}".encode()) if node.stays else ""
        if sent:
            self.world.ledger.sizes[sent] = self._size_of(node)
        return StageRecord(
            key=key,
            kind="fine-tune" if node.trains else "re-estimate",
            site=node.site,
            fold=node.fold,
            parents=(state.records[node.parent].file,),
            weights=completed_digest(sent, own),
            own=own,
            parts=digest_of(f"parts {key}".encode()) if declared(study.model).stays and node.trains else "",
            shared=sent if own else "",
            train_slices=state.descriptions[node.site].train_slices[node.fold],
            dice=dice,
            iou=dice / (2 - dice),
            dice_volume=dice,
        )


def descriptions_of(study: Study, census: Census, sites: Mapping[str, VirtualSite]) -> dict[str, Description]:
    """Return what the sites of a federation on paper would describe.

    Args:
        study: a plain study.
        census: the training slices of each site in each fold.
        sites: the sites.
    """
    part = study.split

    def of(name: str, site: SiteGroup) -> Description:
        test = round(site.patients * part.test_fraction)
        held_out = max(1, (site.patients - test) // part.folds)
        return Description(
            study=study.digest,
            site=name,
            patients_found=site.patients,
            prepared=site.patients,
            patients=site.patients,
            test_patients=test,
            slices=site.slices,
            test_slices=round(site.slices * part.test_fraction),
            train_slices=census[name],
            train_patients=(max(1, site.patients - test - held_out),) * part.folds,
            validation_patients=(held_out,) * part.folds,
            fingerprint=digest_of(f"virtual {name}".encode()),
            torch="0",
            device="cpu",
            precision="float32",
        )

    return {name: of(name, site.config) for name, site in sites.items()}


def run_virtually(
    study: Study,
    descriptions: Mapping[str, Description],
    world: World,
    seconds: Callable[[FineTune | Evaluate], float],
    *,
    dice: Callable[[Node, str], float] | None = None,
    keep_weights: bool = False,
) -> RunState:
    """Run a plain study on paper, and return the state at its end; the world's clock goes on.

    Args:
        study: a plain study.
        descriptions: what the sites describe; see `descriptions_of`.
        world: what outlasts the study.
        seconds: returns for how long a stage computes.
        dice: returns the Dice (0 to 1) of weights at a site; by default drawn as the federation's file says.
        keep_weights: keep all weights, even after their last use.

    Raises:
        DiskFull: the federation's coordinator has no room for the weights.
    """
    key = digest_of(f"start {study.digest}".encode())
    start = StageRecord(key=key, kind="start", weights=digest_of(f"weights {key}".encode()))
    world.ledger.add(start.weights, declared_bytes(study.model))
    state = RunState(
        study,
        plan(study, census_of(descriptions)),
        descriptions,
        start,
        lookup=world.ledger.get,
        has_weights=world.ledger.has,
    )
    room = world.federation.coordinator.disk_gb
    if room is not None:
        in_search = [state.to_make()], [state.searched]
        for state.scarce in (False, True):
            _, need = needed_at_once([study], *in_search, everything=keep_weights, scarce=state.scarce)
            if need <= room * 1e9:
                break
        else:
            raise DiskFull(
                f"The weights need {short_bytes(need)}, and disk_gb of the federation's coordinator leaves"
                f" {short_bytes(room * 1e9)}; describe a larger disk, or set fewer folds or routes in the study."
            )
    dice = dice or drawn_dice(world.federation)
    return VirtualScheduler(state, world, seconds, dice, keep_weights=keep_weights).run()
