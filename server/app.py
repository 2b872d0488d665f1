"""The coordinator's Flower ServerApp: run a study, write its results.

The same on every grid. Under Flower's own engines the run's settings name the study file and the result
folder; `relay` calls `run_study` directly, with its own way of showing progress.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config.study import POOLED, Study, load_study, study_toml
from common.errors import GO_ON, DiskFull, RelayError, Unfinished
from common.files import write_atomically
from common.model.network import declared_bytes
from common.plan import asked_for, plan
from common.plan.graph import Average, FineTune, Node
from common.plan.methods import Method, method_of
from common.text import listed, percent, short_bytes
from server.deliveries import Deliveries, deliver
from server.descriptions import describe_all, keep, kept_in, known_of
from server.initial_weights import source_digest, start_of, start_weights
from server.ledger.ledger import Ledger, StageRecord
from server.progress.events import Event, Observer
from server.progress.snapshot import recording
from server.report.page import write_report
from server.results.rows import results_of, write_json
from server.scheduling.scheduler import Run, census_of
from server.transport.discovery import find_sites
from server.transport.site_channel import Lane, Traffic

app = ServerApp()
log = logging.getLogger("relay.coordinator")
LOG = "study.log"
SHOWN = 3
"""So many routes or targets of a method the closing sentence names, and counts the rest."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run's settings name: `study` (a file), `out` (a folder), `patience` (seconds).

    `study.log` in the folder tells who follows the run how far it is, and in its last line how it ended.
    """
    path, out = (Path(str(context.run_config[name])).expanduser() for name in ("study", "out"))
    out.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(out / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        log.info("Run %d.", context.run_id)
        run_study(grid, load_study(path), out, beside=path.parent, patience=float(context.run_config["patience"]))
        log.info("Done.")
    except RelayError as error:
        log.error("%s", " ".join(str(error).split()))
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def log_line(event: Event) -> None:
    """Progress as plain log lines."""
    if event.kind in ("away", "back"):
        return  # the lane says more of it
    log.info("%s", line_of(event))


def line_of(event: Event) -> str:
    """An event in one line of plain text."""
    counted = f"[{event.stages_done}/{event.stages}] " if event.stages else ""
    if event.variants > 1:
        counted = f"{event.variant + 1} of {event.variants}: {counted}"
    where = f"{event.site}: " if event.site else ""
    if event.kind == "examining":
        return f"{event.epoch} of {event.epochs} bytes of what is there examined"
    if event.kind == "preparing":
        return f"{counted}{where}{event.epoch} of {event.epochs} patients prepared"
    if event.kind == "parked":
        return f"parked: {event.text}"
    if event.kind in ("away", "back"):
        return f"{where}{'away; it is waited for' if event.kind == 'away' else 'there again'}"
    if event.kind == "delivered":
        return f"{where}delivered: {event.text}"
    what = f"{event.text} (fold {event.fold + 1})"
    if event.stage != "fine-tune":
        what = f"{event.stage} of {what}"
    if event.kind == "skipped":
        return f"{counted}{where}{what} is left out, since the site is away"
    if event.kind == "known":
        return f"{counted}{where}{what} is in the ledger already"
    epoch = f", epoch {event.epoch} of {event.epochs}" if event.epochs and event.epoch else ""
    dice = f", validation Dice {percent(event.dice)}" if event.dice is not None else ""
    return f"{counted}{where}{what}{epoch}{dice}{', done' if event.kind == 'done' else ''}"


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
    """Run a study on a grid, or what is missing of it, and write its results into `folder`.

    Args:
        beside: the folder that a file of encoder weights is taken from.
        patience: seconds to wait for a site that is not there at the beginning, and has never described what it
            has; later on the study says (`absence`).
        keep_weights: take none away; otherwise those go that no row, choice or stage needs any more.

    Returns:
        What results.json holds.

    Raises:
        Unfinished: some of it could not be finished, or was made without a site; the results say what.
        RelayError: the study cannot begin, or the folder cannot be written; what was finished is kept.
    """
    asked_for(study)  # a method that is not known is told before any site is asked
    ledger = Ledger(folder, progress=lambda done, of: observe(Event("examining", "", "", epoch=done, epochs=of)))
    with closing(ledger), _a_sentence_about(folder):
        _keep_study(study, folder)
        with recording(folder, study, observe) as recorded, _a_sentence_about(folder):
            return _run(grid, study, folder, ledger, beside, recorded, patience, keep_weights)


@contextmanager
def _a_sentence_about(folder: Path) -> Iterator[None]:
    """A disk that is full, or cannot be written, is told in a sentence."""
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
    """The study itself, on an open ledger."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    variants = study.variants
    # Before any site works for hours: the first weights may be the one thing that is missing.
    starts = [_start(variant, ledger, beside) for variant in variants]
    sites = [*study.sites, *([POOLED] if study.methods.pooled else [])]
    kept = [kept_in(folder, variant) for variant in variants]
    nodes = find_sites(grid, sites, variants[0].digest, patience=patience, known=known_of(kept))
    traffic = Traffic()
    past = _past(folder)
    next_note = 0.0
    lanes = {site: Lane(grid, site, nodes.get(site), traffic, patience=patience) for site in sites}

    def teller(number: int) -> Observer:
        def tell(event: Event) -> None:
            nonlocal next_note
            observe(replace(event, variant=number, variants=len(variants)))
            if event.kind == "done" and (now := time.monotonic()) >= next_note:
                _note(traffic, folder, past, started, now - began)
                # It grows with the stages: noted after each of ten thousand, it would take longer than they.
                next_note = time.monotonic() + 20 * (time.monotonic() - now)

        return tell

    for lane in lanes.values():
        lane.observe = teller(0)
    # All of them first: nobody who leaves in the midst of the study then keeps it from beginning.
    described = []
    for number, variant in enumerate(variants):
        described.append(describe_all(variant, lanes, teller(number), kept=kept[number]))
        keep(folder, variant, described[number])
    plans = [plan(variant, census_of(found)) for variant, found in zip(variants, described, strict=True)]

    def run_of(number: int, lanes: Mapping[str, Lane]) -> Run:
        return Run(
            variants[number],
            plans[number],
            lanes=lanes,
            descriptions=described[number],
            ledger=ledger,
            start=starts[number],
            observe=teller(number),
            traffic=traffic,
            keep_weights=keep_weights,
        )

    to_make = [run_of(number, {}).to_make() for number in range(len(variants))]
    _check_room(variants, to_make, folder, everything=keep_weights)
    runs: list[Run] = []
    for number in range(len(variants)):
        run = run_of(number, lanes)
        run.go()
        runs.append(run)
    if not any(run.parked or run.not_made_again for run in runs):
        ledger.set_strays_aside()
    results = results_of(study, runs)
    write_atomically(folder / "results.json", write_json(results), durable=True)
    _note(traffic, folder, past, started, time.monotonic() - began)
    write_report(folder)  # now: a site that is away may keep its delivery waiting for a day
    sent = dict(traffic.sent)
    deliveries = deliver(study, runs, lanes, ledger, teller(len(variants) - 1))
    _note(traffic, folder, past, started, time.monotonic() - began, deliveries.done)
    if dict(traffic.sent) != sent:
        write_report(folder)  # it counts what crossed the wire
    sentences = list(_missing(runs, results, deliveries, folder))
    if sentences:
        raise Unfinished(" ".join(sentences))
    return results


