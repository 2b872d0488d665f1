"""A full disk is said, once and then seldom, and that there is room again too."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from common.errors import DiskFull
from deploy.room import LEAST, Room, check_room

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """The bytes that each folder's disk has left."""
    left: dict[Path, int] = {}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, left[folder]))
    return left


def test_each_change_is_said_once_and_a_disk_that_stays_full_now_and_then(free: dict[Path, int]) -> None:
    one, two = Path("/one"), Path("/two")
    room = Room([one, two], "until then nothing is done")
    said = {}
    for now in range(2000):
        free |= {one: LEAST, two: LEAST - 1 if 100 <= now < 1500 else LEAST}
        said |= dict.fromkeys([now] if (lines := room.news(float(now))) else [], lines)
    sentence = "The disk that holds /two is full (10 MB are left); make room there; until then nothing is done."
    assert said == {
        100: [sentence],
        710: [sentence],
        1320: [sentence],
        1500: ["There is room on the disk again."],
    }


def test_nothing_is_begun_on_a_full_disk(free: dict[Path, int]) -> None:
    free |= {Path("/one"): LEAST, Path("/two"): 0}
    check_room([Path("/one")])
    with pytest.raises(DiskFull, match=r"holds /two is full \(0 bytes are left\); make room there and start again"):
        check_room([Path("/one"), Path("/two")])
