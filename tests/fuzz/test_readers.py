"""Whatever a file says, it is read or told in a sentence: no crash, no hang, no bomb, and no name that leaves.

Every file comes from a seed. RELAY_FUZZ=FIRST:FACTOR tries others, and more of them: RELAY_FUZZ=100000:20.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.fuzz import runs
from tests.fuzz.patients import FORMATS
from tests.fuzz.planted import GIVEN, NAME, PATIENT_ID, found_in

pytestmark = pytest.mark.slow

FIRST, FACTOR = (int(part) for part in os.environ.get("RELAY_FUZZ", "0:1").split(":"))
COUNTS = {
    "dicom": 300,
    "dicom-masks": 160,
    "nrrd": 320,
    "nifti": 360,
    "decathlon": 160,
    "mhd": 360,
    "toml": 400,
    "records": 320,
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> runs.Report:
    counts = {kind: count * FACTOR for kind, count in COUNTS.items()}
    return runs.run(runs.batches(counts, FIRST), tmp_path_factory.mktemp("fuzz"))


def test_there_are_two_thousand_files() -> None:
    assert sum(count for kind, count in COUNTS.items() if kind != "records") >= 2000


@pytest.mark.parametrize("kind", COUNTS)
def test_a_mutated_file_is_read_or_told_in_a_sentence_and_no_name_leaves(kind: str, report: runs.Report) -> None:
    assert not report.faults[kind], "\n".join(report.faults[kind])
    outcomes = report.outcomes[kind]
    assert outcomes["read"] and outcomes["refused"], "nothing was read, or nothing was wrong"
    assert outcomes["described"] == len(runs.batches({kind: COUNTS[kind] * FACTOR})) or kind not in FORMATS


def test_a_crash_a_hang_and_an_unkind_error_would_be_found(tmp_path: Path) -> None:
    """Or the test above could not fail."""
    found = runs.run([("planted", list(range(13)))], tmp_path)
    assert sorted(found.seeds["planted"]) == [[3], [5], [7], [9], [11]]
    assert "-11" in found.faults["planted"][0] and "planted 3" in found.faults["planted"][0]
    assert found.outcomes["planted"]["read"] == 11


@pytest.mark.parametrize(
    "hidden",
    [
        NAME.encode("utf-16-le"),
        NAME.upper().encode("latin-1"),
        base64.b64encode(b"xy" + f"{GIVEN} {GIVEN}".encode()),
        PATIENT_ID.encode().hex().encode(),
        b"/srv/images/a.nii.gz",
    ],
)
def test_a_name_that_leaves_would_be_found(hidden: bytes) -> None:
    assert found_in(b"before" + hidden + b"after")
    assert not found_in(b"before and after")
