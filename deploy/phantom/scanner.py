"""Turn tissues into a scanner's pixel values: contrast, coil, blur, noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deploy.phantom.anatomy import Anatomy
from deploy.phantom.gland import Grid
from deploy.phantom.pelvis import Tissue

__all__ = ["Scanner", "acquire", "signals"]


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """Describe a sequence on a machine."""

    manufacturer: str
    model: str
    field: float
    """Field strength in tesla."""
    repetition: float
    """Repetition time in ms."""
    echo: float
    """Echo time in ms."""
    coil: Literal["surface", "endorectal", "body"]
    noise: float
    """Standard deviation of the noise in each channel, relative to the signal of pure water."""
    blur: float
    """Standard deviation of the in-plane point spread, in mm."""
    scale: float
    """The stored value of a signal of 1."""
    largest: int
    """The largest stored value."""


# Proton density, T1 at 1.5 T, T1 at 3 T, T2; times in ms. After de Bazelaire et al., Radiology 2004 (pelvis) and
# Stanisz et al., MRM 2005; the T2 of fat is the apparent T2 in a turbo spin echo train, which is longer.
_RELAXATION: dict[Tissue, tuple[float, float, float, float]] = {
    Tissue.FAT: (0.95, 290, 370, 185),
    Tissue.MUSCLE: (0.82, 1000, 1300, 43),
    Tissue.CORTEX: (0.10, 300, 300, 40),
    Tissue.MARROW: (0.85, 420, 520, 135),
    Tissue.SKIN: (0.60, 900, 1000, 45),
    Tissue.VESSEL: (0.12, 1400, 1700, 60),
    Tissue.PLEXUS: (0.85, 600, 800, 140),
    Tissue.LEVATOR: (0.82, 1000, 1300, 46),
    Tissue.BLADDER_WALL: (0.80, 1000, 1200, 52),
    Tissue.URINE: (1.00, 3200, 3600, 700),
    Tissue.RECTAL_WALL: (0.85, 1000, 1200, 62),
    Tissue.STOOL: (0.45, 700, 800, 45),
    Tissue.VESICLE: (0.95, 1600, 1800, 185),
    Tissue.CAPSULE: (0.75, 1000, 1200, 55),
    Tissue.PERIPHERAL: (0.95, 1400, 1650, 150),
    Tissue.CENTRAL: (0.88, 1200, 1450, 88),
    Tissue.STROMA: (0.80, 1000, 1300, 55),
    Tissue.URETHRA: (0.92, 1500, 1700, 130),
    Tissue.CARTILAGE: (0.80, 1000, 1200, 75),
    Tissue.BALLOON: (0.05, 3000, 3000, 30),
}


def signals(scanner: Scanner, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the spin-echo signal of every tissue, indexed by `Tissue`.

    A patient's T2 of a tissue varies about the mean by a tenth.
    """
    values = np.zeros(len(Tissue), np.float32)
    for tissue, (density, t1_low, t1_high, t2) in _RELAXATION.items():
        t1 = t1_low if scanner.field < 2 else t1_high
        t2 = t2 * float(np.exp(rng.normal(0, 0.10)))
        values[tissue] = density * (1 - np.exp(-scanner.repetition / t1)) * np.exp(-scanner.echo / t2)
    return values


def _sensitivity(
    scanner: Scanner, anatomy: Anatomy, grid: Grid, rng: np.random.Generator
) -> Callable[[int], NDArray[np.float32]]:
    """Return the receiving coil's smooth multiplicative field, as a function from slice number to (rows, columns)."""
    heights, y, x = grid.axis(0), grid.axis(1)[:, None], grid.axis(2)[None, :]
    tilt = rng.normal(0, 0.0009, 3).astype(np.float32)
    draws = rng.uniform(0, 1, 4).astype(np.float32)

    def gentle(z: np.float32) -> NDArray[np.float32]:
        return np.asarray(1 + tilt[0] * z + tilt[1] * y + tilt[2] * x, dtype=np.float32)

    def endorectal(index: int) -> NDArray[np.float32]:
        # the coil lies along z in the front half of the balloon, and is about 45 mm long
        coil_y, coil_x = np.float32(anatomy.coil[0] - 8), np.float32(anatomy.coil[1])
        beyond = max(0.0, abs(float(heights[index] - 6 * draws[0] + 3)) - 22)
        square = (y - coil_y) ** 2 + (x - coil_x) ** 2 + np.float32(2 * beyond**2)
        distance = 1 + square / (25 + 6 * draws[1]) ** 2
        return gentle(heights[index]) * (np.float32(0.20) + np.float32(3.0) / (distance * np.sqrt(distance)))

    def surface(index: int) -> NDArray[np.float32]:
        # the coil's arrays lie in front and behind, so that the middle of the body is the darkest
        depth = (y - 8) / (95 + 20 * draws[0])
        return gentle(heights[index]) * (np.float32(0.92) + np.float32(0.55) * depth**2)

    def body(index: int) -> NDArray[np.float32]:
        # standing waves at 3 T brighten the centre and shade the flanks
        shade = ((y + 24 * draws[0] - 12) / 150) ** 2 + ((x + 30 * draws[1] - 15) / 190) ** 2
        field: NDArray[np.float32] = gentle(heights[index]) * (np.float32(1.08) - np.float32(0.42) * shade)
        return field.clip(0.35)

    return {"endorectal": endorectal, "surface": surface, "body": body}[scanner.coil]


def acquire(anatomy: Anatomy, grid: Grid, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Scan a pelvis: return pixel values as the scanner stores them, with Rician noise.

    In endorectal images noise is the same everywhere, while the signal falls off with distance from the coil.

    Args:
        anatomy: the pelvis.
        grid: the grid of the pelvis.
        scanner: the sequence.
        rng: the source of the noise, the coil's field and the patient's T2.

    Returns:
        Pixel values, (slices, rows, columns).
    """
    table = signals(scanner, rng)
    coil = _sensitivity(scanner, anatomy, grid, rng)
    stored = np.empty(grid.shape, np.uint16)
    sigma = (scanner.blur / grid.spacing[1], scanner.blur / grid.spacing[2])
    for index in range(grid.shape[0]):
        signal = table[anatomy.tissue[index]] * anatomy.factor[index]
        signal = ndimage.gaussian_filter(signal, sigma, truncate=3.0) * coil(index)
        noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(scanner.noise)
        magnitude = np.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2)
        stored[index] = np.clip(np.rint(magnitude * scanner.scale), 0, scanner.largest)
    return stored
