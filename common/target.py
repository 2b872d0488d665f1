"""What a study segments: the gland, or the gland's two zones.

The one value that the rest of the program asks for the number of classes. A network has `Target.classes` channels of
logits. Masks on the study's grid have a channel for the gland and, of zones, one for each; predictions have a channel
of probabilities for the gland, or one for each zone. The order of zones is everywhere the order here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Zone:
    """A zone of the gland."""

    key: str
    """The zone's name in site files."""
    title: str
    label: int
    """The zone's value in the masks that relay writes and caches, which is that of NCI-ISBI 2013."""


PZ = Zone("PZ", "peripheral zone", 1)
CG = Zone("CG", "central gland", 2)


@dataclass(frozen=True)
class Target:
    """What a network segments."""

    key: str
    """The name in study files."""
    zones: tuple[Zone, ...] = ()
    """The zones, which make up the gland; none where the gland is segmented as a whole."""

    @property
    def classes(self) -> int:
        """The channels of the logits: one of the gland (sigmoid), or one of the background and each zone (softmax)."""
        return 1 + len(self.zones)


GLAND = Target("gland")
ZONES = Target("zones", (PZ, CG))
TARGETS = {target.key: target for target in (GLAND, ZONES)}
