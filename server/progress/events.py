"""Events: what happens in a study, for those who watch it; `server.progress.wording` puts events into words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SURE = 0.02
"""The share of the work that must be done before the remaining time is estimated."""


@dataclass(frozen=True)
class Event:
    """One event that a person who watches a study wants to know of."""

    kind: str
    """"examining", "preparing", "running", "done", "known", "away", "back", "skipped", "parked" or "delivered"."""
    site: str
    """The site that the event is about. A site whose stage was parked is idle until the next event."""
    text: str
    """The route of the weights, as "B → C"; or why a stage is parked; or what was delivered."""
    stage: str = ""
    """The kind of stage: "fine-tune", "validation" or "test"."""
    fold: int = 0
    epoch: int = 0
    """Epochs trained, patients prepared, or bytes examined."""
    epochs: int = 0
    """Epochs, patients or bytes in all; 0 where none are counted."""
    dice: float | None = None
    """Validation Dice of the last epoch, 0 to 1."""
    stages_done: int = 0
    """Stages finished by this run and earlier ones."""
    stages: int = 0
    work_left: float = 1.0
    """The share of all work that is still to be done, in slices shown to a network."""
    rate: float = 0.0
    """The share of all work that this run has done in a second."""
    variant: int = 0
    """The plain study that is at work, counted from 0; stages and work are counted within it."""
    variants: int = 1
    """How many plain studies the study consists of."""

    @property
    def tells_time_left(self) -> bool:
        """Whether the event has news about the remaining time."""
        return self.rate > 0 and self.kind in ("running", "done")

    @property
    def seconds_left(self) -> float | None:
        """The remaining time at the speed so far; None until it can be estimated."""
        return self.work_left / self.rate if self.rate > 0 and 1 - self.work_left >= SURE else None


Observer = Callable[[Event], None]
"""Is called with every event."""
