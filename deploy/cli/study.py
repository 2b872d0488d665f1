"""Define `relay study …`: plan a study, run and follow a study on separate hospitals, verify results."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from common.errors import FaultsFound, RelayError
from common.text import count
from deploy.cli.commands import command, group
from deploy.cli.options import (
    DEFAULT_COORDINATOR,
    MACHINE,
    RESULTS,
    AsJson,
    AtOnce,
    CoordinatorFolder,
    Results,
    ResultsAsJson,
    number_above_zero,
    whole_number,
)
from deploy.cli.results import show_results
from deploy.shipped_studies import shipped_study

app = group("study", "Plan, run, follow and verify a study.")

HOSPITALS = "Hospitals"
GAIN = "What it could show"


@command(app, "plan")
def plan(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY", parser=Path, help="A study file, or one that comes along, such as paper-table3."
        ),
    ],
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            metavar="NAME=SITE.toml",
            help="The settings of a site of this machine.",
            rich_help_panel=HOSPITALS,
        ),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slices",
            metavar="NAME=N",
            help="For a site elsewhere: how many slices (or boxes) of all its patients an epoch would train on.",
            rich_help_panel=HOSPITALS,
        ),
    ] = None,
    patients: Annotated[
        list[str] | None,
        typer.Option(
            "--patients",
            metavar="NAME=N",
            help="For a site elsewhere: how many usable patients it has.",
            rich_help_panel=HOSPITALS,
        ),
    ] = None,
    sd: Annotated[
        float | None,
        typer.Option(
            "--sd",
            metavar="POINTS",
            parser=number_above_zero,
            help="The standard deviation, over patients, of the difference between two methods, in Dice points;"
            " default: 2.",
            rich_help_panel=GAIN,
        ),
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option(
            "--earlier",
            metavar="DIR",
            parser=Path,
            help="The result folder of an earlier study: the standard deviations measured there, where a target has six"
            " test patients, are used in place of --sd.",
            rich_help_panel=GAIN,
        ),
    ] = None,
    federation: Annotated[
        Path | None,
        typer.Option(
            "--federation",
            metavar="FILE",
            parser=Path,
            help="A file with a federation's sites, links and graphics cards: how long the study would take there.",
            rich_help_panel=HOSPITALS,
        ),
    ] = None,
    at_once: AtOnce = None,
    no_trial: Annotated[
        bool,
        typer.Option("--no-trial", help="Do not measure this machine: no hours are told.", rich_help_panel=MACHINE),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Say what a study will ask for before anything runs.

    The answer names the trainings of the study's graph, what sharing them saves, gradient steps, bytes to and fro, the
    hours on this machine after a short trial, and for each target the smallest gain that the study could show.
    """
    from common.config.study import load_study
    from deploy.planning.power_plan import DEVIATION
    from deploy.planning.study_plan import numbers_of, study_plan
    from deploy.simulation.simulate import cores, site_files

    loaded = load_study(shipped_study(study))
    return study_plan(
        loaded,
        site_files(site or []),
        numbers_of("--slices", slices or []),
        patients=numbers_of("--patients", patients or []),
        sd=sd or DEVIATION,
        earlier=earlier,
        at_once=at_once or max(1, cores() // loaded.training.threads),
        trial=not no_trial,
        as_json=as_json,
        federation=federation,
    )


@command(app, "hash")
def show_hash(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY", parser=Path, help="A study file, or one that comes along, such as paper-table3."
        ),
    ],
    as_json: AsJson = False,
) -> int:
    """Print a study's hash, to read out over the telephone.

    The hash is over every setting, and the same for files that say the same in another layout. Hospitals give it to
    relay site approve --hash.
    """
    from common.config.study import load_study
    from common.fingerprint import format_fingerprint

    loaded = load_study(shipped_study(study))
    if as_json:
        print(json.dumps({"name": loaded.name, "digest": loaded.digest}))
    else:
        print(format_fingerprint(loaded.digest))
    return 0


