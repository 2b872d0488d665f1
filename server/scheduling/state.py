"""The state of a run of a plan: finished, waiting and parked stages, needed weights, and the stages to run next.

This module uses no thread, no grid and no disk. Two functions, `lookup` and `has_weights`, give access to the ledger's
content; all else is computed from the values in `RunState`.
"""

from __future__ import annotations

import json
from collections import ChainMap, Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from common.config.study import Study
from common.model.network import declared
from common.plan import Census, Plan, grown, plan, search_of
from common.plan.cost import all_behind, slices_in
from common.plan.graph import (
    Average,
    Best,
    BestElsewhere,
    Completed,
    Ensemble,
    Evaluate,
    FineTune,
    Node,
    Refilled,
    ServerStep,
    Soup,
    earlier_visit,
    fold_of,
    models_in,
    training_in,
    travelled,
    way_of,
)
from common.plan.stage_key import ExecutionEnvironment, completed_digest, stage_key
from common.protocol.messages import Description
from common.scores import Score, deciding
from server.ledger.ledger import StageRecord
from server.ledger.records import of_choice_elsewhere, of_completed, of_ensemble
from server.scheduling.absence import Absences
from server.scheduling.keys import absent_key, average_key, refilled_key
from server.scheduling.retention import collectable, inputs, losers, roots, to_remake, winner

Records = Mapping[Node, StageRecord]


def census_of(descriptions: Mapping[str, Description]) -> Census:
    """Return the slices that an epoch trains on, by site and fold."""
    return {site: description.train_slices for site, description in descriptions.items()}


def slices_shown(node: Node, descriptions: Mapping[str, Description]) -> float:
    """Return a stage's work in slices shown to the network; a slice shown without a step counts as a third of one."""
    if isinstance(node, FineTune):
        census = {site: descriptions[site].train_slices for site in (node.site, *node.without)}
        return float(slices_in(census, node) * (node.schedule.epochs or 1 / 3))
    if isinstance(node, Evaluate):
        return models_in(node.weights) * descriptions[node.site].test_slices / 3
    return 0.0


def parts_of(node: Average, known: Records) -> dict[str, StageRecord]:
    """Return the records of a round's parts by site, of a soup's by route; skipped parts are left out."""
    names = {part: way_of(part) if isinstance(node, Soup) else part.site for part in node.parts}
    return {names[part]: known[part] for part in node.parts if known[part].kind != "absent"}


def slices_described(node: Average, descriptions: Mapping[str, Description]) -> dict[str, int]:
    """Return the training slices behind each part of a round by site, of a soup's by route, as the sites described."""
    return {
        way_of(part) if isinstance(node, Soup) else part.site: descriptions[part.site].train_slices[part.fold]
        for part in node.parts
    }


def made_again_for_a_site(study: Study) -> int:
    """Return how many trainings that are made again for want of room may wait for a site that begins with them."""
    return 2 * len(study.split.run)


def _is_in_a_round(node: Node) -> bool:
    """Return whether a node is an average, or a later round's training: the next of a chain that changes places."""
    later = isinstance(node, FineTune) and node.schedule.first > 0 and node.schedule.keep == "last"
    return later or isinstance(node, Average)


