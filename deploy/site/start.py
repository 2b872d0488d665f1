"""Keep a hospital connected through outages of hours, and report troubles in plain words: `relay site start`.

Three parts run: the tunnel (a thread), Flower's SuperNode, which fetches the coordinator's orders through the tunnel,
and the site's own SuperExec, which lets the installed app answer the orders. The three parts talk to each other over
the loopback interface alone, and in TLS: any user of the machine may listen on a port that a part is about to take, and
would otherwise give the installed app its orders. The authority of these certificates is made anew for each start.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from client.governance.simulation_mode import SIMULATION
from client.governance.site_lock import shared_lock
from client.site_config import SiteConfig, load_site
from common.text import duration
from deploy.flower import internals
from deploy.flower.control import QUIET
from deploy.flower.supervisor import Program, Supervisor, a_free_port, until_stopped
from deploy.only_one import only_one
from deploy.pki.certificates import make_ca, make_server, new_key, pem, pem_of_key, write_private
from deploy.pki.enrolment_files import dialled
from deploy.room import Room
from deploy.site.keys import Admission, admission
from deploy.site.launcher import SLOW_NOTE
from deploy.site.proxy import Proxy, proxy_of
from deploy.site.running import STARTED
from deploy.site.tunnel import Contact, Trouble, Tunnel, inward_context, outward_context

SUPERNODE, SUPEREXEC = "supernode", "superexec"
LOOPBACK_CA, LOOPBACK_CERTIFICATE, LOOPBACK_KEY = "loopback-ca.crt", "loopback.crt", "loopback.key"
"""The files of the certificate with which tunnel and SuperNode prove themselves to the site's other programs."""
ANY_CLOCK = datetime(2000, 1, 1, tzinfo=UTC)
"""When that certificate begins to be valid: a clock that is put back while the site runs stops nothing."""
SLOW = "slow"
"""The name of the file whose path is passed in the environment variable `SLOW_NOTE`."""
SILENT = 150.0
"""Seconds without a request from the SuperNode after which the SuperNode is restarted. A healthy SuperNode polls every
few seconds and sends a heartbeat every 24 seconds; a silent SuperNode has a running process and no connection."""
SOON = 30.0
"""Days before the site's certificate expires from which on a warning is printed."""
PATIENCE = 5.0
"""Seconds from the beginning of a trouble to its first report: a single failed poll is no trouble."""
REPEAT = 600.0
"""Seconds after which a lasting trouble is reported again."""
AT_FIRST = 60.0
"""Seconds for which `Trouble.at_first`, if any, is reported in place of `Trouble.lasting`."""


def start(path: Path, *, health: str = "") -> None:
    """Run a site until SIGTERM or Ctrl-C.

    Args:
        path: the site's file.
        health: HOST:PORT of the SuperNode's gRPC health service; empty: no health service.

    Raises:
        RelayError: the site's file, keys or kit are missing or wrong, or its certificate has expired.
    """
    site = load_site(path)
    admitted = admission(site)
    gateway = dialled(admitted.kit.host, admitted.kit.port)
    proxy = proxy_of(site.proxy, admitted.kit.host)
    through = f" through the proxy {proxy.address} ({proxy.source})" if proxy else ""
    _print_line(f"Site {site.name}: dialling the coordinator's gateway {gateway}{through}.")
    if admitted.days_left < SOON:
        _print_line(
            f"This site's certificate expires in {admitted.days_left:.0f} days; send {site.name}.request to the"
            " coordinator again, and take the new kit with relay site join."
        )
    with (
        only_one(site.private() / STARTED, f"Site {site.name}"),
        shared_lock(site),
        tempfile.TemporaryDirectory(prefix="relay-site-") as scratch,
        until_stopped() as over,
    ):
        internals.client_runtime()
        _write_loopback_certificate(Path(scratch))
        tunnel = _tunnel(admitted, Path(scratch), proxy)
        tunnel.start()
        words, slow = Words(gateway), Note(Path(scratch) / SLOW)
        room = Room([site.private()], "until then no order can be carried out here")

        def print_unless_known(sentence: str) -> None:
            """Print the supervisor's sentence, unless the tunnel has reported the cause in better words already."""
            if not tunnel.contact.trouble:
                _print_line(sentence)

        supervisor = Supervisor(_programs(site, path, admitted, tunnel.port, Path(scratch), health), print_unless_known)
        try:
            while not over.wait(0.5):
                supervisor.tend()
                now = time.monotonic()
                for sentence in [*words.about(tunnel.contact, now), *slow.news(), *room.news(now)]:
                    _print_line(sentence)
                if min(supervisor.uptime(SUPERNODE), time.monotonic() - tunnel.contact.last_request) > SILENT:
                    _print_line("The SuperNode has fallen silent; it is started again.")
                    supervisor.restart(SUPERNODE)
        finally:
            supervisor.end()
            tunnel.stop()
    _print_line("Stopped.")


