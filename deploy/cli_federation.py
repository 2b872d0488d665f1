"""The commands for hospitals that are really apart: `relay enroll`, `coordinator`, `study`, and those of a site."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import RelayError
from deploy.command import Command, whole_number

COORDINATOR = Path("relay-coordinator")


def _folder(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--dir", metavar="DIR", type=Path, default=COORDINATOR, help=f"the coordinator's folder; default: {COORDINATOR}"
    )


def _enroll_coordinator_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("--host", metavar="NAME", required=True, help="the name that hospitals dial, as fl.example.org")
    own.add_argument("--port", metavar="P", type=whole_number(1), default=443, help="the gateway's; default: 443")
    own.add_argument(
        "--superlink",
        metavar="HOST:PORT",
        default="127.0.0.1:8000",
        help="where the SuperLink listens, behind the gateway; default: 127.0.0.1:8000",
    )
    _folder(own)


def _enroll_coordinator(chosen: argparse.Namespace) -> int:
    from deploy.coordinator_folder import Coordinator
    from deploy.enroll import set_up

    coordinator = Coordinator(chosen.dir)
    settings = set_up(coordinator, host=chosen.host, port=chosen.port, superlink=chosen.superlink)
    print(
        f"The coordinator of {settings.host}:{settings.port} is set up in {coordinator.folder}.\n"
        f"  {coordinator.ca}: the authorities' private keys. Keep a copy of this folder in a safe place.\n"
        f"  {coordinator.gateway}: what nginx reads. Let the world reach port {settings.port}, and no other.\n"
        f"  {coordinator.superlink}: what Flower's SuperLink reads, and its database.\n"
        "Next: relay coordinator start, and relay enroll site for each hospital."
    )
    return 0


def _renew_arguments(own: argparse.ArgumentParser) -> None:
    _folder(own)


def _renew(chosen: argparse.Namespace) -> int:
    from deploy.coordinator_folder import Coordinator
    from deploy.enroll import renew

    days = renew(Coordinator(chosen.dir))
    print(
        f"New certificates for the gateway and the SuperLink, valid for {days:.0f} days; programs that run take them"
        " by themselves, and hospitals notice nothing."
    )
    return 0


def _enroll_site_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("name", metavar="NAME", help="the hospital's name in studies")
    own.add_argument("request", metavar="REQUEST", type=Path, help="the file that relay site init made there")
    own.add_argument(
        "--fingerprint",
        metavar="DIGITS",
        default="",
        help="as the hospital reads it out over the telephone: signed only if they are the request's",
    )
    _folder(own)


def _enroll_site(chosen: argparse.Namespace) -> int:
    from common.telephone import spoken
    from deploy.coordinator_folder import Coordinator
    from deploy.enroll import enroll, tell_superlink_if_up

    coordinator = Coordinator(chosen.dir)
    record, kit = enroll(coordinator, chosen.name, chosen.request, heard=chosen.fingerprint)
    print(f"Site {record.site} is enrolled; its certificate is valid until {record.expires[:10]}.")
    print(f"Fingerprint of its request: {spoken(record.fingerprint)}")
    if not record.compared:
        print(
            "It was not compared. Have the hospital read its own out to you before you send the kit; if it is another:"
            f" relay enroll revoke {record.site}."
        )
    if not tell_superlink_if_up(coordinator, print):
        print("The SuperLink is down; it gets to know of the site when it is started.")
    print(f"Send the hospital {kit}. It holds no secret.")
    return 0


def _enroll_list_arguments(own: argparse.ArgumentParser) -> None:
    _folder(own)
    own.add_argument("--json", action="store_true", help="for a script")


def _enroll_list(chosen: argparse.Namespace) -> int:
    from common.telephone import spoken
    from deploy.coordinator_folder import Coordinator
    from deploy.enroll import records

    coordinator = Coordinator(chosen.dir)
    coordinator.settings()
    found = records(coordinator)
    if chosen.json:
        print(json.dumps([record.model_dump(mode="json") for record in found], indent=1))
        return 0
    for record in found:
        state = f"revoked {record.revoked[:10]}" if record.revoked else f"until {record.expires[:10]}"
        remark = "" if record.compared else ", never compared"
        print(f"{record.site:<12} {state:<20} {spoken(record.fingerprint)}{remark}")
    if not found:
        print("No site is enrolled yet: relay enroll site NAME REQUEST.")
    return 0


def _revoke_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("name", metavar="NAME", help="the hospital")
    _folder(own)


def _revoke(chosen: argparse.Namespace) -> int:
    from deploy.coordinator_folder import Coordinator
    from deploy.enroll import revoke, tell_superlink_if_up

    coordinator = Coordinator(chosen.dir)
    record = revoke(coordinator, chosen.name)
    print(f"Site {record.site} is revoked: the gateway turns it away within a minute. The others notice nothing.")
    if not tell_superlink_if_up(coordinator, print):
        print("The SuperLink is down; it is told when it is started.")
    return 0


def _coordinator_start_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--only",
        metavar="PART",
        action="append",
        choices=("superlink", "superexec", "gateway"),
        help="superlink, superexec or gateway; once for each. Default: all three",
    )
    own.add_argument(
        "--health",
        metavar="HOST:PORT",
        default="",
        help="where the one part says over gRPC that it serves",
    )
    _folder(own)


def _coordinator_start(chosen: argparse.Namespace) -> int:
    from deploy.coordinator import PARTS, start
    from deploy.coordinator_folder import Coordinator

    start(Coordinator(chosen.dir), chosen.only or PARTS, health=chosen.health)
    return 0


def _study_run_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("study", metavar="STUDY.toml", type=Path, help="what is compared, and how")
    own.add_argument("--out", metavar="OUT", type=Path, help="the result folder; default: STUDY-results")
    own.add_argument(
        "--wait",
        metavar="HOURS",
        type=whole_number(1),
        default=24,
        help="how long to wait for hospitals before the study has begun, later the study's [absence] says; default: 24",
    )
    _folder(own)
    own.add_argument("--json", action="store_true", help="print results.json, and nothing else, on standard output")


def _study_run(chosen: argparse.Namespace) -> int:
    from deploy.cli import show_results
    from deploy.coordinator_folder import Coordinator
    from deploy.study_run import run

    out = chosen.out or Path(f"{chosen.study.stem}-results")

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    run(chosen.study, Coordinator(chosen.dir), out, patience=3600.0 * chosen.wait, tell=tell)
    if chosen.json:
        print((out / "results.json").read_text(encoding="utf-8"), end="")
        return 0
    return show_results(out)


def _study_status_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("--out", metavar="OUT", type=Path, help="also how far the study of this result folder is")
    own.add_argument(
        "--serve",
        metavar="[HOST:]PORT",
        help="show both on a web page that keeps itself up to date; default host: 127.0.0.1, this machine alone",
    )
    _folder(own)
    own.add_argument("--json", action="store_true", help="for a script")


def _study_status(chosen: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from deploy.coordinator_folder import Coordinator
    from deploy.study_status import Status, lines, presences, sentence_of
    from server.progress import read

    # A study of hospitals that all lie on one machine has a result folder and no coordinator's.
    coordinator = Coordinator(chosen.dir) if chosen.dir.is_dir() or chosen.out is None else None
    if chosen.serve:
        return _serve(chosen.serve, Status(chosen.out, coordinator).now)
    if chosen.json:
        told = Status(chosen.out, coordinator).now()
        print(json.dumps(told, indent=1))
        return 0 if all(presence["online"] for presence in told.get("present", [])) and not told.get("error") else 1
    if chosen.out is not None:
        print(*lines(read(chosen.out), datetime.now(UTC)), sep="\n")
    found = presences(coordinator) if coordinator else []
    for presence in found:
        print(sentence_of(presence))
    if coordinator and not found:
        print("No site is enrolled yet: relay enroll site NAME REQUEST.")
    return 0 if all(presence["online"] for presence in found) else 1


def _serve(address: str, status: Callable[[], dict[str, Any]]) -> int:
    from deploy.status_page import server

    host, _, port = address.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise RelayError(f'--serve wants a port, such as 8080, or HOST:PORT, and got "{address}".')
    with server(host or "127.0.0.1", int(port), status) as page:
        print(f"http://{host or '127.0.0.1'}:{page.server_address[1]}/ – Ctrl-C ends it.", flush=True)
        with suppress(KeyboardInterrupt):
            page.serve_forever()
    return 0


def _init_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("site", metavar="SITE.toml", type=Path, help="the hospital's own settings; written if missing")
    own.add_argument("--name", metavar="NAME", default="", help="the hospital's name in studies")


def _init(chosen: argparse.Namespace) -> int:
    from common.telephone import spoken
    from deploy.site.keys import init

    site, request, path = init(chosen.site, name=chosen.name)
    print(
        f"Site {site.name}: settings in {chosen.site}, keys in {site.folder / 'keys'}; the private ones never leave.\n"
        f"Send the coordinator {path}. It holds public keys alone.\n"
        f"Read this fingerprint out when the coordinator calls: {spoken(request.fingerprint)}"
    )
    return 0


def _join_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("site", metavar="SITE.toml", type=Path, help="the hospital's own settings")
    own.add_argument("kit", metavar="KIT", type=Path, help="the file that the coordinator sent")


def _join(chosen: argparse.Namespace) -> int:
    from deploy.site.keys import join

    site, kit = join(chosen.site, chosen.kit)
    print(
        f"Site {site.name} may dial {kit.host}:{kit.port}; its certificate is for the key made here.\n"
        f"Next: relay site start {chosen.site}"
    )
    return 0


def _start_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("site", metavar="SITE.toml", type=Path, help="the hospital's own settings")
    own.add_argument(
        "--health", metavar="HOST:PORT", default="", help="where to say over gRPC that the site is up; default: nowhere"
    )


def _start(chosen: argparse.Namespace) -> int:
    from deploy.site.start import start

    start(chosen.site, health=chosen.health)
    return 0


def _service_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("site", metavar="SITE.toml", type=Path, help="the hospital's own settings")
    own.add_argument("--compose", action="store_true", help="a compose file for a container; default: a systemd unit")


def _service(chosen: argparse.Namespace) -> int:
    from deploy.site.service import compose, unit

    print(compose(chosen.site) if chosen.compose else unit(chosen.site), end="")
    return 0


FEDERATION = (
    Command(
        ("enroll", "coordinator"),
        "Make the coordinator's two authorities, its certificates, the gateway's settings and the secret of its"
        " SuperExec. Nothing that is there is overwritten.",
        _enroll_coordinator_arguments,
        _enroll_coordinator,
    ),
    Command(
        ("enroll", "site"),
        "Let a hospital in: sign its request, make it known to the SuperLink, and write the kit that goes back to it.",
        _enroll_site_arguments,
        _enroll_site,
    ),
    Command(("enroll", "list"), "Who is enrolled, and until when.", _enroll_list_arguments, _enroll_list),
    Command(
        ("enroll", "revoke"),
        "Shut a hospital out, within a minute. The others notice nothing.",
        _revoke_arguments,
        _revoke,
    ),
    Command(
        ("enroll", "renew"),
        "New certificates for the gateway and the SuperLink, of the same authority.",
        _renew_arguments,
        _renew,
    ),
    Command(
        ("coordinator", "start"),
        "Run Flower's SuperLink and SuperExec and the gateway, until stopped; what ends is started again.",
        _coordinator_start_arguments,
        _coordinator_start,
    ),
    Command(
        ("study", "run"),
        "Run a study on the enrolled hospitals, or go on with one, and follow it to its table.",
        _study_run_arguments,
        _study_run,
        "Stopped following; the study goes on at the coordinator, and the same command follows it again.",
    ),
    Command(
        ("study", "status"),
        "Which hospitals are there and which are missing, and with --out how far a study is; exit code 0 if all are"
        " there.",
        _study_status_arguments,
        _study_status,
    ),
    Command(
        ("site", "init"),
        "Make a hospital's settings and keys where there are none, and the request that goes to the coordinator.",
        _init_arguments,
        _init,
    ),
    Command(("site", "join"), "Take the kit that the coordinator sent, and check it.", _join_arguments, _join),
    Command(
        ("site", "start"),
        "Be there for the coordinator's orders, until stopped. It runs the installed app and nothing else.",
        _start_arguments,
        _start,
    ),
    Command(
        ("site", "service"),
        "Print what keeps `relay site start` running on this machine: a systemd unit, or a compose file.",
        _service_arguments,
        _service,
    ),
)
