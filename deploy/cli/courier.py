"""Define `relay courier …`: orders and answers of a hospital without a network, carried as sealed files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.commands import command, group
from deploy.cli.options import DEFAULT_COORDINATOR, RESULTS, CoordinatorFolder, SiteFile

app = group("courier", "A hospital without a network: its orders and answers, carried as sealed files.")

Study = Annotated[
    Path,
    typer.Option("--out", metavar="OUT", parser=Path, help="The study's result folder.", rich_help_panel=RESULTS),
]


@command(app, "pack")
def pack(
    site: Annotated[str, typer.Argument(metavar="NAME", help="The hospital.")],
    out: Study,
    to: Annotated[
        Path,
        typer.Option("--to", metavar="DIR", parser=Path, help="The folder for the sealed orders, such as a medium's."),
    ] = Path(),
    folder: CoordinatorFolder = DEFAULT_COORDINATOR,
) -> int:
    """Seal the orders that wait for a hospital, at the coordinator.

    What was packed before and got lost is packed again.
    """
    from deploy.coordinator.courier import pack as seal
    from deploy.coordinator.folder import Coordinator

    for path in seal(Coordinator(folder), out, site, to):
        print(f"{path}: for site {site} alone, relay courier run SITE.toml {path.name}")
    return 0


@command(app, "take")
def take(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", parser=Path, help="The answers that came back.")],
    out: Study,
    folder: CoordinatorFolder = DEFAULT_COORDINATOR,
) -> int:
    """Take a hospital's answers in, at the coordinator.

    The study goes on by itself.
    """
    from deploy.coordinator.courier import take as bring
    from deploy.coordinator.folder import Coordinator

    for file in files:
        site = bring(Coordinator(folder), out, file)
        print(f"{file}: taken; it is the answer of site {site}.")
    return 0


@command(app, "run", stopped="Stopped; the same command goes on from what is finished.")
def run(
    site: SiteFile,
    order: Annotated[Path, typer.Argument(metavar="ORDER", parser=Path, help="The file that the courier brought.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", parser=Path, help="The sealed answer; default: ORDER with .answer."),
    ] = None,
) -> int:
    """Do what a carried order says, at the hospital, and seal the answer.

    As with relay site start: only what was approved is done, and all that leaves is in relay site audit.
    """
    from deploy.console import bar
    from deploy.site.courier import run as answer

    with bar("Answering the order", unit="epochs or patients", stream=sys.stderr) as progress:
        written, refusal = answer(site, order, to, observe=progress)
    said = f"the order was refused ({refusal}); carry the answer back all the same." if refusal else "carry it back."
    print(f"{written}: {said}")
    return 0