@command(
    app,
    "run",
    stopped="Stopped following; the study goes on at the coordinator, and the same command follows it again. To end"
    " it: relay study stop.",
)
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", parser=Path, help="What is compared, and how.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="OUT",
            parser=Path,
            help="The result folder; default: STUDY-results.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    wait: Annotated[
        int,
        typer.Option(
            "--wait",
            metavar="HOURS",
            parser=whole_number(1),
            help="How long to wait for hospitals before the study has begun, later the study's [absence] says;"
            " default: 24.",
            rich_help_panel=HOSPITALS,
        ),
    ] = 24,
    courier: Annotated[
        list[str] | None,
        typer.Option(
            "--courier",
            metavar="NAME",
            help="A hospital without a network, served by relay courier; may be given several times.",
            rich_help_panel=HOSPITALS,
        ),
    ] = None,
    folder: CoordinatorFolder = DEFAULT_COORDINATOR,
    as_json: ResultsAsJson = False,
) -> int:
    """Run a study on the enrolled hospitals, or go on with one.

    The command follows the study until its table is printed.
    """
    from deploy.coordinator.folder import Coordinator
    from deploy.coordinator.study_run import run as follow

    results = out or Path(f"{study.stem}-results")

    def notify(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    follow(study, Coordinator(folder), results, patience=3600.0 * wait, couriers=courier or (), notify=notify)
    return show_results(results, as_json=as_json)


@command(app, "stop")
def stop(folder_of_results: Results, folder: CoordinatorFolder = DEFAULT_COORDINATOR) -> int:
    """Stop a study that runs on hospitals.

    What is finished is kept, and relay study run goes on from it. A hospital ends what it is training at the end of its
    leg, and waits for the next order.
    """
    from deploy.coordinator.folder import Coordinator
    from deploy.coordinator.study_run import stop as end

    end(Coordinator(folder), folder_of_results, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"The study in {folder_of_results} is stopped; relay study run goes on with it.")
    return 0


@command(app, "status")
def status(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="OUT",
            parser=Path,
            help="Also how far the study of this result folder is.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    serve: Annotated[
        str | None,
        typer.Option(
            "--serve",
            metavar="[HOST:]PORT",
            help="Show both on a web page that keeps itself up to date; default host: 127.0.0.1, this machine alone.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    folder: CoordinatorFolder = DEFAULT_COORDINATOR,
    as_json: AsJson = False,
) -> int:
    """Say which hospitals are there and which are missing.

    With --out, also how far a study is, and of its hospitals alone. The exit code is 0 if all hospitals are there.
    """
    from datetime import UTC, datetime

    from deploy.coordinator.enroll import records
    from deploy.coordinator.folder import Coordinator
    from deploy.coordinator.study_status import Status, lines, presences, sentence_of
    from server.progress.snapshot import read

    # A simulated study has a result folder, and no coordinator's folder.
    coordinator = Coordinator(folder) if folder.is_dir() or out is None else None
    if serve:
        return _serve(serve, Status(out, coordinator).now)
    if as_json:
        now = Status(out, coordinator).now()
        print(json.dumps(now, indent=1))
        return 0 if all(presence["online"] for presence in now.get("present", [])) and not now.get("error") else 1
    if out is not None:
        print(*lines(read(out), datetime.now(UTC)), sep="\n")
    found = presences(coordinator, out) if coordinator else []
    for presence in found:
        print(sentence_of(presence))
    if coordinator and not found:
        if any(not record.revoked for record in records(coordinator)):
            print("None of this study's hospitals is enrolled here.")
        else:
            print("No site is enrolled yet: relay enroll site NAME REQUEST.")
    return 0 if all(presence["online"] for presence in found) else 1


def _serve(address: str, status: Callable[[], dict[str, Any]]) -> int:
    from deploy.coordinator.status_page import server

    host, _, port = address.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise RelayError(f'--serve wants a port, such as 8080, or HOST:PORT, and got "{address}".')
    with server(host or "127.0.0.1", int(port), status) as page:
        print(f"http://{host or '127.0.0.1'}:{page.server_address[1]}/ – Ctrl-C ends it.", flush=True)
        with suppress(KeyboardInterrupt):
            page.serve_forever()
    return 0


@command(app, "verify")
def verify(folder: Results, as_json: AsJson = False) -> int:
    """Verify the records and weights files of a result folder.

    Every record is checked against its seal, every weights file against its digest, and every record's parents against
    the records that made them.
    """
    from deploy.console import bar
    from server.ledger.ledger import examine

    if not (folder / "ledger").is_dir():
        raise RelayError(f"{folder} holds no ledger; name the folder that a study was run into.")
    with bar("Examining the ledger", unit="bytes", stream=sys.stderr) as progress:
        found = examine(folder, progress=progress)
    if as_json:
        faults = [{"file": fault.path.name, "fault": fault.sentence} for fault in found.faults]
        counts = {"records": len(found.records), "weights": len(found.weights), "gone": len(found.gone)}
        print(json.dumps(counts | {"faults": faults}, indent=1))
    else:
        print(f"Verified {count(len(found.records), 'record')} and {count(len(found.weights), 'weight file')}.")
        if found.gone:
            print(f"{count(len(found.gone), 'weight file')} deleted earlier because no result needs them.")
        for fault in found.faults:
            print(f"{fault.path} {fault.sentence}.")
    if found.faults:
        raise FaultsFound(
            f"{count(len(found.faults), 'file')} in {folder} failed verification; run the study into the same folder"
            " again to make them again."
        )
    return 0
