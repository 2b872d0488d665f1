"""What one run knows of its plan: what is finished, waiting, needed and parked, and what follows from that.

No thread, no grid and no disk: what the ledger holds is asked through two functions, and everything else is worked out
from the values here.
"""

from __future__ import annotations

import json
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from common.config.study import Study
from common.plan import Census, Plan, grown, plan
from common.plan.graph import Average, Best, Evaluate, FineTune, Node
from common.plan.stage_key import ExecutionEnvironment, stage_key
from common.protocol.messages import Description
from server.ledger.ledger import StageRecord
from server.scheduling.absence import Absences
from server.scheduling.keys import absent_key, average_key
from server.scheduling.retention import collectable, inputs, roots, to_remake, winner

Records = Mapping[Node, StageRecord]


def census_of(descriptions: Mapping[str, Description]) -> Census:
    """Return the selected training slices by site and fold."""
    return {site: description.train_slices for site, description in descriptions.items()}


def slices_shown(node: Node, descriptions: Mapping[str, Description]) -> float:
    """Return the work of a stage: slices shown to the network, one of training for three of scoring."""
    if isinstance(node, FineTune):
        return float(descriptions[node.site].train_slices[node.fold] * node.schedule.epochs)
    return descriptions[node.site].test_slices / 3 if isinstance(node, Evaluate) else 0.0


def parts_of(node: Average, known: Records) -> dict[str, StageRecord]:
    """Return, by site, what a round has to average."""
    return {part.site: known[part] for part in node.parts if known[part].kind != "absent"}


