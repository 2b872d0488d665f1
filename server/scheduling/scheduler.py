"""The scheduler: runs a study's graph on a Flower grid, resumed from the ledger.

Sites work side by side, each on one stage at a time. The coordinator's own nodes are computed at once; others wait for
their site, longest path to the study's end first. The grid limits the stages running on the same machine.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from common.errors import RelayError
from common.plan.graph import Average, Evaluate, FineTune, Node, Refilled
from server.ledger.ledger import Ledger, StageRecord
from server.ledger.records import of_skipped
from server.progress.events import Event, Observer
from server.scheduling.absence import absence_text, absent_from
from server.scheduling.averaging import average
from server.scheduling.dispatch import Dispatcher
from server.scheduling.refilling import refill
from server.scheduling.state import RunState, slices_shown
from server.scheduling.weight_owners import WeightOwners
from server.scheduling.work import Work
from server.transport.outcomes import Absent, Parked
from server.transport.site_channel import SiteChannel, Traffic, away_for


class Scheduler:
    """Runs a plan: settles finished nodes, sends stages to sites, and takes in their outcomes."""

    def __init__(
        self,
        state: RunState,
        *,
        channels: Mapping[str, SiteChannel],
        ledger: Ledger,
        observe: Observer,
        traffic: Traffic,
        keep_weights: bool = False,
    ) -> None:
        """Set up a run.

        Args:
            state: the state of the run.
            channels: the channel of each site.
            ledger: holds records and weights.
            observe: is called with every event.
            traffic: the counts of traffic to update.
            keep_weights: keep all weights, even after their last use.
        """
        self.state, self.keep_weights = state, keep_weights
        self._channels, self._ledger, self._observe = channels, ledger, observe
        self._finished: queue.Queue[tuple[FineTune | Evaluate, StageRecord | Parked]] = queue.Queue()
        self._work = Work(observe)
        self._owners = WeightOwners(ledger)
        self._dispatcher = Dispatcher(state, channels, ledger, self._owners, self._work, traffic)
        for site, channel in channels.items():
            channel.patience = partial(state.patience, site)
            channel.observe = observe

    def run(self) -> RunState:
        """Work until no stage is left to run; the state's `parked` lists the stages left to another run."""
        ready = self._taken_in(self.state.plan.nodes)
        while True:
            while ready or (ready := self._grown()):
                ready += self._begun(ready.pop())
            self._dispatch()
            if not self.state.at_work:
                if not self.state.plan.growing:
                    self._take_away(list(self.state.records))
                return self.state
            ready += self._ended(*self.await_outcome())

    # What depends on the sites and on the clock; `deploy.planning.virtual_run` puts virtual ones in their place.

    def held(self, site: str) -> str:
        """Return the digest of a site's last trained weights while the site holds them; empty if it holds none."""
        return self._channels[site].held

    def begin(self, node: FineTune | Evaluate) -> None:
        """Have a stage done at its site, in a thread of its own, which queues the outcome for the scheduler's loop."""
        threading.Thread(target=self._at_site, args=(node,), daemon=True).start()

    def await_outcome(self) -> tuple[FineTune | Evaluate, StageRecord | Parked]:
        """Wait for the next outcome of any stage that was begun."""
        return self._finished.get()

    def make(self, node: Average | Refilled) -> StageRecord:
        """Return the record of a node of the coordinator's own, made now.

        Raises:
            Parked: the node cannot be made.
            RelayError: the weights that it is made of are missing, or fit neither each other nor the network.
        """
        if isinstance(node, Refilled):
            return refill(node, self.state, self._ledger)
        return average(node, self.state, self._ledger)

    # The loop's own steps

    def _taken_in(self, nodes: Sequence[Node]) -> list[Node]:
        """Count the work of the plan's new nodes, note their weights in the ledger; return the nodes ready to begin."""
        for node in nodes:
            if isinstance(node, FineTune | Evaluate):
                shown = slices_shown(node, self.state.descriptions)
                self._work.add(node, shown, waits=node in self.state.parked)
            if node in self.state.found:
                self._owners.add(node, self.state.found[node].files)
        return self.state.startable(nodes)

    def _grown(self) -> list[Node]:
        """Choose the next hop of every growing route with known scores, and return the new nodes ready to begin."""
        state = self.state
        ready: list[Node] = []
        while state.changed_targets:
            targets, state.changed_targets = state.changed_targets, set()
            before = state.choices
            if (further := state.further(state.records, targets)) is not None:
                fresh = state.extend(further)
                state.mark_lost()
                again = state.reopen()
                ready += [*self._taken_in(fresh), *state.startable(again)]
                self._take_away(state.let_go())
                # The ledger may hold the scores of the new candidates already, so that the route grows again at once.
                state.changed_targets |= {
                    target for target in further.growing if state.choices.get(target) != before.get(target)
                }
        return ready

    def _begun(self, node: Node) -> list[Node]:
        """Settle a node with finished parents, or queue the node for its site; return the nodes ready to begin."""
        if self.state.is_cut(node):
            self._park(node, absence_text(absent_from(node, self.state.skipped)))
            return []
        if isinstance(node, FineTune | Evaluate):
            known = self.state.known(node)
            if known is None:
                self.state.waiting[node.site].append(node)
                return []
            freed = self._settle(node, known)
            self.state.stored.append(node)
            self._work.report("known", node)
            return freed
        try:
            record = self.state.known(node)
            if record is None:
                assert isinstance(node, Average | Refilled)
                record = self.make(node)
            return self._settle(node, record)
        except (Parked, RelayError) as parked:
            self._park(node, str(parked))
        except OSError:
            raise  # the disk failed, so no further results can be stored
        except Exception as error:  # an error of one method must not lose the results of others
            self._park(node, f"the coordinator failed ({type(error).__name__}: {error})")
        return []

    def _dispatch(self) -> None:
        """Begin the next stage of every idle site."""
        state = self.state
        for site, nodes in state.waiting.items():
            if state.parked:
                nodes[:] = [node for node in nodes if node not in state.parked]
            if site not in state.at_work and (able := state.able(nodes)):
                node = state.next_of(able, self.held(site))
                nodes.remove(node)
                assert isinstance(node, FineTune | Evaluate)
                state.begin(node)
                self.begin(node)

    def _at_site(self, node: FineTune | Evaluate) -> None:
        """Have a stage done at its site and queue its outcome for the scheduler's loop; runs in a thread of its own."""
        self._finished.put((node, self._dispatcher.outcome(node)))

    def _ended(self, node: FineTune | Evaluate, outcome: StageRecord | Parked) -> list[Node]:
        """Take in the outcome of a stage at its site, and return the nodes ready to begin."""
        del self.state.at_work[node.site]
        if isinstance(outcome, Absent):
            return self._without(node, outcome)
        if isinstance(outcome, Parked):
            self._park(node, f"site {node.site}: {outcome}")
            return []
        if isinstance(node, Evaluate):
            self._work.count(node, 1.0, own=True)
        freed = self._settle(node, outcome)
        self._work.report("done", node, dice=outcome.value(self.state.score) if isinstance(node, FineTune) else None)
        return freed

    def _without(self, node: FineTune | Evaluate, absent: Absent) -> list[Node]:
        """Skip or park the stages whose waiting time for an absent site is over; return the nodes ready to begin."""
        state = self.state
        ready: list[Node] = []
        for late in state.given_up(node, absent.seconds):
            if late in state.parked:
                continue
            left = not math.isfinite(absent.seconds)
            why = f"site {node.site}: {absent if left else away_for(state.absences.patience(late))}"
            if (made := state.record_of(late, state.records)) is not None:
                # The stage has a record and was to be repeated only for its weights. The record stands, and so do
                # results made from the record; a stage in need of the weights themselves reports the missing weights.
                state.not_made_again[late] = why
                ready += self._settle(late, made)
            elif isinstance(late, FineTune) and state.absences.may_skip(late):
                record = of_skipped(
                    late,
                    state.absent_key(late, state.records),
                    parent=state.records[late.parent].file,
                    before=state.records[late.before] if late.before else None,
                    parts=state.parts_before(late, state.records),
                )
                self._ledger.put(record)
                ready += self._settle(late, record)
                self._work.report("skipped", late)
            else:
                self._park(late, why)
        return ready

    def _settle(self, node: Node, record: StageRecord) -> list[Node]:
        """Take in a node's record, and return the nodes ready to begin after this node."""
        of_rounds = self.state.settle(node, record)
        self._work.finish(node)
        self._owners.add(node, record.files)
        self._take_away(of_rounds)
        return self.state.free(node)

    def _take_away(self, nodes: Iterable[Node]) -> None:
        """Delete the weights of some nodes, apart from weights still needed, unless all weights are kept."""
        if not self.keep_weights:
            self._owners.collect(nodes, self.state)

    def _park(self, node: Node, reason: str) -> None:
        """Leave a stage and all its descendants to another run."""
        for parked in self.state.park(node, reason):
            self._work.leave(parked)
        site = node.site if isinstance(node, FineTune | Evaluate) else ""
        # A site at work on another stage must not be shown as idle.
        self._observe(Event("parked", "" if site in self.state.at_work else site, reason))
