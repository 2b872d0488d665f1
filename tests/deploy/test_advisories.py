"""Known advisories are named with the version that is free of them, and what the index does not tell is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.errors import FaultsFound, RelayError
from deploy import advisories
from deploy.advisories import INDEX, look_up, report

HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fixed_in": ["2.1", "1.9"], "summary": "It  leaks.", "withdrawn": None}
GONE = {"id": "PYSEC-2", "aliases": [], "fixed_in": [], "details": "An error.", "withdrawn": "2026-01-01"}


def index(pages: dict[str, Any]) -> Any:
    return lambda address: pages.get(address.removeprefix(INDEX))


def page(version: str, *holes: dict[str, Any]) -> dict[str, Any]:
    return {"info": {"version": version}, "vulnerabilities": list(holes)}


def test_an_index_that_tells_of_each_version_is_asked_for_the_locks() -> None:
    get = index({"/x/1.0/json": page("1.0", HOLE, GONE), "/x/json": page("2.1")})
    found = look_up("x", "1.0", get)
    assert found.known
    assert report([found]) == [
        "x 1.0: CVE-1, PYSEC-1; fixed in 2.1 and 1.9: It leaks.",
        "Looked up 1 package at the version given; known advisories: 1.",
    ]


def test_an_index_that_tells_of_the_newest_alone_leaves_older_ones_unknown() -> None:
    get = index({"/x/json": page("2.1"), "/y/json": page("3")})
    assert report([look_up("x", "1.0", get), look_up("y", "3", get)]) == [
        "The index tells of the newest versions alone, and so not of x 1.0 (newest: 2.1).",
        "Looked up 1 package at the version given; known advisories: 0.",
    ]


def test_a_package_that_is_not_there_is_no_package_without_advisories() -> None:
    with pytest.raises(RelayError, match="does not know x"):
        look_up("x", "1.0", index({}))


def test_an_advisory_fails_the_command_and_every_name_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lock").write_text("some-thing==1.0 \\\n    --hash=sha256:00\n# y==9\n", encoding="utf-8")
    (tmp_path / "more").write_text("Some_Thing==1.0\nz==2\n", encoding="utf-8")
    asked = []

    def told(name: str, version: str) -> advisories.PackageAdvisories:
        asked.append((name, version))
        return look_up(
            name, version, index({f"/{name}/{version}/json": page(version, *([HOLE] if name == "z" else []))})
        )

    monkeypatch.setattr(advisories, "look_up", told)
    advisories.main(tmp_path / "lock")
    with pytest.raises(FaultsFound):
        advisories.main(tmp_path / "lock", tmp_path / "more")
    assert asked == [("some-thing", "1.0"), ("some-thing", "1.0"), ("z", "2")]
    assert "z 2: CVE-1" in capsys.readouterr().out
