"""Define `relay enroll …`: decide which hospitals the coordinator lets in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.errors import RelayError
from deploy.cli.commands import command, group
from deploy.cli.options import COORDINATOR, DEFAULT_COORDINATOR, AsJson, CoordinatorFolder, whole_number

app = group("enroll", "Set the coordinator up, let hospitals in and shut them out.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The hospital's name in studies.")]


@command(app, "coordinator")
def set_up(
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="NAME",
            help="The name that hospitals dial, such as fl.example.org, or an address.",
            rich_help_panel=COORDINATOR,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="P",
            parser=whole_number(1),
            help="The gateway's; default: 443.",
            rich_help_panel=COORDINATOR,
        ),
    ] = None,
    superlink: Annotated[
        str | None,
        typer.Option(
            "--superlink",
            metavar="HOST:PORT",
            help="Where the SuperLink listens, behind the gateway; default: 127.0.0.1:8000.",
            rich_help_panel=COORDINATOR,
        ),
    ] = None,
    health_port: Annotated[
        int | None,
        typer.Option(
            "--health-port",
            metavar="P",
            parser=whole_number(1),
            help="Where the gateway says to its own machine that it serves; default: 8081.",
            rich_help_panel=COORDINATOR,
        ),
    ] = None,
    changes: Annotated[
        bool,
        typer.Option("--change", help="Change what is named of a coordinator that is set up; all else stays."),
    ] = False,
    folder: CoordinatorFolder = DEFAULT_COORDINATOR,
) -> int:
    """Make the coordinator's keys and settings.

    The coordinator gets two authorities, its certificates, the gateway's settings and the secret of its SuperExec.
    Nothing that exists is overwritten. With --change, the kits of all hospitals are written anew where they dial
    another name or port.
    """
    from deploy.coordinator.enroll import change
    from deploy.coordinator.enroll import set_up as make
    from deploy.coordinator.folder import Coordinator

    coordinator = Coordinator(folder)
    given = {"host": host, "port": port, "superlink": superlink, "health_port": health_port}
    named = {name: value for name, value in given.items() if value is not None}
    if changes:
        settings, kits = change(coordinator, **named)
        print(f"The coordinator is now that of {settings.dialled}. Start it again: relay coordinator start.")
        for kit in kits:
            print(f"Send {kit} to its hospital, which takes it with relay site join and starts again.")
        return 0
    if host is None:
        raise RelayError("--host is missing: the name that hospitals dial, such as fl.example.org.")
    settings = make(
        coordinator,
        host=host,
        port=443 if port is None else port,
        superlink=superlink or "127.0.0.1:8000",
        health_port=8081 if health_port is None else health_port,
    )
    print(
        f"The coordinator of {settings.dialled} is set up in {coordinator.folder}.\n"
        f"  {coordinator.ca}: the authorities' private keys. Keep a copy of this folder in a safe place.\n"
        f"  {coordinator.gateway}: what nginx reads. Let the world reach port {settings.port}, and no other.\n"
        f"  {coordinator.superlink}: what Flower's SuperLink reads, and its database.\n"
        "Next: relay coordinator start, and relay enroll site for each hospital."
    )
    return 0


@command(app, "site")
def enroll_site(
    name: Name,
    request: Annotated[
        Path, typer.Argument(metavar="REQUEST", parser=Path, help="The file that relay site init made there.")
    ],
    fingerprint: Annotated[
        str,
        typer.Option(
            "--fingerprint",
            metavar="DIGITS",
            help="As the hospital reads it out over the telephone: signed only if they are the request's.",
            rich_help_panel="Making sure",
        ),
    ] = "",
    folder: CoordinatorFolder = DEFAULT_COORDINATOR,
) -> int:
    """Let a hospital in.

    The hospital's request is signed, the hospital is registered at the SuperLink, and the kit that goes back to the
    hospital is written.
    """
    from common.fingerprint import format_fingerprint
    from deploy.coordinator.enroll import enroll, update_superlink_if_up
    from deploy.coordinator.folder import Coordinator

    coordinator = Coordinator(folder)
    record, kit = enroll(coordinator, name, request, heard=fingerprint)
    print(f"Site {record.site} is enrolled; its certificate is valid until {record.expires[:10]}.")
    print(f"Fingerprint of its request: {format_fingerprint(record.fingerprint)}")
    if not record.compared:
        print(
            "It was not compared. Have the hospital read its own out to you before you send the kit; if it is another:"
            f" relay enroll revoke {record.site}."
        )
    if not update_superlink_if_up(coordinator, print):
        print("The SuperLink is down; it gets to know of the site when it is started.")
    print(f"Send the hospital {kit}. It holds no secret.")
    return 0


@command(app, "list")
def list_sites(folder: CoordinatorFolder = DEFAULT_COORDINATOR, as_json: AsJson = False) -> int:
    """List who is enrolled, and until when."""
    from common.fingerprint import format_fingerprint
    from deploy.coordinator.enroll import readable_records
    from deploy.coordinator.folder import Coordinator

    coordinator = Coordinator(folder)
    coordinator.settings()
    found, damaged = readable_records(coordinator)
    for sentence in damaged:
        print(sentence, file=sys.stderr)
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in found], indent=1))
        return 0
    for record in found:
        state = f"revoked {record.revoked[:10]}" if record.revoked else f"until {record.expires[:10]}"
        remark = "" if record.compared else ", never compared"
        print(f"{record.site:<12} {state:<20} {format_fingerprint(record.fingerprint)}{remark}")
    if not found and not damaged:
        print("No site is enrolled yet: relay enroll site NAME REQUEST.")
    return 0


@command(app, "revoke")
def revoke_site(name: Name, folder: CoordinatorFolder = DEFAULT_COORDINATOR) -> int:
    """Shut a hospital out, within a minute.

    The other hospitals notice nothing.
    """
    from deploy.coordinator.enroll import revoke, update_superlink_if_up
    from deploy.coordinator.folder import Coordinator

    coordinator = Coordinator(folder)
    record = revoke(coordinator, name)
    print(f"Site {record.site} is revoked: the gateway turns it away within a minute. The others notice nothing.")
    if not update_superlink_if_up(coordinator, print):
        print("The SuperLink is down; it is told when it is started.")
    return 0


@command(app, "renew")
def renew_certificates(folder: CoordinatorFolder = DEFAULT_COORDINATOR) -> int:
    """Make new certificates for the gateway and the SuperLink.

    The same authority signs them.
    """
    from deploy.coordinator.enroll import renew
    from deploy.coordinator.folder import Coordinator

    days = renew(Coordinator(folder))
    print(
        f"New certificates for the gateway and the SuperLink, valid for {days:.0f} days; programs that run take them"
        " by themselves, and hospitals notice nothing."
    )
    return 0
