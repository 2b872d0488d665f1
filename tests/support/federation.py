"""A federation of real processes on the loopback interface: SuperLink, SuperExec, and hospitals with SuperNodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from client.site_config import load_site
from deploy.coordinator import enroll
from deploy.coordinator.folder import Coordinator
from deploy.flower.control import RelayError
from deploy.flower.supervisor import a_free_port
from deploy.site import keys

RELAY = [sys.executable, "-m", "deploy.cli"]


def wait_for(what: Callable[[], Any], *, seconds: float, told: Callable[[], str] = str) -> Any:
    """The first true answer of `what`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError, RelayError):
            if answer := what():
                return answer
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come true in {seconds:.0f} s; {told()}")


class Federation:
    """Enrolled hospitals and a coordinator. `start` and `kill` name them: "superlink", "superexec", "A", …

    Args:
        gateway: with nginx at the door; without it the hospitals dial the SuperLink itself.
        dialled: the port that they dial instead, where a test listens itself.
    """

    def __init__(
        self, folder: Path, sites: Mapping[str, Path], *, gateway: bool = False, dialled: int | None = None
    ) -> None:
        self.folder, self.sites = folder, dict(sites)
        self.coordinator = Coordinator(folder / "coordinator")
        superlink = a_free_port()
        self.gateway_port = dialled or (a_free_port() if gateway else superlink)
        enroll.set_up(
            self.coordinator,
            host="localhost",
            port=self.gateway_port,
            superlink=f"localhost:{superlink}",
            health_port=a_free_port(),
        )
        for name in sites:
            self.admit(name)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment: dict[str, dict[str, str]] = {}
        """By a part's name, variables that it gets besides, from its next start on."""
        self.pythons: dict[str, Path] = {}
        """By a part's name, the Python that it is started with, where that is another than the tests' own."""

    def admit(self, name: str) -> None:
        """A hospital's enrolment, with the fingerprint compared."""
        _, request, path = keys.init(self.sites[name], name=name)
        _, kit = enroll.enroll(self.coordinator, name, path, heard=request.fingerprint)
        keys.join(self.sites[name], kit)

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.kill(name, signal.SIGTERM)

    def start(self, *names: str) -> None:
        for name in names:
            relay = [str(self.pythons.get(name, sys.executable)), *RELAY[1:]]
            if name in self.sites:
                command = [*relay, "site", "start", str(self.sites[name])]
            else:
                command = [*relay, "coordinator", "start", "--only", name, "--dir", str(self.coordinator.folder)]
            with (self.folder / f"{name}.out").open("ab") as out:
                self._processes[name] = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | {"OMP_NUM_THREADS": "1"} | self.environment.get(name, {}),
                )

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a part with all its processes; SIGKILL gives none of them time for anything."""
        process = self._processes.pop(name)
        if how == signal.SIGKILL:
            # The parent first: it would start again what it sees ended.
            for pid in [process.pid, *descendants(process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
        else:
            process.terminate()
        process.wait(60)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def told(self) -> str:
        """All that was said and logged, for a test that failed."""
        logs = [*self.folder.glob("*.out"), *self.coordinator.folder.glob("*/*.log")]
        logs += [path for site in self.sites.values() for path in load_site(site).folder.glob("*.log")]
        return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-2000:]}" for path in logs)

    def said(self, name: str) -> str:
        path = self.folder / f"{name}.out"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def wait_until_connected(self, *names: str) -> None:
        for name in names:
            wait_for(lambda name=name: "Connected to" in self.said(name), seconds=180, told=self.told)

    def study(self, *arguments: str) -> subprocess.Popen[str]:
        """`relay study run`."""
        return subprocess.Popen(
            [*RELAY, "study", "run", *arguments, "--dir", str(self.coordinator.folder), "--json"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def relay(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*RELAY, *words], cwd=self.folder, capture_output=True, encoding="utf-8", timeout=120)


def descendants(pid: int) -> Sequence[int]:
    """The processes that a process started, and theirs."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(folder.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = parents.get(queue.pop(), [])
        found += below
        queue += below
    return found
