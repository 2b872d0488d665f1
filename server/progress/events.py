"""What happens in a study, for whoever watches it; `server.progress.wording` has the words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SURE = 0.02
"""The share of the work after which the time left is known well enough to be shown."""


@dataclass(frozen=True)
class Event:
    """Something a person who watches wants to know."""

    kind: str
    """"examining", "preparing", "running", "done", "known", "away", "back", "skipped", "parked" or "delivered"."""
    site: str
    """Whose line changes. A site whose stage was parked has nothing to do until the next event."""
    text: str
    """The way of the weights, as "B → C", why a stage is parked, or what was delivered."""
    stage: str = ""
    """"fine-tune", "validation" or "test"."""
    fold: int = 0
    epoch: int = 0
    epochs: int = 0
    dice: float | None = None
    """Of the last epoch, 0 to 1."""
    stages_done: int = 0
    stages: int = 0
    work_left: float = 1.0
    """The share of all training that is still to come, in slices shown to a network."""
    rate: float = 0.0
    """The share of all training that this run did in a second."""
    variant: int = 0
    variants: int = 1
    """Which of the plain studies is at work that this one is made of; stages and work are counted within it."""

    @property
    def tells_time_left(self) -> bool:
        """Whether the event says anything new of the time that is left."""
        return self.rate > 0 and self.kind in ("running", "done")

    @property
    def seconds_left(self) -> float | None:
        """What is left of the work at the pace so far; None until that can be known."""
        return self.work_left / self.rate if self.rate > 0 and 1 - self.work_left >= SURE else None


Observer = Callable[[Event], None]