@dataclass(eq=False)
class RunState:
    """The state of a run; `records` grows until no further stage can run."""

    study: Study
    plan: Plan
    """The plan; where routes grow, the part known so far."""
    descriptions: Mapping[str, Description]
    """The sites' descriptions, by site."""
    start: StageRecord
    """The record of the first weights."""
    lookup: Callable[[str], StageRecord | None]
    """Returns the ledger's record of a key, or None."""
    has_weights: Callable[[str], bool]
    """Returns whether the weights with a digest exist."""
    scarce: bool = False
    """Whether the disk has no room for the weights with which later steps of a search may begin. Then the weights of a
    route that lost go at once, and are made again if a later step does begin with them."""
    records: dict[Node, StageRecord] = field(default_factory=dict)
    """The records of settled nodes."""
    parked: dict[Node, str] = field(default_factory=dict)
    """For each stage left to another run, the reason."""
    not_made_again: dict[Node, str] = field(default_factory=dict)
    """For each finished stage with missing weights whose repetition failed, the reason."""
    skipped: set[Node] = field(default_factory=set)
    """Skipped stages; the record of a skipped stage holds the stage's start weights."""
    stored: list[Node] = field(default_factory=list)
    """Stages whose records were found in the ledger by this run."""
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Where routes grow, the hops selected so far, by target."""
    waiting: dict[str, list[Node]] = field(default_factory=lambda: defaultdict(list))
    """For each site, the stages ready to begin there."""
    at_work: dict[str, Node] = field(default_factory=dict)
    """For each working site, its stage."""
    found: dict[Node, StageRecord] = field(default_factory=dict)
    """The ledger's records of nodes at the time when the nodes came into the plan."""
    missing: dict[Node, int] = field(default_factory=dict)
    """For each node, the number of unsettled parents."""
    way_left: dict[Node, float] = field(default_factory=dict)
    """For each node, the work on the longest path from its beginning to the end of the study; see `slices_shown`."""
    users: dict[Node, list[Node]] = field(default_factory=lambda: defaultdict(list))
    """For each node, the nodes with this node among their `inputs`."""
    kept: set[Node] = field(default_factory=set)
    """Nodes whose weights always stay."""
    changed_targets: set[str] = field(default_factory=set)
    """Targets of growing routes for which a new score may have decided the next hop."""
    searched: set[Node] = field(default_factory=set)
    """The trainings of all routes compared in a search."""
    absences: Absences = field(init=False)
    """The rules for absent sites: waiting times, and stages allowed to be skipped."""
    _children: dict[Node, list[Node]] = field(default_factory=lambda: defaultdict(list))
    """For each node, its children in the graph."""
    _remake: set[Node] = field(default_factory=set)
    """Stages with a record whose needed weights were deleted or lost."""
    _ahead: list[Callable[[tuple[str, ...], int], bool]] = field(default_factory=list)
    """For each target whose route is not found yet, whether later steps of its search may begin in a way."""
    _begun: set[Node] = field(default_factory=set)
    """The models of routes compared in a search, of which one fold at least is scored."""
    _reopened: set[Node] = field(default_factory=set)
    """Trainings of a search that are made again for a later step, since the disk is scarce."""
    _waited_for: dict[Node, tuple[str, ...]] = field(default_factory=dict)
    """For each reopened training that has begun and whose weights are not used up, the sites that begin with them."""
    _lacking: dict[Node, bool] = field(default_factory=dict)
    """For each node with a record, whether the node or any of its ancestors was skipped."""

    @property
    def score(self) -> Score:
        """The score by which the study selects."""
        return deciding(self.study.training.slices)

    def __post_init__(self) -> None:
        """Look up all records in the ledger before any node is settled, to find the needed weights."""
        self._find(self.plan.nodes)
        while (further := self.further(self.found, self.study.sites)) is not None:
            self.plan = further
            self._find(further.nodes)
        self.extend(self.plan)
        self.mark_lost()

    # The plan

    def extend(self, plan: Plan) -> list[Node]:
        """Take over a plan, at first and whenever a route has grown; return the plan's new nodes."""
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
        known = ChainMap(self.records, self.found)
        self.kept = set(roots(plan, lambda node: known[node].value(self.score) if node in known else None))
        if search := search_of(self.study):
            self.searched = {node for node in all_behind(plan.tried) if isinstance(node, FineTune)}
            self._ahead = [search.ahead(self.study, target, self.choices.get(target, ())) for target in plan.growing]
        self.absences = Absences(self.study, plan)
        return fresh

    def mark_lost(self) -> None:
        """Note the stages with a record that have to run again, since their weights are needed, but deleted or lost."""
        self._remake |= to_remake(self.plan, {**self.found, **self.records}, self.score, self.has_weights)

    def reopen(self) -> list[Node]:
        """Unsettle the stages whose weights went because the disk is scarce, and are needed after all; return them.

        Choices and the like among their descendants wait for them too, where they chose the weights that went.
        """
        if not self.scarce:
            return []
        lost = to_remake(self.plan, {**self.found, **self.records}, self.score, self.has_weights)
        again = dict.fromkeys(
            node
            for node in self.plan.nodes
            if node in lost and node in self.records and node not in self.not_made_again
        )
        stack = list(again)
        while stack:
            children = [
                child for child in self._children[stack.pop()] if isinstance(child, Best | Ensemble | Completed)
            ]
            fresh = [child for child in children if child in self.records and not self._has(self.records[child])]
            fresh = [child for child in fresh if child not in again]
            again |= dict.fromkeys(fresh)
            stack += fresh
        for node in again:
            self.found[node] = self.records.pop(node)
            for child in self._children[node]:
                self.missing[child] += 1
        self._remake |= lost
        self._reopened |= lost
        return list(again)

    def further(self, known: Records, targets: Iterable[str]) -> Plan | None:
        """Return the plan with all hops that can be selected now, or None if no hop can be selected.

        Args:
            known: the records by which hops are selected.
            targets: the targets whose routes may grow.
        """
        growing = {target: self.plan.growing[target] for target in targets if target in self.plan.growing}

        def dice(node: Node) -> float | None:
            # A score that another method obtained without a site must not choose a route's hop.
            record = known.get(node) or self._reopened_record(node)
            return record.value(self.score) if record and not self._lacking[node] else None

        choices = grown(self.study, growing, self.choices, dice)
        if choices == self.choices:
            return None
        self.choices = choices
        return plan(self.study, census_of(self.descriptions), choices)

    # Records

    def to_make(self) -> set[Node]:
        """Return the nodes without a record, and the nodes to run again for their weights."""
        known = ChainMap(self.records, self.found)
        return {node for node in self.plan.nodes if node in self._remake or node not in known}

    def known(self, node: Node) -> StageRecord | None:
        """Return the record of a node with settled parents, or None if the node has to be made first."""
        record = self.record_of(node, self.records)
        # These have no work of their own: what still needs lost weights says so itself.
        if record is None or self._has(record) or isinstance(node, Best | Ensemble | Completed):
            return record
        return None if node in self._remake or self._needs_weights(node, record) else record

    def record_of(self, node: Node, known: Records) -> StageRecord | None:
        """Return the record of a node whose parents are in `known`, or None."""
        if isinstance(node, FineTune | Evaluate):
            return self.lookup(self.absent_key(node, known)) or self.lookup(self.key(node, known))
        if isinstance(node, Average):
            return self.lookup(self.average_key(node, known))
        if isinstance(node, Refilled):
            return self.lookup(self.refilled_key(node, known))
        if isinstance(node, Ensemble):
            return of_ensemble(fold_of(node), [known[member] for member in node.members])
        if isinstance(node, Completed):
            return of_completed(known[node.weights], known[node.own])
        if isinstance(node, BestElsewhere):
            won = winner(node, lambda ballot: known[ballot].value(self.score))
            ballots = node.ballots[node.candidates.index(won)]
            return of_choice_elsewhere(known[won], [known[ballot] for ballot in ballots])
        if isinstance(node, Best):
            return known[winner(node, lambda ballot: known[ballot].value(self.score))]
        return self.start

    def _has(self, record: StageRecord) -> bool:
        """Return whether all files of a record exist."""
        return all(map(self.has_weights, record.files))

    def winner(self, node: Best) -> Node:
        """Return the candidate chosen by a `Best`."""
        return winner(node, self._dice)

    def _dice(self, node: Node) -> float | None:
        record = self.records.get(node) or self._reopened_record(node)
        return record.value(self.score) if record else None

    def _reopened_record(self, node: Node) -> StageRecord | None:
        """Return the record of a stage that is made again for want of room: its scores stand meanwhile."""
        return self.found[node] if node in self._reopened else None

    def _find(self, nodes: Iterable[Node]) -> None:
        """Look up nodes' records in the ledger, parents first, without computing anything."""
        known = ChainMap(self.records, self.found)
        for node in nodes:
            if node not in known and all(parent in known for parent in node.parents):
                record = self.record_of(node, known)
                if record is not None:
                    self.found[node] = record
                    self._lacking[node] = self._lacks(node, record)

    def _needs_weights(self, node: Node, record: StageRecord) -> bool:
        """Return whether any of a node's missing files is still needed.

        Two stages may be the same work: the weights may have been deleted after their last use by the other stage,
        before this stage was known to be the same work.
        """
        known = ChainMap({node: record}, self.records, self.found)
        gone = collectable(
            [node], sharing=lambda _: [node], users=self.users, kept=self.kept, records=known, score=self.score
        )
        return any(not self.has_weights(file) and file not in gone for file in record.files)

    # The next stages, and their outcomes

    def startable(self, nodes: Iterable[Node]) -> list[Node]:
        """Return the nodes whose parents are all settled."""
        return [node for node in nodes if not self.missing[node]]

    def next_of(self, nodes: Iterable[Node], held: str) -> Node:
        """Return a site's next stage.

        First come scorings of weights still at the site, and all that is done with an average but further rounds: the
        average can be deleted afterwards. Then come the other folds of a route of which one was compared with other
        routes already, since the weights of the worse route can then be deleted. Then comes the stage with the longest
        path to the end of the study. Where weights are made again for want of room, what uses them comes before that.

        Args:
            nodes: the stages ready to begin at the site.
            held: the digest of the site's last trained weights.
        """

        def rank(node: Node) -> tuple[bool, bool, bool, float]:
            first = (isinstance(node, FineTune) and not node.trains) or (
                isinstance(node, Evaluate) and (isinstance(node.weights, Average) or self.input_digest(node) == held)
            )
            return first, node in self._begun, node not in self._reopened, self.way_left[node]

        return max(nodes, key=rank)

    def able(self, nodes: list[Node]) -> list[Node]:
        """Return those of a site's ready stages that may begin now: of what is made again for want of room, a few.

        For each site that goes on from weights made again, a few of them wait at a time. What goes on from weights that
        were made again is always allowed, so that these weights are used and go.
        """
        if not self._reopened:
            return nodes
        waiting = [one for one in self._waited_for if one not in self.records or self._has(self.records[one])]
        self._waited_for = {one: self._waited_for[one] for one in waiting}
        queues = Counter(site for sites in self._waited_for.values() for site in sites)

        def allowed(node: Node) -> bool:
            if node not in self._reopened or not isinstance(node, FineTune):
                return True
            if training_in(node.parent) in self._reopened:
                return True
            return any(queues[site] < made_again_for_a_site(self.study) for site in self._used_at(node))

        return [node for node in nodes if allowed(node)]

    def begin(self, node: Node) -> None:
        """Note a stage as at work at its site."""
        assert isinstance(node, FineTune | Evaluate)
        self.at_work[node.site] = node
        if node in self._reopened:
            self._waited_for[node] = self._used_at(node)

    def _used_at(self, node: Node) -> tuple[str, ...]:
        """Return the sites whose unsettled stages begin with a node's weights, or choose among them."""
        sites: dict[str, None] = {}
        stack = [node]
        while stack:
            for child in self._children[stack.pop()]:
                if isinstance(child, Best | Completed | Ensemble):
                    stack.append(child)
                elif isinstance(child, FineTune | Evaluate) and child not in self.records:
                    sites[child.site] = None
        return tuple(sites)

    def settle(self, node: Node, record: StageRecord) -> list[Node]:
        """Take in a node's record; return the nodes of rounds whose weights may no longer be needed.

        A new score may decide a choice against another candidate, or a search against another route. Weights on other
        routes stay to the end: another path may lead to the same weights later, and continue from there.
        """
        self.records[node] = record
        if training := training_in(node):
            self.changed_targets.add(training.site)
        if record.kind == "absent":
            self.skipped.add(node)
        self._lacking[node] = self._lacks(node, record)
        rivals = [rival for child in self._children[node] if isinstance(child, Best) for rival in child.candidates]
        used = inputs(node) if isinstance(node, Average) else node.parents
        beaten = self._beaten(node)
        others = [other for other in (node, *used, *rivals) if self._is_of_a_round(other) or other in self.searched]
        return [*others, *beaten]

    def _beaten(self, node: Node) -> list[Node]:
        """Let go of the models that a newly scored model of a search has beaten, and return these models."""
        site = node.site if isinstance(node, FineTune) else node.at if isinstance(node, Best) else ""
        candidates = self.plan.growing.get(site, ())
        models = [model for candidate in candidates if node in candidate.models for model in candidate.models]
        if not models:
            return []
        self._begun.update(models)
        beaten = [model for model in losers(candidates, self._dice) if model in self.kept]
        self.kept.difference_update(beaten)
        return beaten

    def awaited(self, node: Node) -> bool:
        """Return whether later steps of a search, which are not planned yet, may need the weights of a training."""
        if node not in self.searched or not isinstance(node, FineTune):
            return False
        way = travelled(node)
        if self.scarce and len(way) > 1:
            return False
        return any(may_begin(way, node.schedule.epochs) for may_begin in self._ahead)

    def let_go(self) -> list[Node]:
        """Return the trainings of a search whose weights exist, to be looked at after a decision of the search."""
        return [
            node
            for node in self.searched
            if node in self.records and any(map(self.has_weights, self.records[node].models))
        ]

    def free(self, node: Node) -> list[Node]:
        """Count a settled node for its children, and return the children ready to begin."""
        freed = []
        for child in self._children[node]:
            self.missing[child] -= 1
            if not self.missing[child] and child not in self.parked and child not in self.records:
                freed.append(child)
        return freed

    def park(self, node: Node, reason: str) -> list[Node]:
        """Leave a node and all its descendants to another run; return the newly parked nodes."""
        parked, stack = [], [node]
        while stack:
            current = stack.pop()
            if current not in self.parked and current not in self.records:
                self.parked[current] = reason
                parked.append(current)
                stack += self._children[current]
        return parked

    def is_cut(self, node: Node) -> bool:
        """Return whether a node is not run: an ancestor was skipped, and no row of the node goes on without a site."""
        return any(self._lacking[parent] for parent in node.parents) and not self.absences.may_use_cut(node)

    def lacks(self, node: Node) -> bool:
        """Return whether a settled node or any of its ancestors was skipped."""
        return self._lacking[node]

    def patience(self, site: str) -> float:
        """Return the seconds of a site's absence until any of its stages needs a decision."""
        at_work = [self.at_work[site]] if site in self.at_work else []
        nodes = (*at_work, *self.waiting.get(site, ()))
        return min(map(self.absences.patience, nodes), default=self.absences.general)

    def given_up(self, node: FineTune | Evaluate, away: float) -> list[FineTune | Evaluate]:
        """Return the stages of a site whose waiting time is over; the other stages continue to wait.

        Args:
            node: the stage ordered from the site.
            away: seconds of the site's absence so far.
        """
        stages = [node, *self.waiting[node.site]]
        self.waiting[node.site] = [stage for stage in stages if self.absences.patience(stage) > away]
        late = [stage for stage in stages if self.absences.patience(stage) <= away]
        return [stage for stage in late if isinstance(stage, FineTune | Evaluate)]

    def _lacks(self, node: Node, record: StageRecord) -> bool:
        """Return whether a node or any of its ancestors was skipped."""
        return record.kind == "absent" or any(self._lacking[parent] for parent in node.parents)

    def _is_of_a_round(self, node: Node) -> bool:
        """Return whether a node is an average, its form at a site, or a training used only by rounds."""
        users = self.users[node]
        if isinstance(node, Completed | Refilled) or (isinstance(node, FineTune) and not node.trains):
            return True
        return isinstance(node, Average) or (bool(users) and all(map(_is_in_a_round, users)))

    # Keys and orders

    def input_digest(self, node: FineTune | Evaluate) -> str:
        """Return the digest of a stage's start weights."""
        return completed_digest(*_inputs(node, self.records))

    def key(self, node: FineTune | Evaluate, known: Records) -> str:
        """Return the key of a stage at a site."""
        description = self.descriptions[node.site]
        environment = ExecutionEnvironment(
            fingerprint=description.fingerprint,
            torch=description.torch,
            device=description.device,
            precision=description.precision,
        )
        weights = completed_digest(*_inputs(node, known))
        parts = self.parts_before(node, known)
        return stage_key(node, study=self.study, weights=weights, environment=environment, parts=parts)

    def parts_before(self, node: FineTune | Evaluate, known: Records) -> str:
        """Return the digest of the network's parts at the site with which a training begins; empty where it has none.

        They are those of the site's training before, or where it was skipped, those with which it would have begun.
        """
        if not isinstance(node, FineTune) or not node.trains or not declared(self.study.model).stays:
            return ""
        before = earlier_visit(node)
        return known[before].parts if before else ""

    def absent_key(self, node: FineTune | Evaluate, known: Records) -> str:
        """Return the key of the decision to skip a stage."""
        return absent_key(node, self.study, parent=known[node.parents[0]].weights)

    def average_key(self, node: Average, known: Records) -> str:
        """Return the key of a round's average."""
        state = known[node.before].state if isinstance(node, ServerStep) and node.before else ""
        return average_key(node, parts_of(node, known), parent=known[node.parts[0].parent].weights, state=state)

    def refilled_key(self, node: Refilled, known: Records) -> str:
        """Return the key of weights with the first weights' batch-norm tensors."""
        return refilled_key(known[node.weights].file, self.start.weights)

    @cached_property
    def census_json(self) -> str:
        """The census as JSON, for messages."""
        return json.dumps(census_of(self.descriptions), separators=(",", ":"))

    @property
    def choices_json(self) -> str:
        """The hops selected so far as JSON, for messages."""
        return json.dumps(self.choices, separators=(",", ":"))

    def order(self, node: FineTune | Evaluate) -> dict[str, Any]:
        """Return the fields common to orders of both kinds."""
        shared, own = _inputs(node, self.records)
        return {
            "shared": shared if own else "",
            "own": own,
            "study": self.study.digest,
            "node": node.id,
            "key": self.key(node, self.records),
            "weights": self.input_digest(node),
            "census": self.census_json,
            "choices": self.choices_json,
            "fingerprint": self.descriptions[node.site].fingerprint,
        }


def _inputs(node: FineTune | Evaluate, known: Records) -> tuple[str, str]:
    """Return the digest of the weights file that travels to a stage, and of the site's own tensors that complete it.

    Either is empty where there is nothing of the kind; an ensemble travels as several files, under its own digest.
    """
    record = known[node.parents[0]]
    if isinstance(node, FineTune):
        return record.file, known[node.before].own if node.before else ""
    return (record.file, record.own) if record.own else (record.weights, "")
