"""Every kind of error has a code of its own, in one form, and stands on the page of error codes."""

from __future__ import annotations

import ast
import re

import pytest

from common.errors import RelayError
from common.protocol.refusals import REFUSALS, Refusal, Refused
from tests.support.hospitals import REPO

PAGE = (REPO / "docs" / "reference" / "error-codes.md").read_text(encoding="utf-8")
KINDS = [RelayError, *RelayError.__subclasses__()]
STABLE = {
    "BadConfiguration": "configuration",
    "BadData": "data",
    "BadPatient": "patient",
    "Damaged": "damaged",
    "DiskFull": "disk-full",
    "Expired": "expired",
    "FaultsFound": "faults-found",
    "Locked": "locked",
    "NotEnrolled": "not-enrolled",
    "RelayError": "error",
    "SiteAbsent": "site-absent",
    "Unfinished": "unfinished",
    "Unreachable": "unreachable",
}
"""Scripts hold on to these: one is never changed, and never used for something else."""


def test_codes_are_stable_and_each_is_one_kinds_own() -> None:
    codes = {kind.__name__: kind.code for kind in KINDS}
    assert codes == STABLE
    assert len(set(codes.values())) == len(codes)


@pytest.mark.parametrize("code", [*(kind.code for kind in KINDS), *(refusal.code for refusal in Refusal)])
def test_every_code_is_short_and_documented(code: str) -> None:
    assert re.fullmatch("[a-z]+(-[a-z]+)*", code) and len(code) <= 20
    assert f"| `{code}` |" in PAGE


def test_a_refusal_has_a_number_a_code_and_a_text() -> None:
    refused = Refused(Refusal.DISK_FULL)
    assert (int(refused.refusal), refused.refusal.code) == (1008, "disk-full")
    assert str(refused) == REFUSALS[Refusal.DISK_FULL]


def test_all_kinds_stand_in_one_file() -> None:
    names = {kind.__name__ for kind in KINDS}
    for room in ("client", "common", "deploy", "server"):
        for path in (REPO / room).rglob("*.py"):
            if path == REPO / "common" / "errors.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    assert not names & {base.id for base in node.bases if isinstance(base, ast.Name)}, path
