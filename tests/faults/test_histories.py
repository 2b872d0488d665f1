"""Whatever strikes a study, and wherever: it ends with exactly the results of an undisturbed run."""

from __future__ import annotations

import functools
import os
import tempfile
import threading
from pathlib import Path

import pytest

from common.files import write_atomically
from tests.faults.benches import BENCHES
from tests.faults.disk import LEDGER
from tests.faults.history import Bench, History, world
from tests.faults.kernel import Process
from tests.faults.plans import COORDINATOR, HARMS, MOMENTS, Fault
from tests.faults.trial import lived, tried, undisturbed_ending

SEEDS = 1000
AT_ONCE = 50
QUICK, SLOW = 50, 300
"""Histories with a seed below the first are lived through in the quick tests, below the second in the slow ones."""
once = functools.cache(tried)
"""A seed's history, lived through by the first test that asks for it."""


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "first",
    [
        first if first < QUICK else pytest.param(first, marks=pytest.mark.slow if first < SLOW else pytest.mark.nightly)
        for first in range(0, SEEDS, AT_ONCE)
    ],
)
def test_a_study_that_is_struck_ends_as_if_nothing_had_happened(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        trial = once(seed)
        assert not trial.complaints, trial.tale


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_whatever_may_strike_does() -> None:
    """In the first 200 histories: every kind of use at every moment, and every harm."""
    struck = [fault for seed in range(200) for fault in once(seed).struck]
    places = {(kind, moment) for kind in HARMS for moment in MOMENTS}
    assert {(fault.kind, fault.moment) for fault in struck} == places
    assert {fault.harm for fault in struck} == {harm for harms in HARMS.values() for harm in harms}


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_ledger_that_cannot_be_read_for_once_loses_nothing(tmp_path: Path) -> None:
    """Who starts a study reads all of its ledger; each of these readings fails in turn."""
    bench = next(bench for bench in BENCHES if bench.name == "shared")
    history = History(bench, tmp_path, 1, ())
    read = COORDINATOR, "read"

    def ledger() -> dict[str, bytes]:
        files = [path for name in LEDGER for path in (history.out / name).iterdir()]
        return {path.name: path.read_bytes() for path in files}

    with world(history):
        assert history.start() == ""
        whole, before = ledger(), history.counts[read]
        assert history.start() == ""
        readings = history.counts[read] - before
        assert readings >= len(whole)
        for nth in range(1, readings + 1):
            fault = Fault(*read, history.counts[read] + nth, "before", "reading fails")
            history.plan(fault)
            said = history.start()
            assert said and "Input/output error" in said and history.struck_since_start, fault
            assert ledger() == whole, fault
            assert history.start() == "", fault


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("seed", [3, 200, 202, 409])
def test_a_seed_tells_the_same_history_again(seed: int) -> None:
    assert tried(seed).tale == tried(seed).tale


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.name)
def test_how_threads_take_turns_changes_nothing(bench: Bench) -> None:
    expected = undisturbed_ending(bench.name)
    for seed in range(1, 6):
        _, found = lived(bench, seed, ())
        assert not isinstance(found, str), found
        assert (found.results, found.ledger, found.weights) == (
            expected.results,
            expected.ledger,
            expected.weights,
        )


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list what a process holds open")
def test_a_history_leaves_no_file_open() -> None:
    for name in (bench.name for bench in BENCHES):
        undisturbed_ending(name)
    before = len(os.listdir("/proc/self/fd"))
    for seed in range(20):
        tried(seed)
    assert len(os.listdir("/proc/self/fd")) <= before + 5


@pytest.mark.usefixtures("tiny")
def test_a_seed_is_told_also_if_clearing_up_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Folder(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
        def __exit__(self, *what: object) -> None:
            self.cleanup()
            raise OSError("no file is to be had")

    undisturbed_ending(BENCHES[0].name)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", Folder)
    tale = tried(0).tale
    assert "python -m tests.faults 0" in tale and "no file is to be had" in tale


@pytest.mark.usefixtures("tiny")
def test_a_thread_that_another_test_has_left_is_let_be(tmp_path: Path) -> None:
    """Such as one that notes a run's progress: what it writes is no use of a disk in a history."""
    history = History(BENCHES[0], tmp_path, 1, ())
    process = Process("anybody", COORDINATOR, 0)

    def work() -> None:
        thread = threading.Thread(target=lambda: write_atomically(tmp_path / "note", b"5 of 9", durable=True))
        thread.start()
        thread.join()
        history.kernel.end(process)

    with world(history):
        history.kernel.spawn(process, work)
        history.kernel.run(until=lambda: not process.alive)
    assert (tmp_path / "note").read_bytes() == b"5 of 9"
    assert not history.counts
