"""The floor of a scoring: whom a single patient's score cannot lift above it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from client.evaluation.floor import is_below_floor
from client.site_config import load_site
from tests.support.hospitals import write_site


@dataclass(frozen=True)
class Score:
    dice_volume: float


@pytest.mark.parametrize(
    ("dices", "below"),
    [
        ((1.0, 0.0), True),  # the mean of both would be 0.5
        ((0.0, 1.0), True),
        ((1.0, 1.0), False),
        ((1.0, 0.0, 0.0), True),
        ((1.0, 1.0, 0.0), False),  # one that fails takes nothing away
        ((1.0, 0.0, 1.0, 0.0), True),
        ((0.04, 0.9), True),
        ((0.05, 0.9), False),
    ],
)
def test_one_patient_lifts_no_model_above_the_floor(tmp_path: Path, dices: tuple[float, ...], below: bool) -> None:
    (tmp_path / "images").mkdir()
    site = load_site(write_site(tmp_path, "A")).model_copy(update={"scoring_floor": 0.05})
    assert is_below_floor(site, [Score(dice) for dice in dices]) == below
    assert not is_below_floor(site.model_copy(update={"scoring_floor": 0.0}), [Score(dice) for dice in dices])
