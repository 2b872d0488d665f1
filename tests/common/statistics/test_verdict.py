"""The verdict on a hospital's gain: of the interval alone, and never without the number of patients."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.statistics.verdict import Gain, judged, untold, verdict_sentence

POINTS = st.floats(-30, 30)


@given(POINTS, st.floats(0, 30))
def test_only_an_interval_on_one_side_of_zero_is_a_verdict(low: float, width: float) -> None:
    found = judged((low, low + width))
    assert (found == "helped") == (low > 0)
    assert (found == "hurt") == (low + width < 0)
    assert judged(None) == "open"


@given(POINTS, POINTS, POINTS, st.integers(6, 300), st.one_of(st.none(), POINTS))
def test_the_sentence_has_the_gain_the_interval_and_the_patients(
    mean: float, one: float, other: float, patients: int, volume: float | None
) -> None:
    ends = (min(one, other), max(one, other))
    told = verdict_sentence("Nord", "handing on", Gain(mean, ends, patients, volume), "Dice")
    assert told.startswith("At Nord, ") and told.endswith(".")
    assert f"; {patients} test patients)" in told
    for value in (mean, *ends):
        assert f"{abs(value):.1f}" in told
    assert ("cannot be told" in told) == (ends[0] <= 0 <= ends[1])
    assert ("helped" in told and "cannot" not in told) == (ends[0] > 0)
    assert ("not on whole volumes" in told) == (ends[0] > 0 and volume is not None and volume < 0)


def test_without_an_interval_the_reason_is_told() -> None:
    few = verdict_sentence("A", "taking part", Gain(60.0, None, 5), "Dice")
    assert few == (
        "At A, it cannot be told from this study whether taking part helped: +60.0 points of Dice"
        " (5 test patients; an interval needs 6)."
    )
    kept = verdict_sentence("A", "taking part", Gain(-0.04, None, 9), "volume Dice")
    assert "±0.0 points of volume Dice (9 test patients; their figures stay at the hospital)" in kept
    assert untold("A", "handing on") == "At A, it cannot be told from this study whether handing on helped."
