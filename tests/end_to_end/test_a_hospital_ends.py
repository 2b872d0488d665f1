"""Whatever ends `relay site start`, nothing of the hospital's processes is left."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from deploy.flower.supervisor import LINUX
from deploy.site.launcher import SLOW_NOTE
from tests.support.federation import Federation, descendants, wait_for
from tests.support.hospitals import write_hospitals

pytestmark = pytest.mark.slow


def commands(pids: list[int]) -> dict[int, bytes]:
    """Those that are alive, and what runs in them."""
    found = {}
    for pid in pids:
        with suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    return {pid: command for pid, command in found.items() if command}


def running(federation: Federation, name: str, part: str) -> list[int]:
    """The processes of one part of a hospital."""
    below = commands(list(descendants(federation.pid(name))))
    return [pid for pid, command in below.items() if f"deploy.site.{part}".encode() in command]


@pytest.mark.skipif(not LINUX, reason="only Linux tells a program that its parent has died")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_hospital_ends_with_every_process_of_its_own(tmp_path: Path, how: signal.Signals) -> None:
    """No coordinator need be there for it: the SuperNode dials on, and a launcher imports and waits."""
    with Federation(tmp_path, write_hospitals(tmp_path / "hospitals", {"A": 1})) as federation:
        federation.start("A")
        for part in ("launcher", "superexec", "supernode"):
            wait_for(lambda part=part: running(federation, "A", part), seconds=60, told=federation.told)
        (launcher,) = running(federation, "A", "launcher")
        (executor,) = running(federation, "A", "superexec")
        os.kill(executor, signal.SIGKILL)
        wait_for(lambda: not commands([launcher]), seconds=20, told=federation.told)
        wait_for(lambda: running(federation, "A", "launcher"), seconds=60, told=federation.told)
        all_of_them = list(descendants(federation.pid("A")))
        os.kill(federation.pid("A"), how)
        wait_for(lambda: not commands(all_of_them), seconds=40, told=federation.told)


def test_what_a_launcher_measures_is_said_by_the_hospital(tmp_path: Path) -> None:
    with Federation(tmp_path, write_hospitals(tmp_path / "hospitals", {"A": 1})) as federation:
        federation.start("A")
        (launcher,) = wait_for(lambda: running(federation, "A", "launcher"), seconds=60, told=federation.told)
        environment = dict(
            entry.split("=", 1) for entry in Path(f"/proc/{launcher}/environ").read_text("utf-8").split("\0") if entry
        )
        Path(environment[SLOW_NOTE]).write_text("This machine is slow.", encoding="utf-8")
        wait_for(lambda: "This machine is slow." in federation.said("A"), seconds=20, told=federation.told)
