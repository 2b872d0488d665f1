"""How far the order at hand is, for whoever started this process and asked to hear it.

Only the embedded grid asks, in `relay simulate` and `relay demo`, where one person owns every site. At a hospital
nobody listens, and nothing leaves but what the egress filter lets out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

Listener = Callable[[int, int, float | None], None]
"""Takes what is done and of how many: epochs, or patients prepared; and the last epoch's validation Dice, 0 to 1."""

_listeners: list[Listener] = []


def subscribe(listener: Listener) -> None:
    """Have `listener` called until this process ends."""
    _listeners.append(listener)


def notify(done: int, of: int, dice: float | None = None) -> None:
    """Pass progress on to who subscribed. A listener that fails harms no stage."""
    for listener in _listeners:
        with suppress(Exception):
            listener(done, of, dice)
