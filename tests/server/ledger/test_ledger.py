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
from pydantic import BaseModel

import server.ledger.ledger
from common import files
from common.errors import Damaged, RelayError
from server.ledger.ledger import Cases, Ledger, StageRecord, examine

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


class EarlierRecord(BaseModel):
    """A record of a version that knew fewer figures."""

    key: str
    kind: str
    dice: float


def test_a_record_from_before_a_figure_was_added_is_sound_without_that_figure(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = StageRecord(key=KEY, kind="evaluate", dice=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(StageRecord, "model_dump", lambda self, **how: EarlierRecord(**dict(self)).model_dump(**how))
        ledger.put(earlier)
    later = again(ledger)
    assert later.faults == () and later.get(KEY) == earlier


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
    assert path.with_suffix(".damaged").read_bytes() == content, "somebody may want to look at it"
    assert examine(ledger.folder).faults == ()


def test_a_record_that_a_disk_does_not_give_is_not_taken_for_a_damaged_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.put(record_of(ledger))
    path, read = ledger.folder / "ledger" / f"{KEY}.json", Path.read_bytes

    def fails(self: Path) -> bytes:
        if self == path:
            raise OSError(errno.EIO, "Input/output error")
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        with pytest.raises(RelayError, match="Input/output error"):
            again(ledger)
    assert again(ledger).get(KEY) == record_of(ledger)


def test_the_weights_of_a_stage_that_was_left_out_were_not_made_by_it(ledger: Ledger) -> None:
    """Its record names those that it would have started from: where nothing else made them, they came from nowhere."""
    ledger.put(StageRecord(key=KEY, kind="absent", parents=("b" * 64,), weights="b" * 64))
    (fault,) = examine(ledger.folder).faults
    assert "no record made" in fault.sentence


def test_weights_that_are_taken_away_while_a_ledger_is_examined_are_no_fault(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_of(ledger)
    ledger.put(record)
    monkeypatch.setattr(server.ledger.ledger, "digest_of_file", lambda path: path.unlink() or path.read_bytes().hex())
    found = examine(ledger.folder)
    assert found.faults == () and found.gone == {record.weights}


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
    assert not fault.damaged and "starts from weights bbbbbbbb… that no record made" in fault.sentence
    assert again(ledger).get(KEY) == record, "it is sound itself"


def test_what_came_from_weights_that_are_made_no_more_is_set_aside_with_all_that_came_from_it(ledger: Ledger) -> None:
    sound = record_of(ledger)
    ledger.put(sound)
    ledger.put(StageRecord(key="b" * 64, kind="fine-tune", parents=("c" * 64,), weights="d" * 64))
    ledger.put(StageRecord(key="e" * 64, kind="evaluate", parents=("d" * 64,)))
    ledger.set_strays_aside()
    assert examine(ledger.folder).records == {KEY: sound} and examine(ledger.folder).faults == ()
    assert ledger.get("b" * 64) is ledger.get("e" * 64) is None and ledger.get(KEY) == sound
    assert len(list(ledger.folder.rglob("*.damaged"))) == 2


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


@pytest.mark.slow
def test_one_coordinator_at_a_time(ledger: Ledger) -> None:
    code = "import sys; from pathlib import Path; from server.ledger.ledger import Ledger; Ledger(Path(sys.argv[1]))"
    other = subprocess.run([sys.executable, "-c", code, ledger.folder], capture_output=True, encoding="utf-8")
    assert f"Another study is writing to {ledger.folder}; wait for it" in other.stderr
    ledger.close()
    assert subprocess.run([sys.executable, "-c", code, ledger.folder]).returncode == 0


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RelayError, match=r"The result folder .*file cannot be used \("):
        Ledger(tmp_path / "file")
