"""Keep the coordinator's programs running: `relay coordinator start`.

The programs are Flower's SuperLink, which holds the messages, Flower's SuperExec, which runs `server.app`, and nginx as
the gateway. On a single machine all three programs are started together; in containers each program is started alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common.errors import Expired, RelayError
from deploy.coordinator.enroll import keep_out, readable_records, update_superlink_if_up
from deploy.coordinator.folder import Coordinator
from deploy.flower.control import QUIET, grpc_health, program
from deploy.flower.supervisor import Program, Supervisor, a_free_port, until_stopped
from deploy.pki.certificates import days_left, read_certificate

PARTS = ("superlink", "superexec", "gateway")
SOON = 30.0
"""Days before a certificate expires from which on a warning is printed."""
TELL_EVERY = 30.0
"""Seconds between two comparisons of the enrolled sites with the SuperLink's list."""


def start(coordinator: Coordinator, parts: Sequence[str], *, health: str = "") -> None:
    """Run parts of the coordinator until SIGTERM or Ctrl-C.

    Args:
        coordinator: the coordinator's folder.
        parts: names from `PARTS`.
        health: HOST:PORT of the gRPC health service of a Flower program started alone; empty: a free port.

    Raises:
        RelayError: the coordinator is not set up, a part is missing, or a certificate has expired.
    """
    if health and len(parts) > 1:
        raise RelayError("--health is for one part alone; name it with --only.")
    coordinator = Coordinator(coordinator.folder.absolute())
    settings = coordinator.settings()
    # Each part has its own health address. The SuperLink's health is asked before the enrolled sites are registered.
    health_of = {part: health or f"127.0.0.1:{a_free_port()}" for part in parts}
    certificate = coordinator.superlink / "server.crt"
    if "superlink" in parts:
        left = days_left(read_certificate(certificate))
        if left < 0:
            raise Expired(f"The certificate {certificate} expired {-left:.0f} days ago; renew: relay enroll renew.")
        _print_admitted(coordinator)
        if left < SOON:
            _print_line(f"The coordinator's certificates expire in {left:.0f} days; renew them: relay enroll renew.")
    with tempfile.TemporaryDirectory(prefix="relay-coordinator-") as scratch, until_stopped() as over:
        programs = {
            "superlink": lambda: _superlink(coordinator, settings.superlink, health_of["superlink"]),
            "superexec": lambda: _superexec(coordinator, settings.superlink, Path(scratch), health_of["superexec"]),
            "gateway": lambda: _gateway(coordinator),
        }
        supervisor = Supervisor([programs[part]() for part in parts], _print_line)
        _print_line(f"Starting {', '.join(parts)}; hospitals dial {settings.host}:{settings.port}.")
        told_at = 0.0
        said: list[str] = []
        stamp = _stamp(certificate)
        try:
            while not over.wait(0.5):
                supervisor.tend()
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
    _print_line("Stopped.")


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
    host, _, port = address.rpartition(":")
    folder = coordinator.superlink
    here = host in ("localhost", "127.0.0.1")
    command = [sys.executable, "-I", "-m", "deploy.flower.superlink"]
    command += ["--host", "127.0.0.1" if here else "0.0.0.0", "--port", port]
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
    environment = {**QUIET, "FLWR_HOME": str(scratch / "flower"), "PATH": path}
    return Program("superexec", command, _log(coordinator.superexec, "superexec"), environment, scratch)


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
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)
