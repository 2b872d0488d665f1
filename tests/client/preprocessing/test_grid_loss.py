"""What a study's grid takes from a gland: beyond its edge, and between its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.data_check import Kind, check
from client.preprocessing.grid_loss import beyond_grid, grid_loss
from client.preprocessing.pipeline import prepare
from client.preprocessing.resampling import resample
from client.site_config import load_site
from client.stages.describe import describe_patients
from common.config.study import PreprocessingConfig
from tests.support.hospitals import patient, small_study, write_pair, write_site


def grid(pixels: int, spacing: float) -> PreprocessingConfig:
    return PreprocessingConfig.model_validate({"pixels": pixels, "spacing_mm": spacing, "n4": {"enabled": False}})


def square(side: int, at: tuple[int, int], size: int) -> NDArray[np.bool_]:
    mask = np.zeros((3, side, side), bool)
    mask[1, at[0] : at[0] + size, at[1] : at[1] + size] = True
    return mask


def test_voxels_beyond_the_grid_are_counted_by_their_centres() -> None:
    # 100 rows of 1 mm about 0; a grid of 64 mm ends at 32 mm. Rows 72 to 91 lie at 22.5 to 41.5 mm: ten beyond.
    assert beyond_grid(square(100, (72, 40), 20), (1.0, 1.0), grid(32, 2.0)) == pytest.approx(0.5)
    assert beyond_grid(square(100, (72, 72), 20), (1.0, 1.0), grid(32, 2.0)) == pytest.approx(0.75)
    assert beyond_grid(square(100, (40, 40), 20), (1.0, 1.0), grid(32, 2.0)) == 0
    assert beyond_grid(np.zeros((2, 8, 8), bool), (1.0, 1.0), grid(32, 2.0)) == 0


@given(st.integers(0, 40), st.integers(0, 40), st.integers(4, 24), st.sampled_from([0.7, 1.0, 1.9]))
def test_the_ceiling_is_the_dice_of_the_mask_after_the_grid(row: int, column: int, size: int, spacing: float) -> None:
    """Worked out with numpy's own interpolation, axis by axis, as anybody would."""
    mask, part = square(64, (row, column), size), grid(64, spacing)
    found = grid_loss(mask, (1.0, 1.0), part)
    back = resample(mask.astype(np.float32), (1.0, 1.0), (64, 64), (spacing, spacing)).astype(float)
    for axis in (1, 2):
        old, new = (np.arange(64) - 31.5) * spacing, np.arange(64) - 31.5

        def line(values: NDArray[np.float64]) -> NDArray[np.float64]:
            taken: NDArray[np.float64] = np.interp(new, old, values)  # noqa: B023 (called at once)
            taken[np.abs(new) > 32 * spacing] = 0  # noqa: B023
            return taken

        back = np.apply_along_axis(line, axis, back)
    both = np.count_nonzero((back > 0.5 + 1e-6) & mask), np.count_nonzero((back > 0.5 - 1e-6) & mask)
    sizes = np.count_nonzero(back > 0.5 + 1e-6), np.count_nonzero(back > 0.5 - 1e-6)
    dices = [2 * b / (s + mask.sum()) for b, s in zip(both, sizes, strict=True)]
    if spacing >= 1:  # a finer grid is left by a wider tent, which numpy does not have
        assert min(dices) - 1e-9 <= found.ceiling <= max(dices) + 1e-9
    assert (found.beyond > 0) == bool((np.abs(np.argwhere(mask)[:, 1:] - 31.5) > 32 * spacing + 1e-6).any())
    assert found.ceiling == 1 or spacing != 1.0 or found.beyond > 0


def test_a_gland_that_the_grid_cuts_off_is_told_at_the_site_counted_in_the_study_and_named_to_nobody_else(
    tmp_path: Path,
) -> None:
    for number in range(6):
        image, mask = patient(number)
        if number == 2:
            mask = np.roll(mask, 20, axis=1)
        write_pair(tmp_path / "images", f"Case{number}", image, mask)
    site = load_site(write_site(tmp_path, "A"))
    study = small_study(sites=("A", "B"), preprocessing={"pixels": 32, "spacing_mm": 1.5})
    found = check(site, grid=study.preprocessing)
    told = [
        f
        for f in found.findings
        if f.kind is Kind.MASK_EXTENT and "beyond the study's grid of 48 × 48 mm" in f.sentence
    ]
    assert [finding.patient for finding in told] == ["Case2"]
    assert not any("study's grid" in finding.sentence for finding in check(site).findings)
    records = {record.patient: record for record in prepare(site, study.preprocessing).records}
    assert [name for name, record in records.items() if record.beyond] == ["Case2"]
    assert records["Case2"].ceiling < min(record.ceiling for name, record in records.items() if name != "Case2")
    lines = (site.folder / "site.log").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1].split(":")[:2] for line in lines] == [["cut", " Case2"]]
    description, _ = describe_patients(site, study)
    assert (description.cut_patients, description.below) == (1, sum(record.below for record in records.values()))
    assert 0.8 < description.ceiling < 1
    assert "Case2" not in description.model_dump_json()
