"""Event files of TensorBoard, read by the format's own description and held against results.json."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import RelayError
from server.report import read_results
from server.results.tensorboard_files import write_tensorboard
from tests.support.commands import relay_here
from tests.support.hospitals import REPO

KEPT = REPO / "docs" / "results" / "real-three"


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, content, its checksum."""
    content = path.read_bytes()
    while content:
        (length, check), rest = struct.unpack("<QI", content[:12]), content[12:]
        assert check == masked(content[:8])
        data, (check,) = rest[:length], struct.unpack("<I", rest[length : length + 4])
        assert check == masked(data)
        yield data
        content = rest[length + 4 :]


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers and what they hold."""
    while data:
        (key, data), kind = varint(data), data[0] & 7
        if kind == 0:
            value, data = varint(data)
        elif kind == 1:
            value, data = struct.unpack("<d", data[:8])[0], data[8:]
        elif kind == 5:
            value, data = struct.unpack("<f", data[:4])[0], data[4:]
        else:
            length, data = varint(data)
            value, data = data[:length], data[length:]
        yield key >> 3, value


def varint(data: bytes) -> tuple[int, bytes]:
    value = shift = 0
    for place, byte in enumerate(data):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, data[place + 1 :]
    raise AssertionError("a number that does not end")


def scalars(path: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of each event, by the numbers of event.proto and summary.proto."""
    first, *events = [dict(fields(record)) for record in records(path)]
    assert first == {3: b"brain.Event:2"}
    found = []
    for event in events:
        value = dict(fields(dict(fields(event[5]))[1]))
        found.append((value[1].decode(), event.get(2, 0), value.get(2, 0.0)))
    return found


def test_curves_and_scores_are_those_of_the_results(tmp_path: Path) -> None:
    results = json.loads((KEPT / "results.json").read_text(encoding="utf-8"))
    paths = write_tensorboard(read_results(KEPT), tmp_path)
    assert all(path.name.startswith("events.out.tfevents") for path in paths)
    curves = [path for path in paths if "curves" in path.parts]
    trained = [stage for stage in results["stages"] if stage["epochs"]]
    assert len(curves) == len(trained) > 30
    stage = trained[0]
    name = f"{stage['label']} at {stage['site']}, fold {stage['fold'] + 1}, {stage['id'][2:10]}"
    path = tmp_path / "curves" / "variant 1" / name
    drawn = scalars(next(path.iterdir()))
    for key, title in (("loss", "training loss"), ("lr", "learning rate"), ("dice", "validation Dice (%)")):
        points = [(step, value) for tag, step, value in drawn if tag == title]
        expected = [(epoch["epoch"], epoch[key]) for epoch in stage["epochs"]]
        assert [step for step, _ in points] == [step for step, _ in expected]
        assert [value for _, value in points] == pytest.approx([value for _, value in expected], rel=1e-6)
    (row,) = [
        row for row in results["rows"]
        if row["method"] == "baseline" and row["target"] == "runmc" and row["fold"] is None
    ]  # fmt: skip
    path = tmp_path / "rows" / f"{row['label']} → runmc"
    assert ("test Dice (%)", 0, pytest.approx(row["dice"], rel=1e-6)) in scalars(next(path.iterdir()))


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    results = read_results(KEPT)
    for name in ("one", "two"):
        write_tensorboard(results, tmp_path / name)
    write_tensorboard(results, tmp_path / "two")  # over what is there
    files = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    ]
    assert files[0] == files[1]


def test_the_command_writes_them_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert relay_here("export", KEPT, "--tensorboard", tmp_path / "runs") == 0
    assert "tensorboard --logdir" in capsys.readouterr().out
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RelayError, match="cannot be written"):
        relay_here("export", KEPT, "--tensorboard", tmp_path / "file")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(RelayError, match=r"prostate-relay\[tensorboard\]"):
        relay_here("export", KEPT, "--tensorboard", tmp_path / "runs")
