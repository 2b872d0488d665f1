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

from common import weights as weights_module
from common.errors import RelayError
from server.ledger import Cases, Ledger, StageRecord

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


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": "a"}', b"null", b"\xff\xfe", b'{"key": 1, "kind": "start"}'])
def test_a_record_that_cannot_be_read_is_none(ledger: Ledger, content: bytes) -> None:
    ledger.put(record_of(ledger))
    (ledger.folder / "ledger" / f"{KEY}.json").write_bytes(content)
    assert ledger.get(KEY) is None


def test_a_record_without_its_weights_is_none(ledger: Ledger) -> None:
    record = record_of(ledger)
    ledger.put(record)
    path = ledger.path_of(record.weights)
    content = path.read_bytes()
    path.unlink()
    later = again(ledger)
    assert later.get(KEY) is None
    path.write_bytes(content[:-1])  # cut off
    assert again(later).get(KEY) is None
    assert not path.exists(), "so that it is written again"
    assert again(later).put_weights(WEIGHTS) == record.weights
    assert again(later).get(KEY) == record


def test_weights_that_could_not_be_written_leave_no_trace(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(weights_module.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ledger.put_weights(WEIGHTS)
    assert list((ledger.folder / "weights").iterdir()) == []
    ledger.put(record_of(ledger))
    with monkeypatch.context() as patch:
        patch.setattr(weights_module.os, "fsync", full)
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
