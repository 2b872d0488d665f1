"""Define `relay coordinator …`: start the coordinator's SuperLink, SuperExec and gateway."""

from __future__ import annotations

from typing import Annotated

import click
import typer

from deploy.cli.commands import command, group
from deploy.cli.options import COORDINATOR, DEFAULT_COORDINATOR, CoordinatorFolder

app = group("coordinator", "Run the coordinator of hospitals that are really apart.")


@command(app, "start")
def start(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="PART",
            click_type=click.Choice(["superlink", "superexec", "gateway"]),
            help="superlink, superexec or gateway; once for each. Default: all three.",
            rich_help_panel=COORDINATOR,
        ),
    ] = None,
    health: Annotated[
        str,
        typer.Option(
            "--health",
            metavar="HOST:PORT",
            help="Where the one part says over gRPC that it serves.",
            rich_help_panel=COORDINATOR,
        ),
    ] = "",
    folder: CoordinatorFolder = DEFAULT_COORDINATOR,
) -> int:
    """Run the coordinator's programs, until stopped.

    They are Flower's SuperLink and SuperExec, and the gateway. A program that ends is started again.
    """
    from deploy.coordinator.folder import Coordinator
    from deploy.coordinator.start import PARTS
    from deploy.coordinator.start import start as run

    run(Coordinator(folder), only or PARTS, health=health)
    return 0


@command(app, "service")
def service(folder: CoordinatorFolder = DEFAULT_COORDINATOR) -> int:
    """Print a systemd unit for the coordinator."""
    from deploy.coordinator.folder import Coordinator
    from deploy.coordinator.service import unit

    print(unit(Coordinator(folder)), end="")
    return 0
