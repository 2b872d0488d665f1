"""Memory is part of the plan: what is free, what a stage takes, and a process that the system ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from common.errors import RelayError
from deploy.memory import fitting, free_memory, peak_memory
from deploy.planning import trial
from deploy.planning.trial import Speed, measure
from tests.support.hospitals import small_study

GIB = 2**30


def machine(folder: Path, *, available_kib: int, limit: str = "", used: int = 0) -> tuple[Path, Path]:
    (folder / "proc").mkdir()
    (folder / "proc" / "meminfo").write_text(
        f"MemTotal: 99999999 kB\nMemAvailable:   {available_kib} kB\n", encoding="ascii"
    )
    (folder / "group").mkdir()
    if limit:
        (folder / "group" / "memory.max").write_text(f"{limit}\n", encoding="ascii")
        (folder / "group" / "memory.current").write_text(f"{used}\n", encoding="ascii")
    return folder / "proc", folder / "group"


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("", 0, 8 * GIB), ("max", GIB, 8 * GIB), (str(4 * GIB), GIB, 3 * GIB), (str(4 * GIB), 5 * GIB, 0)],
)
def test_free_is_what_the_machine_and_its_container_leave(tmp_path: Path, limit: str, used: int, free: int) -> None:
    proc, group = machine(tmp_path, available_kib=8 * 2**20, limit=limit, used=used)
    assert free_memory(proc, group) == free


def test_a_machine_that_tells_nothing_is_not_limited(tmp_path: Path) -> None:
    assert free_memory(tmp_path, tmp_path) is None
    assert fitting(5, GIB, None) == 5


@pytest.mark.parametrize(("free", "together"), [(0, 1), (5, 1), (6, 2), (9, 3), (100, 4)])
def test_as_many_run_as_fit_and_one_at_least(free: int, together: int) -> None:
    assert fitting(4, 3 * GIB, free * GIB) == together


def test_a_process_knows_the_most_that_it_held() -> None:
    before = peak_memory()
    block = bytearray(64 * 2**20)
    assert peak_memory() >= before and len(block) == 64 * 2**20
    assert 2**20 < before < 2**40


def test_the_trial_measures_one_process_and_runs_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def side_by_side(study: object, device: str, at_once: int) -> Speed:
        ran.append(at_once)
        return Speed(step=0.1, predict=0.01, memory=3 * GIB, at_once=at_once)

    monkeypatch.setattr(trial, "_side_by_side", side_by_side)
    study = small_study(sites=("A",))
    assert measure(study, device="cpu", at_once=8, free=7 * GIB).at_once == 2
    assert measure(study, device="cpu", at_once=8, free=GIB).at_once == 1
    assert measure(study, device="cpu", at_once=2, free=100 * GIB).at_once == 2
    assert ran == [1, 2, 1, 1, 2]


def _killed(study: object, device: str) -> Speed:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
def test_a_process_that_the_system_killed_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_measure_one", _killed)
    with pytest.raises(RelayError, match="The system ended a process of the trial .* for want of memory") as error:
        measure(small_study(sites=("A",)), device="cpu", at_once=2)
    assert "--no-trial" in str(error.value) and str(error.value).endswith(".")
