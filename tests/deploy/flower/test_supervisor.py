"""Programs are kept running, with growing pauses, and end with who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.flower import supervisor as processes
from deploy.flower.supervisor import Program, Supervisor
from tests.support.federation import wait_for


def program(code: str, log: Path | None = None) -> Program:
    return Program("it", [sys.executable, "-c", code], log, {"RELAY_TOLD": "yes"})


def tend(supervisor: Supervisor, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        supervisor.tend()
        time.sleep(0.02)


@pytest.mark.slow
def test_what_ends_is_started_again_with_growing_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FIRST_PAUSE", 0.05)
    said: list[str] = []
    log = tmp_path / "log"
    supervisor = Supervisor(
        [program("import os; print(os.environ['RELAY_TOLD']); raise SystemExit(3)", log)], said.append
    )
    supervisor._pause["it"] = 0.05
    tend(supervisor, 3.0)
    supervisor.end()
    assert 2 <= supervisor.starts["it"] <= 7
    assert log.read_text().splitlines() == ["yes"] * supervisor.starts["it"]
    assert said and all("exit code 3" in sentence and str(log) in sentence for sentence in said)


def test_a_program_that_cannot_be_started_is_told_and_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor([Program("it", [str(tmp_path / "nothing")], None, {})], said.append)
    tend(supervisor, 0.2)
    assert said == ["it cannot be started (No such file or directory)."]


def test_one_that_hears_nothing_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "END_WITHIN", 0.5)
    ready = tmp_path / "ready"
    code = "import pathlib, signal, time; signal.signal(15, signal.SIG_IGN); "
    code += f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    supervisor = Supervisor([program(code)], print)
    supervisor.tend()
    wait_for(ready.exists, seconds=20)
    assert supervisor.uptime("it") > 0
    supervisor.end()
    assert supervisor.uptime("it") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a program that its parent has died")
def test_programs_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    inner = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(600)"
    code = (
        "import sys, time\nfrom deploy.flower.supervisor import Program, Supervisor\n"
        f"s = Supervisor([Program('it', [sys.executable, '-c', {inner!r}], None, {{}})], print)\n"
        "while True: s.tend(); time.sleep(0.05)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: pid_file.exists() and pid_file.read_text(), seconds=30)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    wait_for(lambda: gone(pid_file), seconds=20)


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["by itself", "with its supervisor"])
def test_what_a_program_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    monkeypatch.setattr(processes, "LEFT_FOR", 0.3)
    monkeypatch.setattr(processes, "FIRST_PAUSE", 60.0)
    pid_file = tmp_path / "pid"
    inner = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    code = (
        "import pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {inner!r}])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        + ("" if ends == "by itself" else "time.sleep(600)")
    )
    supervisor = Supervisor([program(code)], print)
    supervisor._pause["it"] = 60.0
    supervisor.tend()
    wait_for(lambda: pid_file.exists() and pid_file.read_text(), seconds=30)
    if ends == "by itself":
        wait_for(lambda: supervisor.tend() or gone(pid_file), seconds=20)
        supervisor.end()
    else:
        supervisor.end()
        wait_for(lambda: gone(pid_file), seconds=5)


def gone(pid_file: Path) -> bool:
    pid = int(pid_file.read_text(encoding="utf-8"))
    try:
        os.kill(pid, 0)
        # Nobody may be there to take note of its end.
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (ProcessLookupError, FileNotFoundError):
        return True


def test_a_log_rotates_while_its_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LARGEST_LOG", 1000)
    monkeypatch.setattr(processes, "LOOK_AT_LOGS", 0.0)
    log = tmp_path / "log"
    supervisor = Supervisor(
        [program("import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.01)", log)], print
    )

    def rotated() -> bool:
        supervisor.tend()
        return (tmp_path / "log.1").exists()

    wait_for(rotated, seconds=30)
    size = log.stat().st_size
    wait_for(lambda: log.stat().st_size > size or supervisor.tend(), seconds=10)
    supervisor.end()
    assert supervisor.starts["it"] == 1
    assert (tmp_path / "log.1").stat().st_size > 1000 and (tmp_path / "log.1").stat().st_mode & 0o777 == 0o600
    assert set(log.read_text(encoding="utf-8").split()) <= {"x" * 99}, "no hole of zeros"