class Words:
    """Choose the reports about the contact with the coordinator: each change once, a lasting trouble repeatedly."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._connected = False
        self._trouble: Trouble | None = None
        self._since, self._changed = 0.0, 0.0
        self._said, self._said_at = "", 0.0

    def about(self, contact: Contact, now: float) -> list[str]:
        """Return the sentences to print now.

        Args:
            contact: the tunnel's record of its contact with both sides.
            now: the time, of `time.monotonic()`.
        """
        before, self._trouble = self._trouble, contact.trouble
        if self._trouble is None:
            if contact.heard and not self._connected:
                self._connected = True
                return [f"Connected to {self._gateway}; waiting for the coordinator's orders."]
            return []
        if before is None:
            self._since, self._said = now, ""
        if before != self._trouble:
            self._changed = now
        waiting = self._trouble.at_first and now - self._changed < AT_FIRST
        sentence = self._trouble.at_first if waiting else f"{self._trouble.lasting} Trying again."
        if now - self._since < PATIENCE or (sentence == self._said and now - self._said_at <= REPEAT):
            return []
        self._connected, self._said, self._said_at = False, sentence, now
        lasting = f" This has lasted for {duration(now - self._since)}." if now - self._since > REPEAT else ""
        return [f"{sentence}{lasting}"]


class Note:
    """Read a file into which the site's processes write a sentence for printing here."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def news(self) -> list[str]:
        """Return the sentence written since the last call, if any."""
        with suppress(FileNotFoundError):
            written = self._path.stat().st_mtime_ns
            if written != self._read and (sentence := self._path.read_text(encoding="utf-8")):
                self._read = written
                return [sentence]
        return []


def _tunnel(admitted: Admission, scratch: Path, proxy: Proxy | None) -> Tunnel:
    return Tunnel(
        admitted.kit.host,
        admitted.kit.port,
        outward=outward_context(admitted.kit.authority, admitted.certificate, admitted.tls_key),
        inward=inward_context(scratch / LOOPBACK_CERTIFICATE, scratch / LOOPBACK_KEY),
        proxy=proxy,
    )


def _write_loopback_certificate(scratch: Path) -> None:
    """Write the certificate of what listens on the loopback interface, whose authority is made for this start alone."""
    ca_key, key = new_key(), new_key()
    ca = make_ca("relay loopback", ca_key, since=ANY_CLOCK)
    hosts = ["localhost", "127.0.0.1"]
    certificate = make_server(hosts, key, ca=ca, ca_key=ca_key, since=ANY_CLOCK)
    write_private(scratch / LOOPBACK_KEY, pem_of_key(key))
    write_private(scratch / LOOPBACK_CERTIFICATE, pem(certificate))
    write_private(scratch / LOOPBACK_CA, pem(ca))


def _programs(
    site: SiteConfig, path: Path, admitted: Admission, port: int, scratch: Path, health: str
) -> list[Program]:
    secret = scratch / "superexec.secret"
    write_private(secret, secrets.token_urlsafe(48).encode())
    runtime = a_free_port()
    environment = {
        **QUIET,
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds between polls of one process by another on this machine
        "FLWR_HOME": str(scratch / "flower"),
        "RELAY_SITE": str(path.absolute()),
        "RELAY_SITE_LOG": str(site.folder / "site.log"),
        SLOW_NOTE: str(scratch / SLOW),
        SIMULATION: "",
    }
    node = [sys.executable, "-I", "-m", "deploy.site.supernode", "--superlink", f"127.0.0.1:{port}"]
    node += ["--root-certificates", str(scratch / LOOPBACK_CA)]
    node += ["--auth-supernode-private-key", str(admitted.node_key)]
    node += ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]
    node += ["--host", "127.0.0.1", "--port", str(runtime), "--ssl-ca-certfile", str(scratch / LOOPBACK_CA)]
    node += ["--ssl-certfile", str(scratch / LOOPBACK_CERTIFICATE), "--ssl-keyfile", str(scratch / LOOPBACK_KEY)]
    node += ["--health-server-address", health] if health else []
    executor = [sys.executable, "-I", "-m", "deploy.site.superexec"]
    executor += ["--root-certificates", str(scratch / LOOPBACK_CA)]
    executor += ["--runtime-api-address", f"127.0.0.1:{runtime}", "--superexec-auth-secret-file", str(secret)]
    return [
        Program(SUPERNODE, node, site.folder / "supernode.log", environment, scratch),
        Program(SUPEREXEC, executor, site.folder / "superexec.log", environment, scratch),
    ]


def _print_line(sentence: str) -> None:
    with suppress(OSError):  # the output may be a file on a full disk, or a terminal that was closed
        print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)