def _missing(runs: Sequence[Run], results: dict[str, Any], deliveries: Deliveries, folder: Path) -> Iterator[str]:
    """What could not be done as asked, in sentences."""
    reasons = {reason for run in runs for reason in run.parked.values()} | {row["reason"] for row in results["parked"]}
    cut = [row for row in results["rows"] if row["absent"]]
    if parked := len(results["parked"]):
        told = "; ".join(sorted(reasons))
        which = _which(results["parked"])
        yield f"{parked} of {parked + len(results['rows'])} rows could not be finished ({which}) – {told}."
    elif reasons:
        yield f"What is measured beside the rows could not be finished – {'; '.join(sorted(reasons))}."
    if cut:
        names = listed(sorted({site for row in cut for site in row["absent"]}))
        which = _which(cut)
        yield f"{len(cut)} rows ({which}) were made without {names}, as the study has it, and are marked."
    if deliveries.failed:
        told = "; ".join(f"site {site}: {reason}" for site, reason in sorted(deliveries.failed.items()))
        yield f"Not every site has its weights – {told}."
    if gone := sorted({reason for run in runs for reason in run.not_made_again.values()}):
        yield f"Weights that are gone from {folder} could not be made again – {'; '.join(gone)}."
    if deliveries.failed or gone or any(run.parked for run in runs):
        yield f"What is finished is kept in {folder}; {GO_ON}."


