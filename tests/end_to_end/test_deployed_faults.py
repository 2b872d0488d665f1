"""Histories on real SuperLink, SuperExec and SuperNode processes, with TLS: a seed says who dies, how, and when.

When a process dies here is as exact as a study's log; `tests/faults` has the same to the last message.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.test_deployed import STUDY, Bench, bench, ended, federation
from tests.support.federation import Federation, wait_for

pytestmark = pytest.mark.slow

__all__ = ["bench", "federation"]
PARTS = ("A", "B", "superexec", "superlink")


def lines_in(out: Path) -> int:
    return len((out / "study.log").read_text(encoding="utf-8").splitlines())


def struck(federation: Federation, seed: int, lines: Callable[[], int]) -> list[str]:
    """Kill one or two parts of the federation in the course of a study; each comes again after a while."""
    draw = random.Random(f"deployed {seed}")
    told = []
    at = 0
    for _ in range(draw.choice((1, 2))):
        at += draw.randrange(2, 7)
        part = draw.choice(PARTS)
        how = draw.choice((signal.SIGKILL, signal.SIGTERM)) if part in STUDY.sites else signal.SIGKILL
        away = draw.choice((0.5, 3.0, 10.0))
        after = draw.random() * 2
        try:
            wait_for(lambda at=at: lines() >= at, seconds=180)
        except AssertionError:
            break  # the study had fewer lines
        time.sleep(after)
        told.append(f"{part}: {how.name} {after:.1f} s after line {at}, away for {away} s")
        federation.kill(part, how)
        time.sleep(away)
        federation.start(part)
    return told


def live(bench: Bench, federation: Federation, out: Path, seed: int) -> None:
    federation.start("superlink", "superexec", "A", "B")
    run = federation.study(str(bench.study), "--out", str(out))
    told = struck(federation, seed, lambda: lines_in(out))
    code, _, errors = ended(federation, run, seconds=600)
    tale = f"seed {seed}: {told}\n{errors}"
    assert code == 0, tale + federation.told()
    assert told, f"{tale}the study ended before anything was killed"
    bench.assert_equal(out)


def test_a_study_whose_parts_are_killed_gives_what_it_gives_embedded(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    live(bench, federation, tmp_path / "out", seed=0)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 10))
def test_nine_histories_more(bench: Bench, federation: Federation, tmp_path: Path, seed: int) -> None:
    live(bench, federation, tmp_path / "out", seed)
