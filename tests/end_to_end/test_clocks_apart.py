"""Hospitals whose clocks are wrong: told by how much, and taken in as soon as the clock is right, without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.test_deployed import Bench, bench, ended, federation
from tests.support.federation import Federation, wait_for
from tests.support.wrong_clock import WrongClock

pytestmark = pytest.mark.nightly

__all__ = ["bench", "federation"]


def test_a_clock_hours_ahead_is_told_and_one_that_is_put_right_goes_on(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    """Hospital A is three hours ahead, until somebody looks; B is a minute and a half behind all the time."""
    ahead, behind = WrongClock(tmp_path / "clock-of-A"), WrongClock(tmp_path / "clock-of-B")
    ahead.set(3 * 3600)
    behind.set(-90)
    federation.environment |= {"A": ahead.environment, "B": behind.environment}
    federation.start("superlink", "superexec", "A", "B")
    wait_for(
        lambda: "it is 3 h ahead of the coordinator's, and the coordinator takes no request" in federation.said("A"),
        seconds=60,
        told=federation.told,
    )
    federation.wait_until_connected("B")
    assert "Connected to" not in federation.said("A")
    out = tmp_path / "out"
    run = federation.study(str(bench.study), "--out", str(out))
    ahead.set(0)
    code, _, errors = ended(federation, run)
    assert code == 0, errors + federation.told()
    assert "ahead" not in federation.said("B") and "behind" not in federation.said("B")
    bench.assert_equal(out)
