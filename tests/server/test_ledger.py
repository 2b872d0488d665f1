"""The durable record: whole or not there, weights before their record, one coordinator at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import files
from common.errors import Damaged, RelayError
from server.ledger import Cases, Ledger, StageRecord, examine

WEIGHTS = {"layer": torch.arange(6.0)}
KEY = "a" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "out")
    yield ledger
    ledger.close()


def again(ledger: Ledger) -> Ledger:
    """As another process finds it."""
    ledger.close()
    return Ledger(ledger.folder)


def record_of(ledger: Ledger) -> StageRecord:
    return StageRecord(key=KEY, kind="fine-tune", site="A", weights=ledger.put_weights(WEIGHTS), dice=0.1 + 0.2)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.builds(
        StageRecord,
        key=st.just(KEY),
        kind=st.sampled_from(["start", "fine-tune", "evaluate", "average"]),
        losses=st.lists(FLOATS, max_size=3).map(tuple),
        dice=FLOATS,
        gradient_steps=st.integers(0, 10**12),
        cases=st.builds(Cases, numbers=st.just((1, 2)), dices=st.tuples(FLOATS, FLOATS)),
    )
)
def test_a_record_is_read_back_to_the_bit(ledger: Ledger, record: StageRecord) -> None:
    ledger.put(record)
    assert ledger.get(KEY) == record


def test_nothing_is_known_of_what_was_never_put(ledger: Ledger) -> None:
    assert ledger.get(KEY) is None


UNREADABLE = [b"", b"{", b'{"key": "a"}', b"null", b"[]", b"\xff\xfe", b'{"key": 1, "kind": "start"}', b"{}"]


@pytest.mark.parametrize("content", UNREADABLE)
def test_a_record_that_cannot_be_read_is_none_and_is_told(ledger: Ledger, content: bytes) -> None:
    ledger.put(record_of(ledger))
    path = ledger.folder / "ledger" / f"{KEY}.json"
    path.write_bytes(content)
    assert [fault.path for fault in examine(ledger.folder).faults] == [path]
    later = again(ledger)
    assert later.get(KEY) is None and [fault.path for fault in later.faults] == [path]
    assert not path.exists(), "so that it is written again"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_record_cut_off_or_changed_at_any_byte_is_none_or_says_the_same(ledger: Ledger, data: st.DataObject) -> None:
    record = record_of(ledger)
    ledger.put(record)
    path = ledger.folder / "ledger" / f"{KEY}.json"
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:place])
    else:
        path.write_bytes(whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :])
    found = examine(ledger.folder)
    assert found.records.get(KEY, record) == record
    assert (KEY in found.records) != bool(found.faults)
    path.write_bytes(whole)


def test_weights_that_are_gone_leave_their_record(ledger: Ledger) -> None:
    record = record_of(ledger)
    ledger.put(record)
    ledger.drop(record.weights)
    assert not ledger.has(record.weights) and ledger.get(KEY) == record
    later = again(ledger)
    assert not later.has(record.weights) and later.get(KEY) == record and later.faults == ()
    assert examine(later.folder).gone == {record.weights}
    assert later.put_weights(WEIGHTS) == record.weights and later.has(record.weights)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_weights_cut_off_or_changed_at_any_byte_are_told_and_made_again(ledger: Ledger, data: st.DataObject) -> None:
    record = record_of(ledger)
    ledger.put(record)
    path = ledger.path_of(record.weights)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    path.write_bytes(whole[:place] + (b"" if cut else bytes([whole[place] ^ 1]) + whole[place + 1 :]))
    (fault,) = examine(ledger.folder).faults
    assert fault.path == path and fault.damaged
    with pytest.raises(Damaged, match="are gone or damaged; start again"):
        ledger.file(record.weights)
    assert not ledger.has(record.weights) and not path.exists()
    assert ledger.put_weights(WEIGHTS) == record.weights
    assert path.read_bytes() == whole


def test_weights_damaged_while_nobody_looked_are_removed_on_opening(ledger: Ledger) -> None:
    record = record_of(ledger)
    ledger.put(record)
    path = ledger.path_of(record.weights)
    path.write_bytes(path.read_bytes()[:-1])
    later = again(ledger)
    assert not later.has(record.weights) and not path.exists() and later.get(KEY) == record


def test_a_record_whose_weights_came_from_nowhere_is_told(ledger: Ledger) -> None:
    record = StageRecord(key=KEY, kind="evaluate", parents=("b" * 64,))
    ledger.put(record)
    (fault,) = examine(ledger.folder).faults
    assert not fault.damaged and "starts from weights bbbbbbbbbbbb… that no record made" in fault.sentence
    assert again(ledger).get(KEY) == record, "it is sound itself"


def test_what_a_killed_coordinator_left_half_written_is_cleared_away(ledger: Ledger) -> None:
    for folder in ("ledger", "weights"):
        (ledger.folder / folder / ".abc.json.1234.part").write_bytes(b"half")
    again(ledger)
    assert not list(ledger.folder.rglob("*.part"))


def test_examining_tells_how_far_it_is(ledger: Ledger) -> None:
    ledger.put(record_of(ledger))
    told: list[tuple[int, int]] = []
    examine(ledger.folder, progress=lambda done, of: told.append((done, of)))
    size = ledger.path_of(record_of(ledger).weights).stat().st_size
    assert told == [(size, size)]


def test_weights_that_could_not_be_written_leave_no_trace(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ledger.put_weights(WEIGHTS)
    assert list((ledger.folder / "weights").iterdir()) == []
    ledger.put(record_of(ledger))
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ledger.put(StageRecord(key=KEY, kind="start"))
    kept = ledger.get(KEY)
    assert kept is not None and kept.kind == "fine-tune"


def test_one_coordinator_at_a_time(ledger: Ledger) -> None:
    code = "import sys; from pathlib import Path; from server.ledger import Ledger; Ledger(Path(sys.argv[1]))"
    other = subprocess.run([sys.executable, "-c", code, ledger.folder], capture_output=True, encoding="utf-8")
    assert f"Another study is writing to {ledger.folder}; wait for it" in other.stderr
    ledger.close()
    assert subprocess.run([sys.executable, "-c", code, ledger.folder]).returncode == 0


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RelayError, match=r"The result folder .*file cannot be used \("):
        Ledger(tmp_path / "file")
