"""Progress of the order at hand, passed to listeners in the same process.

Only the embedded grid subscribes, in `relay simulate` and `relay demo`, where all sites belong to the same person. At a
hospital nothing subscribes, and progress never passes the egress filter.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

Listener = Callable[[int, int, float | None], None]
"""Is called with the number done, the number in all (epochs, or patients prepared), and the last epoch's validation
Dice, 0 to 1, or None."""

_listeners: list[Listener] = []


def subscribe(listener: Listener) -> None:
    """Call `listener` at every progress report until this process ends."""
    _listeners.append(listener)


def notify(done: int, of: int, dice: float | None = None) -> None:
    """Pass progress on to all listeners; exceptions of a listener are ignored, so that no stage fails by a listener.

    Args:
        done: epochs trained, or patients prepared.
        of: epochs or patients in all.
        dice: the last epoch's validation Dice, 0 to 1.
    """
    for listener in _listeners:
        with suppress(Exception):
            listener(done, of, dice)
