"""A run of a study at the coordinator: from the sites' descriptions to results, report and deliveries."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from common.config.study import Study, load_study, study_toml
from common.config.values import POOLED
from common.errors import RelayError, Unfinished
from common.files import write_atomically
from common.model.network import check_network
from common.plan import asked_for, plan
from server.deliveries import deliver
from server.descriptions import changed_machines, describe_all, keep, kept_in, known_of
from server.disk_space import check_disk_space
from server.freed_memory import give_back
from server.initial_weights import source_digest, start_of, start_weights
from server.ledger.ledger import Ledger, StageRecord
from server.progress.events import Event, Observer
from server.progress.snapshot import recording
from server.progress.wording import line_of
from server.report.page import write_report
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.run_record import RunRecord
from server.scheduling.scheduler import Scheduler
from server.scheduling.state import RunState, census_of
from server.transport.courier import NODE, couriers_in
from server.transport.discovery import find_sites
from server.transport.site_channel import SiteChannel, Traffic
from server.unfinished import sentences

log = logging.getLogger("relay.coordinator")


def log_line(event: Event) -> None:
    """Write an event to the log."""
    if event.kind in ("away", "back"):
        return  # the site channel logs the absence in more detail
    log.info("%s", line_of(event))


def run_study(
    grid: Grid,
    study: Study,
    folder: Path,
    *,
    beside: Path,
    observe: Observer = log_line,
    patience: float = 60.0,
    keep_weights: bool = False,
) -> dict[str, Any]:
    """Run the unfinished stages of a study on a grid, and write the results into a folder.

    Args:
        grid: Flower's grid, which carries messages to the sites.
        study: the study with all repeats and networks.
        folder: the result folder; stages finished in this folder are not run again.
        beside: the folder in which a relative `encoder_weights` is looked up.
        observe: is called with every event.
        patience: seconds to wait at the start for an absent site without a description; later the study's `absence`
            rules count.
        keep_weights: keep all weights; otherwise weights are deleted once no row, choice or stage needs them.

    Returns:
        The content of results.json.

    Raises:
        Unfinished: a part of the study could not be finished, or was made without a site; the results say which part.
        RelayError: the study cannot start, or the folder cannot be written; finished stages are kept.
    """
    asked_for(study)  # refuse an unknown method before any site is asked
    for model in study.networks:
        check_network(model, study.preprocessing.pixels)
    ledger = Ledger(folder, progress=lambda done, of: observe(Event("examining", "", "", epoch=done, epochs=of)))
    with closing(ledger), _disk_errors_as_sentences(folder):
        _keep_study(study, folder)
        finished = Counter(record.site for record in ledger.records())
        with recording(folder, study, observe, finished=finished) as recorded, _disk_errors_as_sentences(folder):
            return _run(grid, study, folder, ledger, beside, recorded, patience, keep_weights)


@contextmanager
def _disk_errors_as_sentences(folder: Path) -> Iterator[None]:
    """Raise errors of the disk as a single sentence with the result folder's name."""
    try:
        yield
    except OSError as error:
        raise RelayError(
            f"The result folder {folder} cannot be written ({error.strerror}); make room and start again:"
            " what is finished is kept."
        ) from None


def _run(
    grid: Grid,
    study: Study,
    folder: Path,
    ledger: Ledger,
    beside: Path,
    observe: Observer,
    patience: float,
    keep_weights: bool,
) -> dict[str, Any]:
    """Run the study with an open ledger."""
    traffic = Traffic()
    record = RunRecord(folder, traffic)
    variants = study.variants
    # The first weights may be unavailable, so they are made before any site works for hours.
    starts = [_start(variant, ledger, beside) for variant in variants]
    give_back()
    sites = [*study.sites, *([POOLED] if study.methods.pooled else [])]
    kept = [kept_in(folder, variant) for variant in variants]
    couriers = couriers_in(folder)
    dialled = [site for site in sites if site not in couriers]
    nodes = find_sites(grid, dialled, variants[0].digest, patience=patience, known=known_of(kept))
    nodes |= dict.fromkeys(couriers, NODE)
    channels = {
        site: SiteChannel(couriers.get(site, grid), site, nodes.get(site), traffic, patience=patience) for site in sites
    }

    def observer_of(number: int) -> Observer:
        def notify(event: Event) -> None:
            observe(replace(event, variant=number, variants=len(variants)))
            if event.kind == "done":
                record.write_at_times()

        return notify

    for channel in channels.values():
        channel.observe = observer_of(0)
    # All variants are described first, so that no variant fails to start because a site left during an earlier variant.
    described = []
    for number, variant in enumerate(variants):
        described.append(describe_all(variant, channels, observer_of(number), kept=kept[number]))
        for sentence in changed_machines(kept[number], described[number]):
            log.warning("%s", sentence)
        keep(folder, variant, described[number])
    plans = [plan(variant, census_of(found)) for variant, found in zip(variants, described, strict=True)]

    def state_of(number: int, scarce: bool = False) -> RunState:
        return RunState(
            variants[number],
            plans[number],
            described[number],
            starts[number],
            lookup=ledger.get,
            has_weights=ledger.has,
            scarce=scarce,
        )

    states = [state_of(number) for number in range(len(variants))]
    to_make = [state.to_make() for state in states]
    searched = [state.searched for state in states]
    scarce = check_disk_space(variants, to_make, folder, everything=keep_weights, searched=searched)
    if scarce:
        log.warning(
            "The disk of %s has no room for all weights with which a later hop may begin: those of routes that lost are"
            " deleted at once, and trained again if a hop does begin with them.",
            folder,
        )
    runs: list[RunState] = []
    for number in range(len(variants)):
        scheduler = Scheduler(
            state_of(number, scarce),
            channels=channels,
            ledger=ledger,
            observe=observer_of(number),
            traffic=traffic,
            keep_weights=keep_weights,
        )
        runs.append(scheduler.run())
    if not any(run.parked or run.not_made_again for run in runs):
        ledger.set_strays_aside()
    results = dump(results_of(study, runs))
    write_atomically(folder / "results.json", write_json(results), durable=True)
    record.write()
    write_report(folder)  # before the deliveries, which may wait a day for a site that is away
    sent = dict(traffic.sent)
    deliveries = deliver(study, runs, channels, ledger, observer_of(len(variants) - 1))
    record.write(deliveries.done)
    if dict(traffic.sent) != sent:
        write_report(folder)  # the report shows the traffic, deliveries included
    if missing := list(sentences(runs, results, deliveries, folder)):
        raise Unfinished(" ".join(missing))
    return results


def _start(study: Study, ledger: Ledger, beside: Path) -> StageRecord:
    """Return the record of a variant's first weights."""
    source = source_digest(study, beside)
    return start_of(study, ledger, source=source, weights=lambda: start_weights(study, beside))


def _keep_study(study: Study, folder: Path) -> None:
    """Write study.toml only once: if every start rewrote the file, a power failure at any start could lose the file.

    Raises:
        RelayError: the folder holds the results of another study.
    """
    path = folder / "study.toml"
    try:
        kept = load_study(path)
    except RelayError:  # the file is missing or damaged; the ledger's records have checks of their own
        write_atomically(path, study_toml(study).encode(), durable=True)
        return
    if kept.digest != study.digest:
        raise RelayError(f"{folder} holds the results of another study; give another folder with --out.")
