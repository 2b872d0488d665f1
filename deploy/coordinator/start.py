"""Keep the coordinator's programs running: `relay coordinator start`.

The programs are Flower's SuperLink, which holds the messages, Flower's SuperExec, which runs `server.app`, and nginx as
the gateway. On a single machine all three programs are started together; in containers each program is started alone.
A port that cannot be taken is refused before anything is started, and "Up" is said once the programs answer as they
answer others.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from common.errors import Expired, RelayError
from deploy.coordinator.enroll import SUPERLINK_NAME, keep_out, readable_records, update_superlink_if_up
from deploy.coordinator.folder import USUAL_FOLDER, Coordinator, Settings
from deploy.coordinator.reachable import check_port, last_words, trouble_with
from deploy.flower.control import QUIET, grpc_health, program
from deploy.flower.supervisor import Program, Supervisor, a_free_port, until_stopped
from deploy.only_one import only_one
from deploy.pki.certificates import check_has_begun, days_left, read_certificate
from deploy.room import Room

PARTS = ("superlink", "superexec", "gateway")
SOON = 30.0
"""Days before a certificate expires from which on a warning is printed."""
PATIENCE = 15.0
"""Seconds from the start after which it is said what keeps the programs from answering."""
LOOK_EVERY, LOOK_AGAIN = 1.0, 30.0
"""Seconds between two looks whether the programs answer, before and after they do."""
TELL_EVERY = 30.0
"""Seconds between two comparisons of the enrolled sites with the SuperLink's list."""


def start(coordinator: Coordinator, parts: Sequence[str], *, health: str = "") -> None:
    """Run parts of the coordinator until SIGTERM or Ctrl-C.

    Args:
        coordinator: the coordinator's folder.
        parts: names from `PARTS`.
        health: HOST:PORT of the gRPC health service of a Flower program started alone; empty: a free port.

    Raises:
        Locked: a part of this coordinator runs already.
        RelayError: the coordinator is not set up, a part is missing, a port cannot be taken, or a certificate has
            expired or is not valid yet.
    """
    if health and len(parts) > 1:
        raise RelayError("--health is for one part alone; name it with --only.")
    coordinator = Coordinator(coordinator.folder.absolute())
    settings = coordinator.settings()
    # Each part has its own health address. The SuperLink's health is asked before the enrolled sites are registered.
    health_of = {part: health or f"127.0.0.1:{a_free_port()}" for part in parts}
    certificate = coordinator.superlink / "server.crt"
    if "superlink" in parts:
        shown = read_certificate(certificate)
        check_has_begun(shown, f"The certificate {certificate}")
        left = days_left(shown)
        if left < 0:
            raise Expired(f"The certificate {certificate} expired {-left:.0f} days ago; renew: relay enroll renew.")
        _print_admitted(coordinator)
        if left < SOON:
            _print_line(f"The coordinator's certificates expire in {left:.0f} days; renew them: relay enroll renew.")
    with (
        ExitStack() as held,
        tempfile.TemporaryDirectory(prefix="relay-coordinator-") as scratch,
        until_stopped() as over,
    ):
        for part in parts:
            lock = coordinator.folder / part / ".started.lock"
            held.enter_context(only_one(lock, f"The {part} of the coordinator in {coordinator.folder}"))
        _check_ports(coordinator, settings, parts)
        programs = {
            "superlink": lambda: _superlink(coordinator, settings.superlink, health_of["superlink"]),
            "superexec": lambda: _superexec(coordinator, settings.superlink, Path(scratch), health_of["superexec"]),
            "gateway": lambda: _gateway(coordinator),
        }
        supervisor = Supervisor([programs[part]() for part in parts], _print_line)
        _print_line(f"Starting {', '.join(parts)}; hospitals dial {settings.dialled}.")
        watch = Watch(coordinator, settings, parts)
        room = Room([coordinator.folder], "until then no message of a study can be kept")
        told_at = 0.0
        said: list[str] = []
        stamp = _stamp(certificate)
        try:
            while not over.wait(0.5):
                supervisor.tend()
                for sentence in [*watch.news(time.monotonic()), *room.news(time.monotonic())]:
                    _print_line(sentence)
                if "superlink" not in parts:
                    continue
                if _stamp(certificate) != stamp:
                    stamp = _stamp(certificate)
                    _print_line("There is a new certificate; the SuperLink is started again with it.")
                    supervisor.restart("superlink")
                if time.monotonic() - told_at > TELL_EVERY and grpc_health(health_of["superlink"], timeout=1):
                    # Sites may have been enrolled or revoked while the SuperLink was down.
                    told_at = time.monotonic()
                    said, before = [], said
                    update_superlink_if_up(coordinator, said.append)
                    for sentence in said:
                        if sentence not in before:  # a record that stays as bad is told once
                            _print_line(sentence)
        finally:
            supervisor.end()
            watch.end()
    _print_line("Stopped.")


