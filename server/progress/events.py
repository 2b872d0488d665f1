"""Events in a study's run, for displays and logs; `server.progress.wording` puts events into words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SURE = 0.02
"""The finished share of the work at which estimates of the remaining time begin."""


@dataclass(frozen=True)
class Event:
    """An event in a study's run, for displays and logs."""

    kind: str
    """"examining", "preparing", "running", "done", "known", "away", "back", "skipped", "parked" or "delivered"."""
    site: str
    """The site of the event. A site whose stage was parked is idle until the next event."""
    text: str
    """The route of the weights, as "B → C"; or the reason for parking a stage; or the row whose weights were
    delivered."""
    stage: str = ""
    """The kind of stage: "fine-tune", "re-estimate", "validation" or "test"."""
    fold: int = 0
    epoch: int = 0
    """Epochs trained, patients prepared, or bytes examined."""
    epochs: int = 0
    """Epochs, patients or bytes in all; 0 where nothing is counted."""
    dice: float | None = None
    """Validation Dice of the last epoch, 0 to 1."""
    stages_done: int = 0
    """Stages finished by this run and earlier ones."""
    stages: int = 0
    work_left: float = 1.0
    """The unfinished share of all work; work is measured in slices shown to a network."""
    rate: float = 0.0
    """The share of all work done per second in this run."""
    variant: int = 0
    """The number of the plain study at work, counted from 0; stages and work are counted within this plain study."""
    variants: int = 1
    """The number of plain studies: one for each repeat and network."""

    @property
    def tells_time_left(self) -> bool:
        """Whether the event has news about the remaining time."""
        return self.rate > 0 and self.kind in ("running", "done")

    @property
    def seconds_left(self) -> float | None:
        """The remaining time at the speed so far; None until enough work is done for an estimate."""
        return self.work_left / self.rate if self.rate > 0 and 1 - self.work_left >= SURE else None


Observer = Callable[[Event], None]
"""Is called with every event."""
