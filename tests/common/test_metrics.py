"""Dice and IoU say what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics import dice, iou

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)


@given(PAIRS)
def test_both_count_as_a_plain_loop_does(pairs: list[tuple[bool, bool]]) -> None:
    common = sum(1 for p, e in pairs if p and e)
    either = sum(1 for p, e in pairs if p or e)
    sizes = sum(p for p, _ in pairs) + sum(e for _, e in pairs)
    predicted = np.array([p for p, _ in pairs], dtype=bool)
    expert = np.array([e for _, e in pairs], dtype=bool)
    assert dice(predicted, expert) == pytest.approx(2 * common / sizes if sizes else 1.0)
    assert iou(predicted, expert) == pytest.approx(common / either if either else 1.0)
    assert dice(predicted, expert) == dice(expert, predicted)


def test_two_empty_masks_agree_and_one_empty_mask_does_not() -> None:
    empty, full = np.zeros((3, 4, 4), bool), np.ones((3, 4, 4), bool)
    assert dice(empty, empty) == iou(empty, empty) == 1.0
    assert dice(empty, full) == iou(empty, full) == 0.0


def test_half_an_overlap() -> None:
    predicted, expert = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    predicted[:2], expert[1:3] = True, True
    assert dice(predicted, expert) == 0.5
    assert iou(predicted, expert) == pytest.approx(1 / 3)


def test_arrays_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        dice(np.zeros((2, 2), bool), np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match="boolean"):
        iou(np.array([0.2, 0.8]), np.zeros(2, bool))