class Watch:
    """Look again and again whether the programs answer as they answer others, and say so when that changes.

    Looking may take seconds, where a name is slow to be resolved, and is done in a thread.
    """

    def __init__(self, coordinator: Coordinator, settings: Settings, parts: Sequence[str]) -> None:
        self._coordinator, self._settings, self._parts = coordinator, settings, parts
        self._pool = ThreadPoolExecutor(1)
        self._look: Future[tuple[list[str], str]] | None = None
        self._began = time.monotonic()
        self._next = self._began if {"superlink", "gateway"} & {*parts} else math.inf
        self._up, self._said = False, ""

    def news(self, now: float) -> list[str]:
        """Return the sentences to print now.

        Args:
            now: the time, of `time.monotonic()`.
        """
        if self._look is None and now >= self._next:
            self._look = self._pool.submit(self._find)
        if self._look is None or not self._look.done():
            return []
        (troubles, remark), self._look = self._look.result(), None
        self._next = now + (LOOK_EVERY if troubles else LOOK_AGAIN)
        if not troubles:
            said, self._up, self._said = self._up, True, ""
            return [] if said else [self._up_sentence() + remark]
        sentence = " ".join(troubles)
        if (not self._up and now - self._began < PATIENCE) or sentence == self._said:
            return []
        self._up, self._said = False, sentence
        return [sentence]

    def end(self) -> None:
        """Stop looking."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _up_sentence(self) -> str:
        if "gateway" not in self._parts:
            return f"Up: {', '.join(self._parts)}."
        return f"Up: the gateway answers at {self._settings.dialled}; hospitals can connect."

    def _find(self) -> tuple[list[str], str]:
        """Return a sentence for each program that does not answer, and a remark on the name that hospitals dial."""
        settings, troubles, remark = self._settings, [], ""
        ca = self._coordinator.superlink_ca
        if "superlink" in self._parts:
            host, _, port = settings.superlink.rpartition(":")
            if trouble := trouble_with(host, int(port), name=SUPERLINK_NAME, ca=ca):
                troubles.append(self._trouble("SuperLink", settings.superlink, trouble, self._coordinator.superlink))
        if "gateway" in self._parts:
            here = "::1" if ":" in settings.host else "127.0.0.1"
            if trouble := trouble_with(here, settings.port, name=settings.host, ca=ca):
                troubles.append(self._trouble("gateway", f"port {settings.port}", trouble, self._coordinator.gateway))
            elif trouble := trouble_with(settings.host, settings.port, name=settings.host, ca=ca):
                remark = (
                    f" From this machine itself {settings.dialled} cannot be reached ({trouble}); if hospitals cannot"
                    " connect either, look at the name and at the firewall."
                )
        return troubles, remark

    def _trouble(self, name: str, where: str, trouble: str, folder: Path) -> str:
        words = last_words(_log(folder, name.lower()))
        return f"The {name} does not answer at {where} ({trouble})." + (f" Its log ends: {words}" if words else "")


def _check_ports(coordinator: Coordinator, settings: Settings, parts: Sequence[str]) -> None:
    """Refuse ports that are in use or not this user's, before anything is started."""
    change = "relay enroll coordinator --change"
    if coordinator.folder.absolute() != USUAL_FOLDER.absolute():
        change += f" --dir {shlex.quote(str(coordinator.folder))}"
    if "superlink" in parts:
        host, port = _listens(settings.superlink)
        check_port(
            host, int(port), "the SuperLink", f"{change} --superlink {settings.superlink.rpartition(':')[0]}:PORT"
        )
    if "gateway" in parts:
        check_port("0.0.0.0", settings.port, "the gateway", f"{change} --port PORT")
        check_port("127.0.0.1", settings.health_port, "the gateway's health check", f"{change} --health-port PORT")


