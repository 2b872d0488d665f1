"""The check-up on five real series, whose masks another network predicted.

Those masks are reversed from head to feet against the DICOM, all five, which is what the check-up says of them. Put in
the images' order they follow the glands; that is what "untouched" means below.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from client.data.layouts import Case, find
from client.data.layouts import read as read_case
from client.data_check import Kind, check
from client.data_check.evidence import HIDDEN, Verdict, judge
from client.data_check.moves import DOWN, MIRRORED, REVERSED, UP
from client.data_check.outline import view
from client.data_check.trials import outlined
from client.site_config import SiteConfig, load_site
from tests.support import planted
from tests.support.hospitals import REAL_DATA, write_site

IMAGES, MASKS = REAL_DATA / "prostate3t", REAL_DATA / "nci_isbi_predicted" / "Prostate3T"
PATIENTS = [f"Prostate3T-03-000{k}" for k in range(1, 6)]
FAULTS = {
    "mirrored": (planted.mirrored, MIRRORED, MIRRORED),
    "reversed": (planted.reversed_, REVERSED, REVERSED),
    "up": (planted.up, UP, DOWN),
    "down": (planted.down, DOWN, UP),
}
"""What is done to a mask file, how the check-up names that, and what undoes it."""

absent = [path for path in (IMAGES, MASKS) if not path.exists()]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(absent), reason=f"no real data here: {', '.join(map(str, absent))} absent"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    folder = tmp_path_factory.mktemp("real")
    (folder / "labels").mkdir()
    for patient in PATIENTS:
        (folder / "labels" / f"{patient}_truth_pred.nrrd").symlink_to(MASKS / f"{patient}_truth_pred.nrrd")
    return load_site(write_site(folder, "A", layout="nci-isbi", images=str(IMAGES), masks="labels"))


@pytest.fixture(scope="module")
def untouched(site: SiteConfig) -> dict[str, Case]:
    cases = (read_case(source) for source in find(site).sources)
    return {case.patient: with_mask(case, case.mask[::-1]) for case in cases}


def with_mask(case: Case, mask: planted.Mask) -> Case:
    return dataclasses.replace(case, mask=np.ascontiguousarray(mask))


def verdict_on(cases: dict[str, Case]) -> Verdict:
    tried = [outlined(case, view(case)) for case in cases.values()]
    assert None not in tried
    return judge([one for one in tried if one is not None])


def test_masks_that_a_third_party_wrote_in_reverse_order_are_found_out(site: SiteConfig) -> None:
    checkup = check(site)
    assert checkup.whole_site
    assert "With its slices in reverse order, the masks of 5 of 5 patients would fit their images" in checkup.notes[0]
    assert {finding.patient for finding in checkup.findings if finding.kind is Kind.REVERSED} == set(PATIENTS)


def test_nothing_is_said_against_them_in_the_right_order(untouched: dict[str, Case]) -> None:
    verdict = verdict_on(untouched)
    assert verdict.together is None and not verdict.moved and not verdict.upside_down
    assert min(verdict.likeness.values()) > 0.2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_has_less_for_it_than_the_untouched_mask(fault: str, untouched: dict[str, Case]) -> None:
    """The image speaks against the fault before it is planted, and for undoing it after."""
    change, move, undone = FAULTS[fault]
    before = verdict_on(untouched)
    for patient, case in untouched.items():
        faulty = with_mask(case, change(case.mask))
        assert planted.dice(case.mask, faulty.mask) <= HIDDEN, "it can be seen in all five"
        assert before.advantages[patient][move] < 0
        assert verdict_on(untouched | {patient: faulty}).advantages[patient][undone] > 0


def test_another_patient_s_mask_has_less_for_it_than_the_own(untouched: dict[str, Case]) -> None:
    before, tried = verdict_on(untouched).likeness, 0
    for one, case in untouched.items():
        for other, owner in untouched.items():
            if one == other or case.mask.shape != owner.mask.shape:
                continue
            tried += 1
            swapped = verdict_on(untouched | {one: with_mask(case, owner.mask)})
            assert swapped.likeness[one] < before[one] / 2, (one, other)
    assert tried == 12


def test_a_reversed_or_mirrored_real_mask_among_right_ones_is_told(untouched: dict[str, Case]) -> None:
    """One at a time. A single slice's shift is below what the errors of these masks leave to be seen beyond doubt."""
    found = {"mirrored": 0, "reversed": 0}
    for fault in found:
        change, _, undone = FAULTS[fault]
        for patient, case in untouched.items():
            moved = verdict_on(untouched | {patient: with_mask(case, change(case.mask))}).moved
            assert set(moved) <= {patient}, "no alarm about the others"
            found[fault] += patient in moved and moved[patient].move == undone
    assert found["reversed"] == 5
    assert found["mirrored"] >= 2
