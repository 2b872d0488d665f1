"""A log whose lines name each other: whatever is done to it afterwards shows, and what a crash leaves is no fault."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.governance import audit_log


def written(path: Path, lines: int) -> list[bytes]:
    for number in range(lines):
        audit_log.append(path, {"number": number})
    return path.read_bytes().splitlines()


def put(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def forged(lines: list[bytes], at: int) -> list[bytes]:
    """Line `at` says something else, and all after it are made to fit."""
    changed = lines[:at]
    for line in lines[at:]:
        entry = json.loads(line)
        if changed:
            entry["before"] = hashlib.sha256(changed[-1]).hexdigest()
        if len(changed) == at:
            entry["number"] = 99
        changed.append(json.dumps(entry, separators=(",", ":")).encode())
    return changed


def test_a_log_is_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert audit_log.read(path) == audit_log.Reading((), (), "")
    lines = written(path, 4)
    found = audit_log.read(path)
    assert found.fault == "" and [line["number"] for line in found.lines] == [0, 1, 2, 3]
    assert found.digests == tuple(hashlib.sha256(line).hexdigest() for line in lines)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_line_that_is_changed_missing_moved_or_new_shows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    lines = written(path, data.draw(st.integers(1, 5)))
    at = data.draw(st.integers(0, len(lines) - 1))
    how = data.draw(st.sampled_from(["change", "flip", "take out", "cut", "double", "swap", "forge", "empty"]))
    changed = list(lines)
    if how == "change":
        changed[at] = lines[at].replace(b'"number":', b'"numbers":')
    elif how == "flip":
        place = data.draw(st.integers(0, len(lines[at]) - 1))
        changed[at] = lines[at][:place] + bytes([lines[at][place] ^ 1]) + lines[at][place + 1 :]
    elif how == "take out":
        del changed[at]
    elif how == "cut":
        del changed[at:]
    elif how == "double":
        changed.insert(at, lines[at])
    elif how == "swap":
        changed[at - 1], changed[at] = lines[at], lines[at - 1]
    elif how == "forge":
        changed = forged(lines, at)
    else:
        changed[at] = b""
    put(path, changed)
    if changed != lines:
        assert audit_log.read(path).fault
        # And it does not heal when further lines are written.
        audit_log.append(path, {"number": 7})
        assert audit_log.read(path).fault
        written(path, 2)
        assert audit_log.read(path).fault


@pytest.mark.parametrize("lines", [1, 3])
def test_a_log_that_is_gone_shows(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "log.jsonl"
    written(path, lines)
    path.unlink()
    assert "line 1 is gone" in audit_log.read(path).fault
    audit_log.append(path, {"number": 0})
    assert audit_log.read(path).fault


def test_a_note_of_the_end_that_is_gone_shows(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = written(path, 3)
    path.with_suffix(".end").unlink()
    assert "note of the end is gone" in audit_log.read(path).fault
    put(path, lines[:2])
    audit_log.append(path, {"number": 7})
    assert "lines may be missing before it" in audit_log.read(path).fault


def test_a_process_killed_between_a_line_and_its_note_leaves_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for before in range(3):
        note = path.with_suffix(".end")
        kept = note.read_bytes() if before else None
        audit_log.append(path, {"number": before})
        if kept is None:
            note.unlink()
        else:
            note.write_bytes(kept)
        assert audit_log.read(path).fault == ""
        audit_log.append(path, {"number": "after"})
        assert audit_log.read(path).fault == ""
        assert len(audit_log.read(path).lines) == 2 * (before + 1)


@pytest.mark.parametrize("torn", [b"{", b'{"number":3', b"\xff\xfe"])
def test_a_process_killed_within_a_line_leaves_no_fault(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log.jsonl"
    written(path, 2)
    with path.open("ab") as file:
        file.write(torn)
    assert audit_log.read(path).fault == "" and len(audit_log.read(path).lines) == 2
    audit_log.append(path, {"number": 2})
    found = audit_log.read(path)
    assert found.fault == "" and [line["number"] for line in found.lines] == [0, 1, 2]


def _add(path: Path, times: int) -> None:
    for _ in range(times):
        audit_log.append(path, {"number": 0})


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    workers = [multiprocessing.get_context("fork").Process(target=_add, args=(path, 20)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    found = audit_log.read(path)
    assert found.fault == "" and len(found.lines) == 80
