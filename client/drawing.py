"""Slices drawn for eyes at the site: grey values, outlines over them, PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Colour = tuple[int, int, int]

FIRST, SECOND, BOTH = (86, 180, 233), (230, 159, 0), (255, 255, 255)
"""Colours of outlines; told apart with any colour vision (Okabe and Ito, 2008)."""
GREYS = 96
"""Shades of a picture: more make a page larger, not better. Of its 256 colours some are for outlines."""


def draw(
    grey: NDArray[np.uint8], outlines: Sequence[tuple[NDArray[np.bool_], Colour]], *, side: int, width: int = 2
) -> Image.Image:
    """Return a square of a slice, `side` pixels wide, with the rims of masks over it.

    Args:
        grey: (pixels, pixels), black to white.
        outlines: masks of the same shape, each with its colour; where two rims run together they are BOTH.
        width: of a rim, in pixels of the picture, inwards from the mask's edge.
    """
    enlarged = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)
    pixels = (np.asarray(enlarged).astype(np.uint16) * (GREYS - 1) // 255).astype(np.uint8)
    drawn = np.zeros(pixels.shape, bool)
    colours = [colour for _, colour in outlines]
    for number, (mask, _) in enumerate(outlines):
        line = rim(mask, side, width)
        pixels[line] = GREYS + number
        pixels[line & drawn] = GREYS + len(outlines)
        drawn |= line
    picture = Image.frombytes("P", (side, side), pixels.tobytes())
    ramp = [shade for grey in range(GREYS) for shade in (grey * 255 // (GREYS - 1),) * 3]
    picture.putpalette([*ramp, *(part for colour in (*colours, BOTH) for part in colour)])
    return picture


def rim(mask: NDArray[np.bool_], side: int, width: int) -> NDArray[np.bool_]:
    """Return the rim of a mask (pixels, pixels) at a picture's size, (side, side)."""
    smooth = Image.fromarray(mask.astype(np.uint8) * 255).resize((side, side), Image.Resampling.BILINEAR)
    inside = np.pad(np.asarray(smooth) >= 128, width)
    core = inside.copy()
    for axis in (0, 1):
        for step in range(1, width + 1):
            core &= np.roll(inside, step, axis) & np.roll(inside, -step, axis)
    return (inside & ~core)[width:-width, width:-width]


def png(picture: Image.Image) -> str:
    """Return a picture as a page holds it: PNG in base64."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