def _listens(address: str) -> tuple[str, str]:
    """Return the address and the port on which a SuperLink listens whose clients dial `address`."""
    host, _, port = address.rpartition(":")
    return ("127.0.0.1" if host in ("localhost", "127.0.0.1") else "0.0.0.0"), port


def _print_admitted(coordinator: Coordinator) -> None:
    """Print which hospitals may take part and which may not; a restored backup may have changed both."""
    for sentence in keep_out(coordinator):
        _print_line(sentence)
    found, damaged = readable_records(coordinator)
    admitted = [record.site for record in found if not record.revoked]
    out = [f"{record.site} ({record.revoked[:10]})" for record in found if record.revoked]
    _print_line(f"Admitted: {', '.join(admitted) or 'no hospital yet'}. Revoked: {', '.join(out) or 'none'}.")
    for sentence in damaged:
        _print_line(sentence)


def _superlink(coordinator: Coordinator, address: str, health: str) -> Program:
    host, port = _listens(address)
    folder = coordinator.superlink
    command = [sys.executable, "-I", "-m", "deploy.flower.superlink"]
    command += ["--host", host, "--port", port]
    command += ["--ssl-ca-certfile", str(folder / "server-ca.crt"), "--ssl-certfile", str(folder / "server.crt")]
    command += ["--ssl-keyfile", str(folder / "server.key"), "--enable-supernode-auth"]
    command += ["--isolation", "process", "--superexec-auth-secret-file", str(coordinator.secret)]
    command += ["--disable-runtime-dependency-installation", "--database", str(folder / "state.db")]
    command += ["--health-server-address", health]
    return Program("superlink", command, _log(folder, "superlink"), {**QUIET, "FLWR_HOME": str(folder / "flower")})


def _superexec(coordinator: Coordinator, address: str, scratch: Path, health: str) -> Program:
    command = [program("flower-superexec"), "--runtime-api-address", address]
    command += ["--root-certificates", str(coordinator.superlink_ca)]
    command += ["--superexec-auth-secret-file", str(coordinator.secret)]
    command += ["--health-server-address", health]
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    environment = {**QUIET, **_proxy_spares(address), "FLWR_HOME": str(scratch / "flower"), "PATH": path}
    return Program("superexec", command, _log(coordinator.superexec, "superexec"), environment, scratch)


def _proxy_spares(address: str) -> dict[str, str]:
    """Return the variables with which a study's program uses the machine's proxy for all but the SuperLink."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = ",".join(filter(None, (spared, address.rpartition(":")[0].strip("[]"), "localhost", "127.0.0.1")))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def _gateway(coordinator: Coordinator) -> Program:
    if shutil.which("nginx") is None:
        raise RelayError("nginx is not installed on this machine; install it, or run the gateway elsewhere.")
    run = Path(__file__).parents[1] / "docker" / "gateway" / "run"
    return Program("gateway", ["sh", str(run), str(coordinator.gateway)], _log(coordinator.gateway, "gateway"), {})


def _log(folder: Path, name: str) -> Path | None:
    """Return a log file in the folder; None in a container, whose engine keeps standard output."""
    return None if os.environ.get("RELAY_LOG_TO_OUTPUT") else folder / f"{name}.log"


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _print_line(sentence: str) -> None:
    with suppress(OSError):  # the output may be a file on a full disk, or a terminal that was closed
        print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)
