"""Slices drawn for people at the site: grey values with the outlines of masks, as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]

FIRST, SECOND, BOTH = (86, 180, 233), (230, 159, 0), (255, 255, 255)
"""Colours of outlines, distinguishable with any colour vision (Okabe and Ito, 2008)."""
GREYS = 96
"""Shades of grey in a picture's palette of 256 colours; the rest is for outlines. More shades enlarge a page without
visible gain."""


def draw(
    grey: NDArray[np.uint8],
    outlines: Sequence[tuple[NDArray[np.bool_] | NDArray[np.uint8], Colour]],
    *,
    side: int,
    width: int = 2,
) -> Image.Image:
    """Return a square picture of a slice with the rims of masks over it.

    Args:
        grey: the slice, (pixels, pixels), 0 black to 255 white.
        outlines: masks of the slice's shape, each with its colour; where two rims overlap the colour is BOTH. Of labels
            1, 2, … the rim of all together is drawn, and that of each label but the first.
        side: the picture's side in pixels.
        width: a rim's width in pixels of the picture, measured inwards from the mask's edge.
    """
    enlarged = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)
    pixels = (np.asarray(enlarged).astype(np.uint16) * (GREYS - 1) // 255).astype(np.uint8)
    drawn = np.zeros(pixels.shape, bool)
    colours = [colour for _, colour in outlines]
    for number, (mask, _) in enumerate(outlines):
        parts = [mask > 0, *(mask == label for label in range(2, int(mask.max()) + 1))]
        line = np.any([rim(part, side, width) for part in parts], axis=0)
        pixels[line] = GREYS + number
        pixels[line & drawn] = GREYS + len(outlines)
        drawn |= line
    picture = Image.frombytes("P", (side, side), pixels.tobytes())
    ramp = [shade for grey in range(GREYS) for shade in (grey * 255 // (GREYS - 1),) * 3]
    picture.putpalette([*ramp, *(part for colour in (*colours, BOTH) for part in colour)])
    return picture


def rim(mask: NDArray[np.bool_], side: int, width: int) -> NDArray[np.bool_]:
    """Return the rim of a mask at a picture's size.

    Args:
        mask: (pixels, pixels).
        side: the picture's side in pixels.
        width: the rim's width in pixels of the picture.

    Returns:
        The rim, (side, side).
    """
    smooth = Image.fromarray(mask.astype(np.uint8) * 255).resize((side, side), Image.Resampling.BILINEAR)
    inside = np.pad(np.asarray(smooth) >= 128, width)
    core = inside.copy()
    for axis in (0, 1):
        for step in range(1, width + 1):
            core &= np.roll(inside, step, axis) & np.roll(inside, -step, axis)
    return (inside & ~core)[width:-width, width:-width]


def png(picture: Image.Image) -> str:
    """Return a picture for embedding in an HTML page: PNG in base64."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def css(colour: Colour) -> str:
    """Return a colour in CSS notation, such as #56b4e9."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