def _which(rows: Iterable[Mapping[str, Any]]) -> str:
    """Name the methods of rows of results.json, folds and repeats together: "Routes: B → C → A; FedAvg at A and B"."""
    places: dict[Method, list[str]] = {}
    for row in rows:
        method = method_of(row["method"])
        places.setdefault(method, []).append(row["label"] if method.own_line else row["target"])
    return "; ".join(
        f"{method.title}{':' if method.own_line else ' at'} {_few(list(dict.fromkeys(found)))}"
        for method, found in places.items()
    )


def _few(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return listed(names if more < 1 else [*names[:SHOWN], f"{more} more"])


def _start(study: Study, ledger: Ledger, beside: Path) -> StageRecord:
    source = source_digest(study, beside)
    return start_of(study, ledger, source=source, weights=lambda: start_weights(study, beside))


def _check_room(
    variants: Sequence[Study], to_make: Sequence[Collection[Node]], folder: Path, *, everything: bool
) -> None:
    """Refuse a study whose weights the disk cannot hold; better now than after days.

    Args:
        to_make: of every variant, what is still to be worked out.
    """
    made = need = 0
    for variant, nodes in zip(variants, to_make, strict=True):
        trained = sum(isinstance(node, FineTune | Average) for node in nodes)
        if not everything:
            # Of the rounds, in every fold, the averages that lead and what is on its way.
            folds, sites = len(variant.split.run), len(variant.sites)
            averages = [node for node in nodes if isinstance(node, Average)]
            of_rounds = {*averages, *(part for average in averages for part in average.parts)} & set(nodes)
            trained = min(trained, trained - len(of_rounds) + 3 * folds * (sites + 1))
        made += trained
        need += trained * declared_bytes(variant.model)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise DiskFull(
            f"The weights of {made} stages need {short_bytes(need)} more in {folder},"
            f" and {short_bytes(free)} are free; make room, give another folder with --out,"
            " or set fewer rounds, folds or routes in the study."
        )


def _keep_study(study: Study, folder: Path) -> None:
    """Write study.toml once: a file that is written at every start may be lost with the power at every start."""
    path = folder / "study.toml"
    try:
        kept = load_study(path)
    except RelayError:  # there is none, or it is damaged: the ledger below is examined by itself
        write_atomically(path, study_toml(study).encode(), durable=True)
        return
    if kept.digest != study.digest:
        raise RelayError(f"{folder} holds the results of another study; give another folder with --out.")


def _past(folder: Path) -> dict[str, Any]:
    """What earlier runs of this folder noted: a resumed study counts all that was sent for it."""
    try:
        past = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return past if isinstance(past, dict) else {}


def _note(
    traffic: Traffic,
    folder: Path,
    past: dict[str, Any],
    started: str,
    seconds: float,
    delivered: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write run.json: what really crossed the wire, attempts and times, over all runs of this folder; and which site
    has which weights of its own."""

    def with_past(name: str, now: dict[str, int]) -> dict[str, int]:
        before = past.get(name, {})
        return {site: before.get(site, 0) + now.get(site, 0) for site in sorted({*before, *now})}

    note = {
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "started": past.get("started", started),
        "runs": past.get("runs", 0) + 1,
        "seconds": round(past.get("seconds", 0.0) + seconds, 1),
        "messages": past.get("messages", 0) + sum(traffic.messages.values()),
        "bytes_sent": with_past("bytes_sent", dict(traffic.sent)),
        "bytes_received": with_past("bytes_received", dict(traffic.received)),
        "attempts": with_past("attempts", dict(traffic.attempts)),
        "stage_seconds": past.get("stage_seconds", {})
        | {key: round(value, 2) for key, value in dict(traffic.seconds).items()},
        "delivered": past.get("delivered", {}) | dict(delivered or {}),
    }
    write_atomically(folder / "run.json", write_json(note))
