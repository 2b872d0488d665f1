"""Volume errors are those of counted voxels, and apex, middle and base are thirds of the gland's slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from client.evaluation.counted_means import counted_means
from client.evaluation.evaluate import CaseScore
from client.evaluation.gland import dice_of_thirds, thirds, volume_error_ml

SHAPE = arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=12)
MASKS = SHAPE.flatmap(lambda shape: arrays.arrays(bool, shape))
PAIRS = SHAPE.flatmap(lambda shape: st.tuples(arrays.arrays(bool, shape), arrays.arrays(bool, shape)))
MM = st.floats(0.1, 10.0)


def stack(*counts: int) -> NDArray[np.bool_]:
    """One slice a count: so many of ten voxels in a row are gland."""
    mask = np.zeros((len(counts), 1, 10), bool)
    for k, count in enumerate(counts):
        mask[k, 0, :count] = True
    return mask


def test_a_volume_error_by_hand() -> None:
    """A voxel of 3 × 0.5 × 0.4 mm holds 0.6 mm³: five of them too many are 3 mm³, or 0.003 ml."""
    expert, spacing = stack(0, 4, 6, 0), (3.0, 0.5, 0.4)
    assert volume_error_ml(stack(1, 4, 8, 2), expert, spacing) == pytest.approx(0.003)
    assert volume_error_ml(stack(0, 2, 5, 0), expert, spacing) == pytest.approx(-0.0018)
    assert volume_error_ml(stack(10, 0, 0, 0), expert, spacing) == 0, "the same volume in another place is no error"
    assert volume_error_ml(stack(0, 0, 0, 0), expert, spacing) == pytest.approx(-0.006)


@given(PAIRS, st.tuples(MM, MM, MM))
def test_a_volume_error_is_that_of_voxels_counted_one_by_one(
    pair: tuple[NDArray[np.bool_], NDArray[np.bool_]], spacing: tuple[float, float, float]
) -> None:
    predicted, expert = pair
    volume = 0.0
    for place in np.ndindex(expert.shape):
        volume += (int(predicted[place]) - int(expert[place])) * spacing[0] * spacing[1] * spacing[2]
    assert volume_error_ml(predicted, expert, spacing) == pytest.approx(volume / 1000, abs=1e-9)
    assert volume_error_ml(expert, predicted, spacing) == -volume_error_ml(predicted, expert, spacing)


@pytest.mark.parametrize(
    ("slices", "sizes"),
    [(3, (1, 1, 1)), (4, (1, 2, 1)), (5, (2, 1, 2)), (6, (2, 2, 2)), (7, (2, 3, 2)), (8, (3, 2, 3)), (13, (4, 5, 4))],
)
def test_slices_are_divided_as_equally_as_can_be(slices: int, sizes: tuple[int, int, int]) -> None:
    parts = thirds(stack(0, 0, *[5] * slices, 0))
    assert parts is not None
    assert tuple(part.stop - part.start for part in parts) == sizes
    assert parts[0].start == 2, "slice 0 lies at the feet, and the apex is the end at the feet"


@given(MASKS)
def test_thirds_cover_the_gland_follow_one_another_and_differ_by_a_slice_at_most(mask: NDArray[np.bool_]) -> None:
    with_gland = [k for k in range(len(mask)) if mask[k].any()]
    parts = thirds(mask)
    if not with_gland or with_gland[-1] - with_gland[0] < 2:
        assert parts is None
        return
    assert parts is not None
    covered = [k for part in parts for k in range(part.start, part.stop)]
    assert covered == list(range(with_gland[0], with_gland[-1] + 1))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1 and sizes[0] == sizes[2]
    # Turned upside down, the apex is the base.
    turned = thirds(mask[::-1])
    assert turned is not None
    assert [(len(mask) - part.stop, len(mask) - part.start) for part in turned[::-1]] == [
        (part.start, part.stop) for part in parts
    ]


def test_dice_of_thirds_by_hand() -> None:
    expert = stack(0, 4, 5, 5, 5, 4, 0)
    predicted = stack(9, 0, 2, 5, 5, 8, 9)
    # Apex: slices 1 and 2, 2 voxels of 9 common, 2 drawn. Base: slices 4 and 5, 9 common, 13 drawn.
    assert dice_of_thirds(predicted, expert) == pytest.approx((4 / 11, 1.0, 18 / 22))


@given(PAIRS)
def test_dice_of_thirds_is_that_of_a_loop_over_the_slices(pair: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> None:
    predicted, expert = pair
    with_gland = [k for k in range(len(expert)) if expert[k].any()]
    assume(with_gland and with_gland[-1] - with_gland[0] >= 2)
    slices = list(range(with_gland[0], with_gland[-1] + 1))
    common, sizes = [0, 0, 0], [0, 0, 0]
    for position, k in enumerate(slices):
        # The middle of the slice, as a share of the gland's height, falls into one of three equal parts.
        part = int(3 * (position + 0.5) / len(slices))
        common[part] += 2 * sum(bool(p and e) for p, e in zip(predicted[k].flat, expert[k].flat, strict=True))
        sizes[part] += int(predicted[k].sum()) + int(expert[k].sum())
    wanted = [c / s if s else 1.0 for c, s in zip(common, sizes, strict=True)]
    assert dice_of_thirds(predicted, expert) == pytest.approx(wanted)


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (0, 5, 0, 0), (0, 5, 5, 0)])
def test_fewer_than_three_slices_have_no_thirds(counts: tuple[int, ...]) -> None:
    assert thirds(stack(*counts)) is None
    assert dice_of_thirds(stack(5, 5, 5, 5), stack(*counts)) == (None, None, None)


def case(name: str, error: float, dices: tuple[float, float, float] | None, distance: float | None = None) -> CaseScore:
    apex, middle, base = dices or (None, None, None)
    return CaseScore(
        name, 3, 0.5, 0.4, 0.5, hd95_mm=distance, assd_mm=distance and distance / 4,
        volume_error_ml=error, dice_apex=apex, dice_middle=middle, dice_base=base,
    )  # fmt: skip


CASES = [
    case("a", -4.0, (0.25, 0.75, 0.5), 8.0),
    case("b", 2.0, None, None),
    case("c", -1.0, (0.75, 1.0, 0.25), 4.0),
]


def at_least(fewest: int) -> Callable[[frozenset[str]], bool]:
    return lambda patients: len(patients) >= fewest


def test_means_are_over_the_patients_who_have_a_value() -> None:
    assert counted_means(CASES, at_least(2)) == {
        "hd95_mm": 6.0,
        "assd_mm": 1.5,
        "surface_patients": 2,
        "volume_error_ml": -1.0,
        "absolute_volume_error_ml": pytest.approx(7 / 3),
        "volume_patients": 3,
        "dice_apex": 0.5,
        "dice_middle": 0.875,
        "dice_base": 0.375,
        "thirds_patients": 2,
    }


def test_means_over_fewer_patients_than_the_sites_minimum_are_left_out() -> None:
    found = counted_means(CASES, at_least(3))
    assert found.keys() == {"volume_error_ml", "absolute_volume_error_ml", "volume_patients"}
    assert counted_means(CASES, at_least(4)) == {}
    assert counted_means([CaseScore("a", 3, 0.5, 0.4, 0.5)], at_least(1)) == {}, "nothing of this was measured"
