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


@given(POINTS, POINTS, POINTS, st.integers(6, 300), st.one_of(st.none(), POINTS), st.floats(0.1, 5))
def test_the_sentence_has_the_gain_the_interval_and_the_patients(
    mean: float, one: float, other: float, patients: int, volume: float | None, margin: float
) -> None:
    ends = (min(one, other), max(one, other))
    told = verdict_sentence("Nord", "handing on", Gain(mean, ends, patients, volume), "Dice", margin)
    assert told.startswith("At Nord, ") and told.endswith(".")
    assert f"; {patients} test patients)" in told
    for value in (mean, *ends):
        assert f"{abs(value):.1f}" in told
    holds_zero, within = ends[0] <= 0 <= ends[1], -margin <= ends[0] <= ends[1] <= margin
    assert ("cannot be told" in told) == (holds_zero and not within)
    assert ("practically no difference" in told) == (holds_zero and within)
    assert ("did not hurt by more than" in told) == (-margin <= ends[0] <= 0 and ends[1] > margin)
    assert ("helped" in told and "cannot" not in told) == (ends[0] > 0)
    assert ("not on whole volumes" in told) == (ends[0] > 0 and volume is not None and volume < 0)


def test_equivalence_and_non_inferiority_are_said_with_the_margin() -> None:
    same = verdict_sentence("A", "handing on", Gain(0.1, (-0.4, 0.6), 30), "Dice", 1.0)
    assert same == (
        "At A, handing on made practically no difference, at most 1 point: +0.1 points of Dice"
        " (95 % interval −0.4 to +0.6; 30 test patients)."
    )
    narrow = verdict_sentence("A", "handing on", Gain(0.1, (-0.4, 0.6), 30), "Dice", 0.5)
    assert "handing on helped; it did not hurt by more than 0.5 points: +0.1 points" in narrow
    assert "did not hurt" not in verdict_sentence("A", "handing on", Gain(0.1, (-0.6, 0.6), 30), "Dice", 0.5)
    assert "helped: +0.3" in verdict_sentence("A", "handing on", Gain(0.3, (0.1, 0.5), 30), "Dice", 1.0)


def test_without_an_interval_the_reason_is_told() -> None:
    few = verdict_sentence("A", "taking part", Gain(60.0, None, 5), "Dice", 1.0)
    assert few == (
        "At A, it cannot be told from this study whether taking part helped: +60.0 points of Dice"
        " (5 test patients; an interval needs 6)."
    )
    kept = verdict_sentence("A", "taking part", Gain(-0.04, None, 9), "volume Dice", 1.0)
    assert "±0.0 points of volume Dice (9 test patients; their figures stay at the hospital)" in kept
    assert untold("A", "handing on") == "At A, it cannot be told from this study whether handing on helped."
