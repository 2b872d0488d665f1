"""The clean-up keeps the largest part and fills its holes, and a model is cleaned up after only where that gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from client.evaluation.clean_up import clean_up
from client.evaluation.evaluate import evaluate, volume_mean
from client.evaluation.scoring import predictions, validated
from client.preprocessing.pipeline import Record, prepare
from client.site_config import load_site
from client.training.device import Device
from common.config.model import ModelConfig
from common.config.study import Study
from tests.support.hospitals import small_study, write_hospitals

CPU = Device("cpu", "float32")
MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))


@settings(deadline=None)
@given(MASKS)
def test_what_stays_is_a_largest_part_with_its_holes_filled(mask: NDArray[np.bool_]) -> None:
    """Against scipy's own labels and holes; of parts of equal size any may stay."""
    found = clean_up(mask)
    assert found.shape == mask.shape and found.dtype == bool
    labels, parts = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=1)[1:]
    wanted = [ndimage.binary_fill_holes(labels == k + 1) for k in range(parts) if sizes[k] == sizes.max()]
    assert any(np.array_equal(found, one) for one in wanted) or (not parts and not found.any())
    assert np.array_equal(clean_up(found), found)


@settings(deadline=None)
@given(MASKS)
def test_nothing_is_added_outside_of_holes(mask: NDArray[np.bool_]) -> None:
    added = clean_up(mask) & ~mask
    assert not (added & ~ndimage.binary_fill_holes(mask)).any()


def test_the_mask_given_stays_as_it_is() -> None:
    mask = np.zeros((3, 5, 5), bool)
    mask[:, :3, :3], mask[1, 1, 1], mask[0, 4, 4] = True, False, True
    before = mask.copy()
    found = clean_up(mask)
    assert np.array_equal(mask, before)
    assert found[1, 1, 1] and not found[0, 4, 4]


class Threshold(nn.Module):
    """Draws what is brighter than a share of the pixels, and a stain of its own in a corner of the first slice."""

    def __init__(self, share: float, stain: int) -> None:
        super().__init__()
        self.share, self.stain = share, stain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = (x - x.quantile(self.share)) * 10
        logits[0, :, : self.stain, : self.stain] = 10
        return logits


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    (path,) = write_hospitals(tmp_path_factory.mktemp("h"), {"A": 3}).values()
    return list(prepare(load_site(path), small_study().preprocessing).records)


def study(clean: bool) -> Study:
    return small_study(postprocessing={"clean_up": clean})


@pytest.mark.parametrize(("share", "stain", "gains"), [(0.93, 6, True), (0.96, 32, False)])
def test_validation_patients_decide_and_the_scores_are_those_of_what_stays(
    records: list[Record], share: float, stain: int, gains: bool
) -> None:
    """A stain beside the gland is taken away; of a gland in many pieces a large stain or one piece would stay."""
    model = predictions(Threshold(share, stain), CPU, {"A": (2.0, 1.0)}, ModelConfig())
    plain, cleaned = evaluate(model, records), evaluate(model, records, cleaned=True)
    assert (volume_mean(cleaned) > volume_mean(plain)) == gains, "or this case shows nothing"
    assert validated(model, records, study(True)) == (cleaned if gains else plain, gains)
    assert validated(model, records, study(False)) == (plain, False)
