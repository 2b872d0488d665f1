"""Memory that is free again goes back to the system."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import pytest

from server import freed_memory
from server.freed_memory import give_back

BLOCK = 100_000
"""Bytes of a block that the C library takes from its own heap, not one by one from the system."""


def held() -> int:
    """Bytes of memory that this process holds."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library")
def test_freed_blocks_go_back_though_a_later_one_is_still_in_use() -> None:
    blocks = [bytes([number % 251]) * BLOCK for number in range(1000)]
    last = bytes(BLOCK)
    full = held()
    del blocks
    kept = held()
    give_back()
    assert full - held() > 0.8 * 1000 * BLOCK
    assert kept - held() > 0.5 * 1000 * BLOCK, "the C library had given it back by itself: this test shows nothing"
    assert len(last) == BLOCK


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        """A C library without malloc_trim."""

    freed_memory._trim.cache_clear()
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda _: Musl())
    give_back()
    assert freed_memory._trim() is None
    freed_memory._trim.cache_clear()
