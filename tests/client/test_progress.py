"""Progress is told to who asked for it, and training goes on whatever becomes of what was told."""

from __future__ import annotations

import pytest

from client import progress


def test_progress_reaches_every_listener_and_a_broken_one_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_listeners", [])
    progress.notify(1, 5, 0.25)  # nobody listens, as at a hospital
    heard: list[tuple[int, int, float | None]] = []

    def broken(*_: object) -> None:
        raise BrokenPipeError

    progress.subscribe(broken)
    progress.subscribe(lambda *news: heard.append(news))
    progress.notify(2, 5, 0.5)
    progress.notify(3, 30)
    assert heard == [(2, 5, 0.5), (3, 30, None)]
