"""The colours of the page."""

from __future__ import annotations

SITE_COLOURS = ("#0b6e8f", "#b4501e", "#54731f", "#7b4a9c", "#8a6500", "#a43a62", "#39619c", "#5f5f5f")
"""Colours of the sites: dark enough for text on white (4.5 : 1), and different in lightness and hue for colour-blind
eyes."""
SCALE = ((255, 251, 214), (210, 237, 190), (141, 211, 196), (103, 184, 212))
"""The colours of table cells, from the lowest to the highest Dice, light yellow to blue; dark text is readable on
all."""


def shade(share: float) -> str:
    """Return the colour at a position on the scale, 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(SCALE) - 1)
    left = min(int(place), len(SCALE) - 2)
    mixed = (round(a + (b - a) * (place - left)) for a, b in zip(SCALE[left], SCALE[left + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