@dataclass(eq=False)
class RunState:
    """One run of a plan; `records` grow until every stage that can be done is done."""

    study: Study
    plan: Plan
    """Of a study whose routes grow, as far as it is known."""
    descriptions: Mapping[str, Description]
    """By site."""
    start: StageRecord
    lookup: Callable[[str], StageRecord | None]
    """The ledger's record of a key."""
    has_weights: Callable[[str], bool]
    """Whether the weights of a digest are there."""
    records: dict[Node, StageRecord] = field(default_factory=dict)
    parked: dict[Node, str] = field(default_factory=dict)
    """Stages that wait for another run, and why."""
    not_made_again: dict[Node, str] = field(default_factory=dict)
    """Why stages with a record could not be worked out once more for their weights, which are gone."""
    skipped: set[Node] = field(default_factory=set)
    """Stages that the study went on without; their records hold the weights that they would have started from."""
    stored: list[Node] = field(default_factory=list)
    """Stages that this run found in the ledger."""
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The hops chosen so far, where routes grow."""
    waiting: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))
    """By site, what can be begun there."""
    at_work: dict[str, Node] = field(default_factory=dict)
    """By site, the stage that it works on."""
    found: dict[Node, StageRecord] = field(default_factory=dict)
    """What the ledger had of nodes when they came into the plan."""
    missing: dict[Node, int] = field(default_factory=dict)
    """Of every node, how many of its parents are not there yet."""
    way_left: dict[Node, float] = field(default_factory=dict)
    """Of every node, the work on the longest way from its beginning to the end of the study; see `slices_shown`."""
    users: dict[Node, list[Node]] = field(default_factory=lambda: defaultdict(list))
    """Of every node, those that use its weights."""
    kept: set[Node] = field(default_factory=set)
    """Nodes whose weights stay, whoever else asks."""
    changed_targets: set[str] = field(default_factory=set)
    """Targets whose growing routes have something new to be chosen from."""
    absences: Absences = field(init=False)
    """How long stages wait for their site, and which may be left out."""
    _children: dict[Node, list[Node]] = field(default_factory=lambda: defaultdict(list))
    _remake: set[Node] = field(default_factory=set)
    """Stages with a record whose weights are gone and needed."""
    _lacking: dict[Node, bool] = field(default_factory=dict)
    """Of every node that is known, whether it or a stage before it was skipped."""

    def __post_init__(self) -> None:
        """Look up all that the ledger knows before anything is settled: only so it shows which weights are needed."""
        self._find(self.plan.nodes)
        while (further := self.further(self.found, self.study.sites)) is not None:
            self.plan = further
            self._find(further.nodes)
        self.extend(self.plan)
        self.mark_lost()

    # The plan

    def extend(self, plan: Plan) -> list[Node]:
        """Make a plan the run's own, at first and whenever a route has grown; returns the nodes that are new in it."""
        self.plan = plan
        fresh = [node for node in plan.nodes if node not in self.missing]
        for node in fresh:
            parents = dict.fromkeys(node.parents)
            self.missing[node] = sum(parent not in self.records for parent in parents)
            for used in inputs(node):
                self.users[used].append(node)
            for parent in parents:
                self._children[parent].append(node)
                if parent in self.parked:
                    self.parked[node] = self.parked[parent]
        for node in reversed(plan.nodes):
            after = max((self.way_left[child] for child in self._children[node]), default=0.0)
            self.way_left[node] = after + slices_shown(node, self.descriptions)
        self._find(fresh)
        self.kept = set(roots(plan))
        self.absences = Absences(self.study, plan)
        return fresh

    def mark_lost(self) -> None:
        """Note which stages with a record have to be made again, since their weights are gone and needed."""
        self._remake |= to_remake(self.plan, {**self.found, **self.records}, self.has_weights)

    def further(self, known: Records, targets: Iterable[str]) -> Plan | None:
        """Return the plan with the next hops of some targets' routes that can be chosen from what is known; None where
        none can.
        """
        growing = {target: self.plan.growing[target] for target in targets if target in self.plan.growing}

        def dice(node: Node) -> float | None:
            # What another method went on without is not what a route is chosen by.
            return known[node].dice if node in known and not self._lacking[node] else None

        choices = grown(self.study, growing, self.choices, dice)
        if choices == self.choices:
            return None
        self.choices = choices
        return plan(self.study, census_of(self.descriptions), choices)

    # What is known

    def to_make(self) -> set[Node]:
        """Return what is still to be worked out, as far as the ledger knows."""
        known = ChainMap(self.records, self.found)
        return {node for node in self.plan.nodes if node in self._remake or node not in known}

    def known(self, node: Node) -> StageRecord | None:
        """Return the record of a node whose parents are settled, unless its weights have to be made again first."""
        record = self.record_of(node, self.records)
        if record is None or not record.weights or self.has_weights(record.weights):
            return record
        return None if node in self._remake or self._needs_weights(node, record) else record

    def record_of(self, node: Node, known: Records) -> StageRecord | None:
        """Return the record of a node whose parents are known, if there is one."""
        if isinstance(node, FineTune | Evaluate):
            return self.lookup(self.absent_key(node, known)) or self.lookup(self.key(node, known))
        if isinstance(node, Average):
            return self.lookup(self.average_key(node, known))
        if isinstance(node, Best):
            return known[winner(node, lambda ballot: known[ballot].dice)]
        return self.start

    def winner(self, node: Best) -> Node:
        """Return the candidate that was chosen."""
        return winner(node, self._dice)

    def _dice(self, node: Node) -> float | None:
        return self.records[node].dice if node in self.records else None

    def _find(self, nodes: Iterable[Node]) -> None:
        """Look for nodes' records in the ledger, parents first, without working anything out."""
        known = ChainMap(self.records, self.found)
        for node in nodes:
            if node not in known and all(parent in known for parent in node.parents):
                record = self.record_of(node, known)
                if record is not None:
                    self.found[node] = record
                    self._lacking[node] = self._lacks(node, record)

    def _needs_weights(self, node: Node, record: StageRecord) -> bool:
        """Whether somebody needs a node's weights: they may have gone with those of another stage that was the same
        work, before anybody knew that this one would be.
        """
        known = ChainMap({node: record}, self.records, self.found)
        gone = collectable([node], sharing=lambda _: [node], users=self.users, kept=self.kept, records=known)
        return record.weights not in gone

    # What is begun next, and what becomes of it

    def startable(self, nodes: Iterable[Node]) -> list[Node]:
        """Return those of some nodes whose parents are all there."""
        return [node for node in nodes if not self.missing[node]]

    def next_of(self, nodes: Iterable[Node], held: str) -> Node:
        """Return the stage that a site does next: scores of weights that it still holds, or of an average, which may
        then be taken away; after them the stage with the longest way to the end.

        Args:
            nodes: what can be begun at the site.
            held: the digest of the weights that the site has made last.
        """

        def rank(node: Node) -> tuple[bool, float]:
            first = isinstance(node, Evaluate) and (
                isinstance(node.weights, Average) or self.input_digest(node) == held
            )
            return first, self.way_left[node]

        return max(nodes, key=rank)

    def settle(self, node: Node, record: StageRecord) -> list[Node]:
        """Take in a node's record; returns the nodes of rounds whose weights may be needed no more.

        A new score may leave another candidate of a choice behind. What lies on a route stays to the end: other ways
        may lead to the same weights, and then go on from them.
        """
        self.records[node] = record
        if isinstance(node, FineTune):
            self.changed_targets.add(node.site)
        if record.kind == "absent":
            self.skipped.add(node)
        self._lacking[node] = self._lacks(node, record)
        rivals = [rival for child in self._children[node] if isinstance(child, Best) for rival in child.candidates]
        return [other for other in (node, *node.parents, *rivals) if self._is_of_a_round(other)]

    def free(self, node: Node) -> list[Node]:
        """Count a settled node as there; returns what can be begun for it."""
        freed = []
        for child in self._children[node]:
            self.missing[child] -= 1
            if not self.missing[child] and child not in self.parked:
                freed.append(child)
        return freed

    def park(self, node: Node, reason: str) -> list[Node]:
        """Let a stage and all that descends from it wait for another run; returns those that did not wait before."""
        parked, stack = [], [node]
        while stack:
            current = stack.pop()
            if current not in self.parked:
                self.parked[current] = reason
                parked.append(current)
                stack += self._children[current]
        return parked

    def is_cut(self, node: Node) -> bool:
        """Whether a node is not worked out, since a stage before it was skipped and nothing needs it without."""
        return any(self._lacking[parent] for parent in node.parents) and not self.absences.may_use_cut(node)

    def patience(self, site: str) -> float:
        """Return the seconds that a site may be away until something has to be decided for one of its stages."""
        at_work = [self.at_work[site]] if site in self.at_work else []
        nodes = (*at_work, *self.waiting.get(site, ()))
        return min(map(self.absences.patience, nodes), default=self.absences.general)

    def given_up(self, node: FineTune | Evaluate, away: float) -> list[FineTune | Evaluate]:
        """Return the stages of a site that have waited for long enough; the others go on waiting.

        Args:
            node: what the site was asked for.
            away: seconds that the site has been away.
        """
        stages = [node, *self.waiting[node.site]]
        self.waiting[node.site] = [stage for stage in stages if self.absences.patience(stage) > away]
        late = [stage for stage in stages if self.absences.patience(stage) <= away]
        return [stage for stage in late if isinstance(stage, FineTune | Evaluate)]

    def _lacks(self, node: Node, record: StageRecord) -> bool:
        return record.kind == "absent" or any(self._lacking[parent] for parent in node.parents)

    def _is_of_a_round(self, node: Node) -> bool:
        users = self.users[node]
        return isinstance(node, Average) or (bool(users) and all(isinstance(user, Average) for user in users))

    # Keys and orders

    def input_digest(self, node: FineTune | Evaluate) -> str:
        """Return the digest of the weights that a stage starts from."""
        return self.records[node.parents[0]].weights

    def key(self, node: FineTune | Evaluate, known: Records) -> str:
        """Return the key of a stage at a site."""
        description = self.descriptions[node.site]
        environment = ExecutionEnvironment(
            fingerprint=description.fingerprint,
            torch=description.torch,
            device=description.device,
            precision=description.precision,
        )
        return stage_key(node, study=self.study, weights=known[node.parents[0]].weights, environment=environment)

    def absent_key(self, node: FineTune | Evaluate, known: Records) -> str:
        """Return the key of the decision to go on without a stage."""
        return absent_key(node, self.study, parent=known[node.parents[0]].weights)

    def average_key(self, node: Average, known: Records) -> str:
        """Return the key of a round."""
        return average_key(node, parts_of(node, known), parent=known[node.parts[0].parent].weights)

    @cached_property
    def census_json(self) -> str:
        """The census as messages carry it."""
        return json.dumps(census_of(self.descriptions), separators=(",", ":"))

    @property
    def choices_json(self) -> str:
        """The hops chosen so far as messages carry them."""
        return json.dumps(self.choices, separators=(",", ":"))

    def order(self, node: FineTune | Evaluate) -> dict[str, Any]:
        """Return what both kinds of order say."""
        return {
            "study": self.study.digest,
            "node": node.id,
            "key": self.key(node, self.records),
            "weights": self.input_digest(node),
            "census": self.census_json,
            "choices": self.choices_json,
            "fingerprint": self.descriptions[node.site].fingerprint,
        }
