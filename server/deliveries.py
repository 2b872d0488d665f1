"""Deliveries at the end of a study: each site gets the weights selected by its validation.

If the selected weights come from other sites, the site gets the best model of its own training as well: the hospital
may be advised to keep its own model, and needs a copy for this. Repeated deliveries are harmless, since weights travel
only to a site without a copy; every run of a result folder therefore ends with all deliveries.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.config.study import Study
from common.errors import Damaged
from common.plan import PlannedRow, method_of, name_of
from common.plan.cost import behind
from common.plan.graph import Evaluate, FineTune, as_scored_at
from common.plan.selection import may_be_left_out, means, offered, own, select
from common.protocol.messages import Delivery
from server.ledger.ledger import Ledger
from server.progress.events import Event, Observer
from server.scheduling.absence import absent_from
from server.scheduling.state import RunState
from server.transport.outcomes import Parked
from server.transport.site_channel import SiteChannel

Role = Literal["selected", "own"]

NONE = "0" * 64
"""Placeholder for a row without a digest."""


@dataclass
class Deliveries:
    """The outcome of all deliveries, by site."""

    done: dict[str, dict[str, str]] = field(default_factory=dict)
    """For each site, the study's digest ("study"), and the digests of its weights by role ("selected", "own")."""
    failed: dict[str, str] = field(default_factory=dict)
    """For each site without its weights, the reason."""


def deliver(
    study: Study, runs: Sequence[RunState], channels: Mapping[str, SiteChannel], ledger: Ledger, observe: Observer
) -> Deliveries:
    """Give every site its weights, all sites at once.

    A site with an unfinished stage gets no weights: the best of some rows is not the best of all.

    Args:
        study: the study with all repeats and networks.
        runs: the finished run of each variant of the study, in their order.
        channels: the channel of each site.
        ledger: holds the weights.
        observe: is called with an event for each delivery.
    """
    result = Deliveries()

    def give(site: str, parcels: Sequence[Delivery], text: str) -> None:
        try:
            for parcel in parcels:
                channels[site].deliver(parcel, ledger.file)
            given: dict[str, str] = {parcel.role: parcel.models[parcel.row] for parcel in parcels}
            result.done[site] = {"study": parcels[0].study, **given}
            observe(Event("delivered", site, text))
        except (Parked, Damaged) as parked:
            result.failed[site] = str(parked)
        except Exception as error:  # a thread must not end without a reason in the result
            result.failed[site] = f"the coordinator failed ({type(error).__name__}: {error})"

    threads = []
    for site in study.sites:
        run = _run_for(site, study, runs)
        if run is not None:
            parcels = list(_parcels(run, site))
            row = offered(run.plan, site)[parcels[-1].row]
            thread = threading.Thread(target=give, args=(site, parcels, name_of(row)), daemon=True)
            thread.start()
            threads.append(thread)
    for thread in threads:
        thread.join()
    return result


def _run_for(site: str, study: Study, runs: Sequence[RunState]) -> RunState | None:
    """Return the run whose weights a site gets: the network selected by the site's validation, in the first rotation.

    The rotation is that of the first repeat, fixed before any result is known. The other repeats and rotations show how
    much chance is in the first. Each holds out other patients, so validation scores and test scores of different ones
    cannot be compared: the best of them would be the one with the easiest patients, and all of them together have seen
    every patient, so that nobody is left to test them.
    """
    fixed = (*study.pairs_of_seeds[0], study.split.turns[0])
    first = [run for run in runs if (run.study.split.seed, run.study.seed, run.study.split.rotation) == fixed]
    if not first or not all(_is_finished(run, site) for run in first):
        return None
    return max(first, key=lambda run: max(means(offered(run.plan, site), _dices(run, site)).values()))


def _is_finished(run: RunState, site: str) -> bool:
    """Return whether all rows of a site are finished, apart from rows left out as the study allows."""
    rows, left_out = offered(run.plan, site), _left_out(run, site)
    counted = [row for place, row in enumerate(rows) if place not in left_out]
    needed = {node for row in counted for node in (row.model, row.validation, row.test) if node is not None}
    if not all(may_be_left_out(run.study, rows[place]) for place in left_out):
        return False
    return bool(counted) and site not in run.plan.growing and needed <= run.records.keys()


def _left_out(run: RunState, site: str) -> tuple[int, ...]:
    """Return the places of rows made without a site named in the row: such a row's name would mislead."""
    rows = offered(run.plan, site)
    return tuple(place for place, row in enumerate(rows) if absent_from(row.model, run.skipped))


def _dices(run: RunState, site: str) -> list[float]:
    """Return the validation Dice of every row of a site; -1 for rows left out."""
    left_out = _left_out(run, site)
    rows = enumerate(offered(run.plan, site))
    return [-1.0 if place in left_out else run.records[row.validation].value(run.score) for place, row in rows]


def _parcels(run: RunState, site: str) -> Iterator[Delivery]:
    """Yield the deliveries to a site; the selected weights come last."""
    rows, dices = offered(run.plan, site), _dices(run, site)
    place, alone = select(rows, dices), own(rows, dices)
    assert place is not None, "a site without any counted row is not finished"
    if alone is not None and not method_of(rows[place].method).alone:
        yield _delivery(run, site, "own", rows, alone)
    yield _delivery(run, site, "selected", rows, place)


def _delivery(run: RunState, site: str, role: Role, rows: Sequence[PlannedRow], place: int) -> Delivery:
    descriptions = [run.descriptions[name] for name in run.study.sites]
    left_out = _left_out(run, site)
    record = run.records[rows[place].model]
    return Delivery(
        study=run.study.digest,
        census=run.census_json,
        choices=run.choices_json,
        fingerprint=run.descriptions[site].fingerprint,
        role=role,
        models=tuple(NONE if other in left_out else run.records[row.model].weights for other, row in enumerate(rows)),
        left_out=left_out,
        row=place,
        members=record.models if len(record.models) > 1 else (),
        shared=record.shared,
        own=record.own,
        patients=tuple(description.patients for description in descriptions),
        test_patients=tuple(description.test_patients for description in descriptions),
        slices=tuple(description.slices for description in descriptions),
        forgetting=tuple(_forgetting(run, rows[place])),
    )


def _forgetting(run: RunState, row: PlannedRow) -> Iterator[float]:
    """Yield the test Dice of a travelling model at every site after every hop, if forgetting was measured."""
    if not method_of(row.method).travelling:
        return
    way = [node for node in behind(row.model, run.winner) if isinstance(node, FineTune)][::-1]
    scored = [Evaluate(site, node.fold, "test", as_scored_at(site, node)) for node in way for site in run.study.sites]
    if all(node in run.records for node in scored):
        yield from (run.records[node].value(run.score) for node in scored)
