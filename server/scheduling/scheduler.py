"""Runs a study's graph on a Flower Grid: a lane a site, legs, tries again, resumes from the ledger.

What can be worked out at the coordinator is worked out at once; the rest waits in its site's lane, one
stage at a time, the longest way to the end first. Stages at different sites run at the same time; how many
of them a machine bears is the grid's business.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import secrets
import threading
import time
from collections import ChainMap, defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from common.config.study import Study
from common.errors import RelayError
from common.model.weights import UnfitWeights, check_fit
from common.plan import Census, Plan, grown, plan
from common.plan.graph import Average, Best, Evaluate, FineTune, Node
from common.plan.stage_key import ExecutionEnvironment, stage_key
from common.protocol.messages import (
    Description,
    EvaluateOrder,
    FineTuneOrder,
)
from server.aggregation import LEAST, Part, aggregate
from server.ledger.ledger import Ledger, StageRecord
from server.ledger.records import of_scores, of_skipped, of_training
from server.progress.events import Event, Observer
from server.scheduling.absence import Absences, absent_from, told
from server.scheduling.collapse import check_not_collapsed
from server.scheduling.keys import absent_key, average_key
from server.scheduling.retention import kept_by, to_make_again, unneeded, used_by, winner
from server.scheduling.work import Work, slices_shown
from server.transport.outcomes import Absent, Parked, RejectedWeights, TrainingFailed
from server.transport.site_channel import Lane, Traffic, away_for

log = logging.getLogger("relay.coordinator")


def census_of(descriptions: Mapping[str, Description]) -> Census:
    """Chosen training slices by site and fold."""
    return {site: description.train_slices for site, description in descriptions.items()}


class Run:
    """One run of a plan. `records` grow until every stage that can be done is done."""

    def __init__(
        self,
        study: Study,
        plan: Plan,
        *,
        lanes: Mapping[str, Lane],
        descriptions: Mapping[str, Description],
        ledger: Ledger,
        start: StageRecord,
        observe: Observer,
        traffic: Traffic,
        keep_weights: bool = False,
    ) -> None:
        """Args: keep_weights: take none away, though nobody needs them any more."""
        self.study, self.lanes, self.ledger = study, lanes, ledger
        self.descriptions, self.start = descriptions, start
        self.observe, self.traffic, self.keep_weights = observe, traffic, keep_weights
        self.records: dict[Node, StageRecord] = {}
        self.parked: dict[Node, str] = {}
        self.not_made_again: dict[Node, str] = {}
        """Why stages with a record could not be worked out once more for their weights, which are gone."""
        self.skipped: set[Node] = set()
        """Stages that the study went on without; their records hold the weights that they would have started from."""
        self.stored: list[Node] = []
        """Stages that this run found in the ledger."""
        self.choices: dict[str, tuple[str, ...]] = {}
        """The hops chosen so far, where routes grow."""
        self._census = json.dumps(census_of(descriptions), separators=(",", ":"))
        self._finished: queue.Queue[tuple[Node, StageRecord | Parked]] = queue.Queue()
        self._waiting: dict[str, list[Node]] = defaultdict(list)
        """By site, what can be begun there."""
        self._at_work: dict[str, Node] = {}
        self._work = Work(observe)
        self._children: dict[Node, list[Node]] = defaultdict(list)
        self._users: dict[Node, list[Node]] = defaultdict(list)
        """Of every node, those that use its weights."""
        self._found: dict[Node, StageRecord] = {}
        """What the ledger had of nodes when they came into the plan."""
        self._news: set[str] = set()
        """Targets whose growing routes have something new to be chosen from."""
        self._missing: dict[Node, int] = {}
        """Of every node, how many of its parents are not there yet."""
        self._way_left: dict[Node, float] = {}
        self._again: set[Node] = set()
        """Stages with a record whose weights are gone and needed."""
        self._sharing: dict[str, set[Node]] = defaultdict(set)
        """By digest, the nodes that have these weights, also those that the ledger knows and whose turn is to come."""
        self._sharing_lock = threading.Lock()
        """Held to add to it and to take weights away: what a lane's thread is about to keep may be there already, for
        another stage that needs it no more."""
        self._lacking: dict[Node, bool] = {}
        """Of every node that is known, whether it or a stage before it was skipped."""
        self.plan = plan
        for site, lane in lanes.items():
            lane.patience = partial(self._patience, site)
            lane.observe = observe
        # As far as the ledger knows it, before anything is settled: only so it shows which weights are needed again.
        self._find(plan.nodes)
        while (further := self._further(self._found, study.sites)) is not None:
            self.plan = further
            self._find(further.nodes)
        self._ready = self._taken_in(self.plan)

    def to_make(self) -> set[Node]:
        """What is still to be worked out, as far as the ledger knows."""
        known = ChainMap(self.records, self._found)
        return {node for node in self.plan.nodes if node in self._again or node not in known}

    def _taken_in(self, plan: Plan) -> list[Node]:
        """Make a plan the run's own, at first and whenever a route has grown; returns what can be begun."""
        self.plan = plan
        fresh = [node for node in plan.nodes if node not in self._missing]
        for node in fresh:
            parents = dict.fromkeys(node.parents)
            self._missing[node] = sum(parent not in self.records for parent in parents)
            for used in used_by(node):
                self._users[used].append(node)
            for parent in parents:
                self._children[parent].append(node)
                if parent in self.parked:
                    self.parked[node] = self.parked[parent]
            if isinstance(node, FineTune | Evaluate):
                self._work.add(node, slices_shown(node, self.descriptions), waits=node in self.parked)
        for node in reversed(plan.nodes):
            after = max((self._way_left[child] for child in self._children[node]), default=0.0)
            self._way_left[node] = after + self._work.of.get(node, 0.0)
        self._find(fresh)
        for node in fresh:
            if node in self._found:
                self._share(node, self._found[node].weights)
        self._again |= to_make_again(plan, {**self._found, **self.records}, self.ledger.has)
        self._kept = set(kept_by(plan))
        self._absences = Absences(self.study, plan)
        return [node for node in fresh if not self._missing[node]]

    def _grown(self) -> list[Node]:
        """Choose the next hop of every route that can grow; returns what can be begun."""
        ready: list[Node] = []
        while self._news:
            news = self._news
            self._news = set()
            before = self.choices
            if (further := self._further(self.records, news)) is not None:
                ready += self._taken_in(further)
                # What is new in the plan may be known already.
                self._news |= {target for target in further.growing if self.choices.get(target) != before.get(target)}
        return ready

    def _further(self, known: Mapping[Node, StageRecord], targets: Iterable[str]) -> Plan | None:
        """The plan with the next hops of some targets' routes that can be chosen from what is known; None where none
        can."""
        growing = {target: self.plan.growing[target] for target in targets if target in self.plan.growing}

        def dice(node: Node) -> float | None:
            # What another method went on without is not what a route is chosen by.
            return known[node].dice if node in known and not self._lacking[node] else None

        choices = grown(self.study, growing, self.choices, dice)
        if choices == self.choices:
            return None
        self.choices = choices
        return plan(self.study, census_of(self.descriptions), choices)

    def _dice(self, node: Node) -> float | None:
        return self.records[node].dice if node in self.records else None

    def _find(self, nodes: Iterable[Node]) -> None:
        """Look for nodes' records in the ledger, parents first, without working anything out."""
        known = ChainMap(self.records, self._found)
        for node in nodes:
            if node not in known and all(parent in known for parent in node.parents):
                record = self._record_of(node, known)
                if record is not None:
                    self._found[node] = record
                    self._lacking[node] = self._lacks(node, record)

    def _lacks(self, node: Node, record: StageRecord) -> bool:
        return record.kind == "absent" or any(self._lacking[parent] for parent in node.parents)

    def _record_of(self, node: Node, known: Mapping[Node, StageRecord]) -> StageRecord | None:
        """The record of a node whose parents are known, if there is one."""
        if isinstance(node, FineTune | Evaluate):
            return self.ledger.get(self._absent_key(node, known)) or self.ledger.get(self._key(node, known))
        if isinstance(node, Average):
            return self.ledger.get(self._average_key(node, known))
        if isinstance(node, Best):
            return known[winner(node, lambda ballot: known[ballot].dice)]
        return self.start

    def go(self) -> None:
        """Work until nothing is left that can be done. What could not be done stands in `parked`."""
        ready = self._ready
        while True:
            while ready or (ready := self._grown()):
                node = ready.pop()
                if self._is_cut(node):
                    continue
                if isinstance(node, FineTune | Evaluate):
                    known = self._known(node)
                    if known is None:
                        self._waiting[node.site].append(node)
                        continue
                    self._settle(node, known)
                    self.stored.append(node)
                    self._work.tell("known", node)
                else:
                    try:
                        self._settle(node, self._at_coordinator(node))
                    except (Parked, RelayError) as parked:
                        self._park(node, str(parked))
                        continue
                    except OSError:
                        raise  # of the disk: nothing more can be kept
                    except Exception as error:  # what other methods have finished must not be lost with this one
                        self._park(node, f"the coordinator failed ({type(error).__name__}: {error})")
                        continue
                ready += self._freed(node)
            for site, nodes in self._waiting.items():
                if self.parked:
                    nodes[:] = [node for node in nodes if node not in self.parked]
                if nodes and site not in self._at_work:
                    self._at_work[site] = node = self._next(nodes)
                    threading.Thread(target=self._at_site, args=(node,), daemon=True).start()
            if not self._at_work:
                if not self.plan.growing:
                    self._take_away(list(self.records))
                return
            node, outcome = self._finished.get()
            assert isinstance(node, FineTune | Evaluate)
            del self._at_work[node.site]
            if isinstance(outcome, Absent):
                ready += self._without(node, outcome)
            elif isinstance(outcome, Parked):
                self._park(node, f"site {node.site}: {outcome}")
            else:
                if isinstance(node, Evaluate):
                    self._work.count(node, 1.0, own=True)
                self._settle(node, outcome)
                self._work.tell("done", node, dice=outcome.dice if isinstance(node, FineTune) else None)
                ready += self._freed(node)

    def _patience(self, site: str) -> float:
        """Seconds that a site may be away until something has to be decided for one of its stages."""
        at_work = [self._at_work[site]] if site in self._at_work else []
        nodes = (*at_work, *self._waiting.get(site, ()))
        return min(map(self._absences.patience, nodes), default=self._absences.general)

    def _without(self, node: FineTune | Evaluate, absent: Absent) -> list[Node]:
        """A site is away: what has waited for long enough is skipped or parked; returns what can be begun."""
        ready: list[Node] = []
        waiting = [node, *self._waiting[node.site]]
        self._waiting[node.site] = [other for other in waiting if self._absences.patience(other) > absent.seconds]
        for late in waiting:
            if self._absences.patience(late) > absent.seconds or late in self.parked:
                continue
            left = not math.isfinite(absent.seconds)
            why = f"site {node.site}: {absent if left else away_for(self._absences.patience(late))}"
            if (made := self._record_of(late, self.records)) is not None:
                # It was to be made again, for its weights alone. What is known of it stands, and so does what was
                # made from it; what needs the weights themselves says so.
                self.not_made_again[late] = why
                self._settle(late, made)
                ready += self._freed(late)
                continue
            if not isinstance(late, FineTune) or not self._absences.may_skip(late):
                self._park(late, why)
                continue
            record = of_skipped(late, self._absent_key(late, self.records), parent=self._parent_digest(late))
            self.ledger.put(record)
            self._settle(late, record)
            self._work.tell("skipped", late)
            ready += self._freed(late)
        return ready

    def _is_cut(self, node: Node) -> bool:
        """Whether a node is not worked out, since a stage before it was skipped and nothing needs it without."""
        if not any(self._lacking[parent] for parent in node.parents) or self._absences.may_use_cut(node):
            return False
        self._park(node, told(absent_from(node, self.skipped)))
        return True

    def _next(self, nodes: list[Node]) -> Node:
        """Scores of weights that the site still holds, or of an average, which may then be taken away; after them
        the stage with the longest way to the end."""
        held = self.lanes[nodes[0].site].held if isinstance(nodes[0], FineTune | Evaluate) else ""

        def rank(node: Node) -> tuple[bool, float]:
            first = isinstance(node, Evaluate) and (
                isinstance(node.weights, Average) or self._parent_digest(node) == held
            )
            return first, self._way_left[node]

        chosen = max(nodes, key=rank)
        nodes.remove(chosen)
        return chosen

    def _freed(self, node: Node) -> list[Node]:
        freed = []
        for child in self._children[node]:
            self._missing[child] -= 1
            if not self._missing[child] and child not in self.parked:
                freed.append(child)
        return freed

    def _settle(self, node: Node, record: StageRecord) -> None:
        self.records[node] = record
        self._work.finish(node)
        if isinstance(node, FineTune):
            self._news.add(node.site)
        if record.kind == "absent":
            self.skipped.add(node)
        self._lacking[node] = self._lacks(node, record)
        if record.weights:
            self._share(node, record.weights)
        # A new score may leave another candidate of a choice behind. What lies on a route stays to the end: other
        # ways may lead to the same weights, and then go on from them.
        rivals = [rival for child in self._children[node] if isinstance(child, Best) for rival in child.candidates]
        self._take_away(other for other in (node, *node.parents, *rivals) if self._is_of_a_round(other))

    def _is_of_a_round(self, node: Node) -> bool:
        users = self._users[node]
        return isinstance(node, Average) or (bool(users) and all(isinstance(user, Average) for user in users))

    def _take_away(self, nodes: Iterable[Node]) -> None:
        """Take away the weights that nobody needs any more."""
        if self.keep_weights:
            return
        with self._sharing_lock:
            digests = unneeded(
                nodes,
                sharing=self._sharing.__getitem__,
                users=self._users,
                kept=self._kept,
                records=self.records,
            )
            for digest in sorted(digests):
                self.ledger.drop(digest)

    def _share(self, node: Node, digest: str) -> None:
        """Note that a node has weights, so that they stay as long as somebody needs this node's."""
        with self._sharing_lock:
            self._sharing[digest].add(node)

    def _park(self, node: Node, reason: str) -> None:
        """A stage and all that descends from it wait for another run."""
        stack = [node]
        while stack:
            current = stack.pop()
            if current not in self.parked:
                self.parked[current] = reason
                self._work.leave(current)
                stack += self._children[current]
        site = node.site if isinstance(node, FineTune | Evaluate) else ""
        # A site that works on something else is not told to rest.
        self.observe(Event("parked", "" if site in self._at_work else site, reason))

    def _parent_digest(self, node: FineTune | Evaluate) -> str:
        return self.records[node.parents[0]].weights

    def _environment(self, site: str) -> ExecutionEnvironment:
        description = self.descriptions[site]
        return ExecutionEnvironment(
            fingerprint=description.fingerprint,
            torch=description.torch,
            device=description.device,
            precision=description.precision,
        )

    def _key(self, node: FineTune | Evaluate, known: Mapping[Node, StageRecord]) -> str:
        weights = known[node.parents[0]].weights
        return stage_key(node, study=self.study, weights=weights, environment=self._environment(node.site))

    def _absent_key(self, node: FineTune | Evaluate, known: Mapping[Node, StageRecord]) -> str:
        return absent_key(node, self.study, parent=known[node.parents[0]].weights)

    def _known(self, node: Node) -> StageRecord | None:
        """The record of a node, unless its weights have to be made again first."""
        record = self._record_of(node, self.records)
        if record is None or not record.weights or self.ledger.has(record.weights):
            return record
        return None if node in self._again or self._needed(node, record) else record

    def _needed(self, node: Node, record: StageRecord) -> bool:
        """Whether somebody needs a node's weights: they may have gone with those of another stage that was the same
        work, before anybody knew that this one would be."""
        known = ChainMap({node: record}, self.records, self._found)
        gone = unneeded([node], sharing=lambda _: [node], users=self._users, kept=self._kept, records=known)
        return record.weights not in gone

    def _at_coordinator(self, node: Node) -> StageRecord:
        record = self._known(node)
        if record is None:
            assert isinstance(node, Average)
            record = self._average(node)
        return record

    def winner(self, node: Best) -> Node:
        """The candidate that was chosen."""
        return winner(node, self._dice)

    def _average_key(self, node: Average, known: Mapping[Node, StageRecord]) -> str:
        return average_key(node, _parts(node, known), parent=known[node.parts[0].parent].weights)

    def _average(self, node: Average) -> StageRecord:
        records = _parts(node, self.records)
        if len(records) < min(LEAST.get(node.strategy, 2), len(node.parts)):
            there = f"only {', '.join(records)} was" if records else "nobody was"
            raise Parked(f"{told(absent_from(node, self.skipped))}; {there} left to average")
        parent = self.records[node.parts[0].parent].weights
        weights = aggregate(
            node.strategy,
            {site: Part(self.ledger.checked(record.weights), record.train_slices) for site, record in records.items()},
            expected=frozenset(records),
            parent=self.ledger.checked(parent),
        )
        record = StageRecord(
            key=self._average_key(node, self.records),
            kind="average",
            fold=node.fold,
            parents=tuple(records[site].weights for site in sorted(records)),
            weights=self.ledger.put_weights(weights),
        )
        self.ledger.put(record)
        return record

    def _at_site(self, node: FineTune | Evaluate) -> None:
        """In a lane's thread: one stage; its outcome goes to the main loop."""
        self._finished.put((node, self._outcome(node)))

    def _outcome(self, node: FineTune | Evaluate) -> StageRecord | Parked:
        try:
            # Two nodes may be the same work, such as a round's score and the best round's.
            if (record := self._known(node)) is not None:
                return record
            began = time.monotonic()
            record = self._trained(node) if isinstance(node, FineTune) else self._evaluate(node)
            self.ledger.put(record)
            if isinstance(node, FineTune):
                self.lanes[node.site].acknowledge(record.key, record.weights)
            self.traffic.seconds[record.key] = time.monotonic() - began
            return record
        except Parked as parked:
            return parked
        except RelayError as error:  # weights that are damaged, a disk without room
            return Parked(str(error))
        except OSError as error:
            return Parked(f"the coordinator's result folder {self.ledger.folder} cannot be written ({error.strerror})")
        except Exception as error:  # a lane's thread must not die unheard
            return Parked(f"the coordinator failed ({type(error).__name__}: {error})")
        finally:
            self.lanes[node.site].release_slot()

    def _trained(self, node: FineTune) -> StageRecord:
        """A training; one that must not go on is asked for once more, from its beginning."""
        try:
            return self._fine_tune(node)
        except RejectedWeights as unsound:
            if isinstance(unsound, TrainingFailed) and self.descriptions[node.site].device == "cpu":
                raise Parked(f"{unsound}; a repeat could only end the same") from None
            log.warning("Site %s: %s; the stage is repeated.", node.site, unsound)
            # Else lanes that repeat could hold all hands and wait for another.
            self.lanes[node.site].release_slot()
            try:
                return self._fine_tune(node, restart_token=secrets.token_hex(8))
            except RejectedWeights as again:
                raise Parked(f"{again}, when repeated as well") from None

    def _fine_tune(self, node: FineTune, *, restart_token: str = "") -> StageRecord:
        order = FineTuneOrder(**self._order(node), restart_token=restart_token)
        self._work.tell("running", node)

        def observe(epoch: int, dice: float | None) -> None:
            self._work.count(node, epoch / node.schedule.epochs, own=True)
            self._work.tell("running", node, epoch, dice)

        reply, weights = self.lanes[node.site].fine_tune(order, lambda: self.ledger.file(order.weights), observe)
        if reply.epoch != node.schedule.epochs:
            raise Parked("it ended a stage after another number of epochs than it was asked for")
        if reply.train_slices != self.descriptions[node.site].train_slices[node.fold]:
            raise Parked("it trained on another number of slices than it described")
        try:
            check_fit(weights, self.study.model)
        except UnfitWeights as error:
            raise RejectedWeights(f"its weights were refused: {error}") from None
        check_not_collapsed(reply, self.study.collapse)
        self._share(node, reply.weights)
        digest = self.ledger.put_weights(weights)
        if digest != reply.weights:
            with self._sharing_lock:
                self._sharing[reply.weights].discard(node)
                if not self._sharing.get(digest):
                    self.ledger.drop(digest)
            raise RejectedWeights("its weights are not those that it named; they changed on the way")
        return of_training(node, reply, parent=order.weights)

    def _evaluate(self, node: Evaluate) -> StageRecord:
        order = EvaluateOrder(**self._order(node))
        self._work.tell("running", node)
        reply = self.lanes[node.site].evaluate(order, lambda: self.ledger.file(order.weights))
        return of_scores(node, reply, parent=order.weights)

    def _order(self, node: FineTune | Evaluate) -> dict[str, Any]:
        """What both kinds of order say."""
        return {
            "study": self.study.digest,
            "node": node.id,
            "key": self._key(node, self.records),
            "weights": self._parent_digest(node),
            "census": self._census,
            "choices": json.dumps(self.choices, separators=(",", ":")),
            "fingerprint": self.descriptions[node.site].fingerprint,
        }


def _parts(node: Average, known: Mapping[Node, StageRecord]) -> dict[str, StageRecord]:
    """By site, what a round has to average."""
    return {part.site: known[part] for part in node.parts if known[part].kind != "absent"}
