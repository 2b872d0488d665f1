"""Describe the male pelvis around the prostate by outlines at three levels, and interpolate between the levels.

Coordinates are mm in the gland's frame, (x towards the left, y towards the back), of the patient's left side; the right
side is its mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["PAIRED", "Paired", "Tissue", "smooth_closed"]

LEVELS = (-38.0, 0.0, 38.0)
"""Heights in mm: below the apex, through the gland's middle, through the bladder."""

Points = NDArray[np.float64]


class Tissue(IntEnum):
    """Name the tissue of a voxel."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    CORTEX = 3
    MARROW = 4
    SKIN = 5
    VESSEL = 6
    PLEXUS = 7
    """Loose tissue and veins around the prostate."""
    LEVATOR = 8
    BLADDER_WALL = 9
    URINE = 10
    RECTAL_WALL = 11
    STOOL = 12
    VESICLE = 13
    CAPSULE = 14
    PERIPHERAL = 15
    CENTRAL = 16
    STROMA = 17
    """Anterior fibromuscular stroma."""
    URETHRA = 18
    CARTILAGE = 19
    BALLOON = 20


@dataclass(frozen=True)
class Paired:
    """Describe a structure of both sides, by the same number of outline points at each of the three levels."""

    tissue: Tissue
    low: list[tuple[float, float]]
    middle: list[tuple[float, float]]
    high: list[tuple[float, float]]
    start: float = -200.0
    end: float = 200.0
    rim: float = 0.0
    """Thickness in mm of the cortical bone around the structure."""
    reach: tuple[float, ...] = ()
    """How far each point moves inwards to meet a small gland, from 0 to 1; a large gland moves all points outwards."""

    def at(self, z: float) -> Points:
        """Return the outline points at height z (mm), of the shape (points, 2)."""
        keys = np.array([self.low, self.middle, self.high], dtype=np.float64)
        place = float(np.interp(z, LEVELS, (0.0, 1.0, 2.0)))
        lower = min(int(place), 1)
        return keys[lower] + (place - lower) * (keys[lower + 1] - keys[lower])


@cache
def _blend(points: int, samples: int) -> NDArray[np.float64]:
    """Return the weight of each point in each sample of a closed uniform Catmull-Rom spline: (samples, points)."""
    place = np.arange(samples) * points / samples
    first, t = place.astype(int), place % 1.0
    weights = np.zeros((samples, points))
    cubic = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    for offset, weight in zip((-1, 0, 1, 2), cubic, strict=True):
        np.add.at(weights, (np.arange(samples), (first + offset) % points), weight / 2)
    return weights


def smooth_closed(points: Points, samples: int = 48) -> Points:
    """Return a smooth closed curve through points.

    Args:
        points: x and y of each point, (n, 2).
        samples: the number of points on the curve.

    Returns:
        x and y of each sample, (samples, 2).
    """
    return np.asarray(_blend(len(points), samples) @ points)


# Structures are painted in this order, later structures over earlier structures.
PAIRED = (
    Paired(  # gluteus maximus
        Tissue.MUSCLE,
        [(13, 70), (45, 66), (84, 60), (130, 48), (146, 70), (100, 92), (45, 97), (16, 88)],
        [(13, 80), (40, 72), (80, 58), (125, 40), (152, 58), (112, 92), (50, 100), (16, 97)],
        [(10, 90), (35, 78), (75, 60), (120, 36), (154, 48), (116, 88), (50, 103), (14, 104)],
    ),
    Paired(  # adductors and obturator externus below, iliopsoas and pectineus above
        Tissue.MUSCLE,
        [(9, -40), (26, -30), (48, 2), (76, 36), (118, 38), (132, -10), (110, -62), (45, -64)],
        [(38, -50), (52, -38), (70, -33), (104, -30), (128, -38), (120, -62), (86, -66), (52, -62)],
        [(50, -44), (60, -36), (80, -33), (108, -38), (124, -52), (106, -74), (78, -72), (58, -60)],
    ),
    Paired(  # sartorius and rectus femoris
        Tissue.MUSCLE,
        [(92, -66), (112, -58), (132, -60), (140, -74), (120, -82), (98, -80)],
        [(94, -70), (112, -66), (134, -68), (140, -80), (122, -88), (100, -84)],
        [(106, -76), (122, -72), (136, -70), (142, -80), (128, -90), (112, -86)],
    ),
    Paired(  # gluteus medius, tensor of the fascia lata
        Tissue.MUSCLE,
        [(140, -35), (150, -45), (160, -20), (162, 15), (152, 34), (146, 5)],
        [(124, -35), (142, -52), (158, -28), (160, 18), (142, 36), (130, 8)],
        [(118, -40), (140, -58), (160, -30), (160, 14), (136, 32), (122, 4)],
    ),
    Paired(  # quadratus femoris and gemelli, behind the hip
        Tissue.MUSCLE,
        [(80, 40), (98, 26), (124, 26), (132, 42), (110, 54), (88, 56)],
        [(76, 46), (94, 28), (120, 22), (132, 36), (108, 50), (84, 58)],
        [(70, 48), (90, 32), (114, 18), (130, 26), (104, 44), (78, 56)],
    ),
    Paired(  # femoral shaft and trochanter
        Tissue.MARROW,
        [(106, -10), (122, -16), (136, -6), (138, 12), (122, 22), (108, 10)],
        [(100, -8), (118, -14), (136, -4), (138, 14), (120, 24), (102, 14)],
        [(100, -8), (118, -14), (136, -4), (138, 14), (120, 24), (102, 14)],
        end=4.0,
        rim=2.6,
    ),
    Paired(  # ischial tuberosity below, ischium and acetabulum above
        Tissue.MARROW,
        [(57, 47), (60, 38), (68, 34), (78, 36), (86, 46), (82, 59), (70, 63), (60, 57)],
        [(60, -8), (61, -32), (80, -38), (73, -8), (73, 12), (87, 30), (77, 50), (62, 28)],
        [(60, 0), (62, -30), (90, -36), (116, -22), (114, 12), (92, 28), (76, 42), (64, 34)],
        rim=2.0,
    ),
    Paired(  # pubis
        Tissue.MARROW,
        [(2.4, -58), (12, -63), (26, -56), (34, -43), (27, -35), (15, -30), (5, -31), (2.4, -44)],
        [(7, -60), (24, -61), (46, -52), (64, -38), (60, -30), (42, -38), (22, -48), (8, -52)],
        [(20, -60), (34, -60), (50, -52), (66, -38), (62, -32), (46, -40), (34, -50), (22, -54)],
        end=13.0,
        rim=1.6,
    ),
    Paired(  # obturator internus
        Tissue.MUSCLE,
        [(29, -24), (40, -24), (53, 0), (58, 26), (62, 50), (53, 58), (42, 28), (32, 0)],
        [(34, -24), (45, -31), (58, -14), (60, 12), (65, 38), (54, 60), (44, 36), (36, 2)],
        [(47, -30), (54, -30), (60, -8), (60, 15), (66, 37), (56, 56), (50, 28), (47, 0)],
        reach=(1.0, 0.6, 0.0, 0.0, 0.0, 0.0, 0.35, 0.95),
    ),
    Paired(  # rectus abdominis
        Tissue.MUSCLE,
        [(2, -66), (14, -68), (26, -66), (14, -62)],
        [(1.5, -72), (18, -74), (33, -70), (18, -65)],
        [(1.5, -76), (22, -77), (42, -72), (22, -69)],
        start=-14.0,
    ),
)
