"""`relay site start` is killed, loses its terminal, or is told to end, while its programs do not listen to anybody.

In a laboratory 35 launchers lived on after their site, each with half a gigabyte. The programs here are the worst that
a site could have: they ignore every signal that can be ignored, and so do the processes that they start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.federation import wait_for

DEAF = """
import pathlib, signal, subprocess, sys, time
for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(kind, signal.SIG_IGN)
if len(sys.argv) > 2:
    child = subprocess.Popen([sys.executable, *sys.orig_argv[1:-1]])
    pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""
SITE = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup, whose programs are deaf to it
from deploy.flower import supervisor
from deploy.flower.supervisor import Program, Supervisor, until_stopped
supervisor.END_WITHIN = supervisor.LEFT_FOR = 1.0
command = [sys.executable, "-c", {deaf!r}]
with until_stopped() as over:
    programs = [Program(str(n), [*command, f"{folder}/{{n}}", "parent"], None, {{}}) for n in (1, 2)]
    running = Supervisor(programs, print)
    try:
        while not over.wait(0.05):
            running.tend()
    finally:
        running.end()
print("Stopped.", flush=True)
"""


def group(leader: int) -> list[int]:
    """The living processes of a program's session."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, session = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(process.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGHUP", "SIGTERM", "SIGKILL, and its guard before it"])
def test_nothing_lives_on(tmp_path: Path, how: str) -> None:
    site = subprocess.Popen(
        [sys.executable, "-c", SITE.format(deaf=DEAF, folder=tmp_path)], stdout=subprocess.PIPE, encoding="utf-8"
    )
    children = [tmp_path / name for name in ("1", "2")]
    wait_for(lambda: all(path.exists() and path.read_text() for path in children), seconds=30)
    leaders = [os.getsid(int(path.read_text())) for path in children]
    assert all(len(group(leader)) == 2 for leader in leaders)
    if "guard" in how:
        guard = next(
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if b"guard.py" in path.read_bytes() and parent(int(path.parent.name)) == site.pid
        )
        os.kill(guard, signal.SIGKILL)
        os.kill(leaders[0], signal.SIGKILL)  # it is started again, and with it the guard
        wait_for(lambda: parent_of_guard(site.pid, guard), seconds=20)
    site.send_signal(getattr(signal, how.split(",")[0]))
    out, _ = site.communicate(timeout=30)
    if how in ("SIGHUP", "SIGTERM"):
        assert out.endswith("Stopped.\n")
        assert not any(map(group, leaders)), "it said so too early"
    wait_for(lambda: not any(map(group, leaders)), seconds=20)
    wait_for(
        lambda: not any(str(tmp_path).encode() in command(path) for path in Path("/proc").glob("[0-9]*")), seconds=20
    )


def parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return 0


def command(process: Path) -> bytes:
    with suppress(OSError):
        return (process / "cmdline").read_bytes() if int(process.name) != os.getpid() else b""
    return b""


def parent_of_guard(site: int, dead: int) -> bool:
    """Whether the site has another guard."""
    return any(
        b"guard.py" in command(process) and parent(int(process.name)) == site and int(process.name) != dead
        for process in Path("/proc").glob("[0-9]*")
    )
