"""Build a patient's pelvis on a grid: a gland, and the surrounding tissues."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from deploy.phantom.gland import CENTRAL, GlandShape, Grid
from deploy.phantom.pelvis import PAIRED, Points, Tissue, smooth_closed
from deploy.phantom.texture import Field

__all__ = ["Anatomy", "Rectum", "surround"]

Rectum = Literal["stool", "gas", "collapsed", "balloon"]


@dataclass(frozen=True)
class Anatomy:
    """Hold a labelled pelvis, as arrays of the shape (slices, rows, columns)."""

    tissue: NDArray[np.uint8]
    """A value of `Tissue` for each voxel."""
    factor: NDArray[np.float32]
    """The factor by which a voxel's texture multiplies its tissue's signal."""
    coil: tuple[float, float]
    """Centre of the rectum at the gland's middle, in mm of the gland's frame: y, x."""


class _Canvas:
    """Paint a slice, in mm of the gland's frame."""

    def __init__(self, grid: Grid) -> None:
        self._corner = np.array([grid.corner[2], grid.corner[1]])
        self._step = np.array([grid.spacing[2], grid.spacing[1]])
        self._image = Image.new("L", (grid.shape[2], grid.shape[1]), int(Tissue.AIR))
        self._draw = ImageDraw.Draw(self._image)

    def _pixels(self, points: Points) -> list[float]:
        """Convert points (n, 2) from mm to pixels, flat as x, y, x, y, …, which Pillow reads fastest."""
        flat: list[float] = np.rint((points - self._corner) / self._step).ravel().tolist()
        return flat

    def fill(self, points: Points, tissue: Tissue) -> None:
        self._draw.polygon(self._pixels(points), fill=int(tissue))

    def line(self, points: Points, tissue: Tissue, width: float) -> None:
        pixels = max(1, round(width / float(self._step[0])))
        self._draw.line(self._pixels(points), fill=int(tissue), width=pixels, joint="curve")

    def outside(self, points: Points, tissue: Tissue) -> None:
        inside = Image.new("1", self._image.size, 1)
        ImageDraw.Draw(inside).polygon(self._pixels(points), fill=0)
        self._image.paste(int(tissue), mask=inside)

    def labels(self) -> NDArray[np.uint8]:
        return np.array(self._image, dtype=np.uint8)


@dataclass(frozen=True)
class _Body:
    """Hold a patient's measures in mm, drawn at random once and used on all slices."""

    size: float
    front: float
    back: float
    push: float
    warp_phase: NDArray[np.float64]
    warp_size: NDArray[np.float64]
    rectum: Rectum
    rectal_radius: float
    rectal_phase: float
    bladder: tuple[float, float, float]
    bladder_z: float
    vessels: NDArray[np.float64]
    vesicles: NDArray[np.float64]
    bundles: NDArray[np.float64]

    def place(self, points: Points, z: float) -> Points:
        """Return where this patient has points of the atlas: displaced smoothly, and scaled to the patient's size.

        Args:
            points: x and y in mm, (n, 2).
            z: the slice's height, mm.
        """
        waves = np.array([0.035, 0.05, 0.08, 0.17, 0.30])
        x, y = points[:, :1], points[:, 1:]
        dx = np.sin(waves * y + self.warp_phase[0] + 0.03 * z) * self.warp_size[0]
        dy = np.sin(waves * x + self.warp_phase[1] + 0.03 * z) * self.warp_size[1]
        return points * self.size + np.stack([dx.sum(1), dy.sum(1)], axis=1)


def _draw_body(rng: np.random.Generator, rectum: Rectum, shape: GlandShape) -> _Body:
    size = float(np.clip(rng.normal(1.0, 0.035), 0.93, 1.07))
    widest = float(shape.half_width.max())
    radius = {
        "balloon": rng.uniform(18, 24), "gas": rng.uniform(13, 21), "stool": rng.uniform(12, 19),
        "collapsed": rng.uniform(8, 11),
    }[rectum]  # fmt: skip
    bladder = (rng.uniform(34, 50), rng.uniform(20, 30), rng.uniform(24, 34))
    vesicles = np.column_stack([
        np.tile([-1.0, 1.0], 30) * rng.uniform(2, 32, 60), rng.uniform(-10, 10, 60),
        rng.uniform(-3, 15, 60), rng.uniform(1.3, 3.0, 60),
    ])  # fmt: skip
    return _Body(
        size=size,
        front=float(np.clip(rng.normal(-96, 6), -110, -88)),
        back=float(rng.normal(112, 6)),
        push=float(np.clip(widest + 7.5 - 36 * size, -11.0, 20.0)),
        warp_phase=rng.uniform(0, 2 * np.pi, (2, 5)),
        warp_size=rng.normal(0, 1, (2, 5)) * np.array([1.6, 1.2, 0.8, 0.7, 0.4]),
        rectum=rectum,
        rectal_radius=float(radius),
        rectal_phase=float(rng.uniform(0, 2 * np.pi)),
        bladder=bladder,
        bladder_z=float(shape.base + 0.45 * bladder[2] + rng.uniform(-5, 3)),
        vessels=rng.normal(0, 2.0, (4, 2)),
        vesicles=vesicles,
        bundles=rng.uniform(0, 1, (26, 4)),
    )


def _circle(x: float, y: float, radius_x: float, radius_y: float | None = None, samples: int = 36) -> Points:
    return _turn(samples) * (radius_x, radius_y or radius_x) + (x, y)


@cache
def _turn(samples: int) -> Points:
    angle = np.linspace(0, 2 * np.pi, samples, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _swollen(points: Points, amount: float) -> Points:
    centre = points.mean(0)
    away = points - centre
    return centre + away * (1 + amount / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6))


def _mirrored(points: Points) -> Points:
    return points * np.array([-1.0, 1.0])


def _rectum_at(body: _Body, shape: GlandShape, index: int, z: float) -> tuple[float, float, float, float]:
    """Return the rectum on a slice, in mm: centre x, centre y, half axis x, half axis y."""
    radius = body.rectal_radius
    wave = np.sin(z / 13 + body.rectal_phase)
    below = np.clip((shape.apex + 4 - z) / 16, 0, 1)
    above = np.clip((z - shape.base) / 30, 0, 1)
    if body.rectum == "balloon":
        reach = np.clip(1 - (abs(z - 2) / 46) ** 4, 0.05, 1) ** 0.5
        half_x, half_y = radius * reach * 1.12, radius * reach * 0.95
    else:
        half_x, half_y = radius * (1 + 0.16 * wave), radius * (0.85 - 0.12 * wave)
    # the anal canal is narrow, and runs obliquely in front of the rectum's back wall
    half_x = half_x * (1 - below) + 7.0 * below
    half_y = half_y * (1 - below) + 8.5 * below
    y = float(shape.back[index]) + 1.5 + half_y + 14 * above + 2 * below
    x = 0.5 * float(shape.centre[index]) + 1.5 * np.sin(z / 21 + 2 * body.rectal_phase)
    return float(x), float(y), float(half_x), float(half_y)


def _paint_frame(canvas: _Canvas, body: _Body, z: float) -> None:
    """Paint everything outside the pelvic floor: skin, fat, muscles, bones and large vessels."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    cosine, sine = np.cos(angle), np.sin(angle)
    half, middle = (body.back - body.front) / 2, (body.back + body.front) / 2
    skin = np.stack(
        [183 * body.size * np.sign(cosine) * np.abs(cosine) ** 0.8,
         middle + half * np.sign(sine) * np.abs(sine) ** 0.62], axis=1,
    )  # fmt: skip
    canvas.fill(skin, Tissue.FAT)
    for structure in PAIRED:
        if not structure.start <= z <= structure.end:
            continue
        points = structure.at(z)
        if structure.reach:
            points[:, 0] += 0.8 * max(body.push, 0.0) + min(body.push, 0.0) * np.array(structure.reach)
        left = smooth_closed(points)
        for side in (left, _mirrored(left)):
            points = body.place(side, z)
            if structure.rim:
                canvas.fill(_swollen(points, structure.rim), Tissue.CORTEX)
            canvas.fill(points, structure.tissue)
    head = 24.5**2 - (z - 10) ** 2
    for sign in (-1, 1):
        if head > 0:
            centre = body.place(np.array([[sign * 91.0, -6.0]]), z)[0]
            radius = float(np.sqrt(head)) * body.size
            canvas.fill(_circle(centre[0], centre[1], radius + 3.6), Tissue.CORTEX)
            canvas.fill(_circle(centre[0], centre[1], radius + 2.6), Tissue.CARTILAGE)
            canvas.fill(_circle(centre[0], centre[1], radius + 1.4), Tissue.CORTEX)
            canvas.fill(_circle(centre[0], centre[1], radius), Tissue.MARROW)
        for number, (x, y, radius) in enumerate(((50, -63, 5.0), (61, -59, 4.2))):
            jitter = body.vessels[number + (2 if sign > 0 else 0)]
            centre = body.place(np.array([[sign * x, y - 0.12 * z]]) + jitter, z)[0]
            canvas.fill(_circle(centre[0], centre[1], radius + 1.0), Tissue.RECTAL_WALL)
            canvas.fill(_circle(centre[0], centre[1], radius), Tissue.VESSEL)
        if z < 12:  # spermatic cord
            centre = body.place(np.array([[sign * (24 + 0.25 * z), body.front + 14]]), z)[0]
            canvas.fill(_circle(centre[0], centre[1], 6.5, 4.5), Tissue.RECTAL_WALL)
            canvas.fill(_circle(centre[0], centre[1], 5.2, 3.4), Tissue.PLEXUS)
    if z > 4:  # coccyx
        centre = body.place(np.array([[0.0, 86.0 - 0.1 * (z - 20)]]), z)[0]
        canvas.fill(_circle(centre[0], centre[1], 8.5, 4.8), Tissue.CORTEX)
        canvas.fill(_circle(centre[0], centre[1], 7.0, 3.4), Tissue.MARROW)
    canvas.outside(skin, Tissue.AIR)
    canvas.line(np.vstack([skin, skin[:1]]), Tissue.SKIN, 2.2)
    cleft = np.array([[0.0, 88.0 + 0.3 * max(z, -20)], [0.5, 100.0], [0.0, body.back + 6]])
    if cleft[0, 1] < 100:
        canvas.line(cleft, Tissue.SKIN, 3.4)
        canvas.line(cleft, Tissue.AIR, 1.4)


def _paint_viscera(canvas: _Canvas, body: _Body, shape: GlandShape, index: int, z: float) -> None:
    """Paint the pelvic floor and its organs, except the gland."""
    centre, half = float(shape.centre[index]), float(shape.half_width[index])
    front, back = float(shape.front[index]), float(shape.back[index])
    x, y, rectal_x, rectal_y = _rectum_at(body, shape, index, z)
    below = float(np.clip((shape.apex + 3 - z) / 12, 0, 1))
    above = float(np.clip((z - shape.base) / 15, 0, 1))
    half = half * (1 - below) + 9 * below + 10 * above
    front = front + 5 * below
    wide = half + 5.5
    side = [
        (0.35 * wide, front - 11), (0.9 * wide, front - 4), (wide, (front + back) / 2),
        (max(0.9 * wide, rectal_x + 4), back + 1), (rectal_x + 4.5, y),
        (0.7 * rectal_x + 2, y + 0.75 * rectal_y), (1.5, y + rectal_y + 7),
    ]  # fmt: skip
    right = np.array(side)
    shift = np.array([centre, 0.0])
    ring = np.vstack([right, _mirrored(right)[::-1]]) + shift
    hull = smooth_closed(ring, 90)
    if below > 0.6:  # sphincter and perineal muscles close up under the gland
        canvas.fill(hull, Tissue.LEVATOR)
    else:
        canvas.fill(hull, Tissue.PLEXUS)
        sling = smooth_closed(ring, 140)
        behind = sling[:, 1] > (front + back) / 2 - 6
        start = int(np.flatnonzero(~behind)[-1] + 1) if (~behind).any() else 0
        ordered = np.roll(sling, -start, axis=0)
        ordered = ordered[ordered[:, 1] > (front + back) / 2 - 6]
        canvas.line(ordered, Tissue.LEVATOR, 2.6 + 2.5 * below)
        tail = np.array([[centre, y + rectal_y + 5], [centre, y + rectal_y + 17]])
        canvas.line(tail, Tissue.LEVATOR, 2.6)
    for along, apart, size, drift in body.bundles:  # veins, and the neurovascular bundles at 5 and 7 o'clock
        turn = 2 * np.pi * (along + 0.05 * np.sin(z / 9 + 6 * drift))
        place = (
            centre + (half + 1.5 + 3.5 * apart) * np.cos(turn),
            (front + back) / 2 + ((back - front) / 2 + 1.5 + 4 * apart) * np.sin(turn),
        )
        vein = Tissue.VESICLE if drift > 0.6 else Tissue.VESSEL
        canvas.fill(_circle(*place, 0.8 + 1.6 * size, samples=14), vein)

    reach = 1 - ((z - body.bladder_z) / body.bladder[2]) ** 2
    if reach > 0.02:
        scale = float(np.sqrt(reach))
        forward = min(front, -14.0) + 4 - 9 * min(1.0, max(0.0, 1 - (z - shape.base) / 12))
        sac = _circle(0.6 * centre, forward, body.bladder[0] * scale, body.bladder[1] * scale, 60)
        low = sac[:, 1] > forward
        sac[low, 1] = forward + 0.6 * (sac[low, 1] - forward)
        sac[:, 1] += 0.10 * np.abs(sac[:, 0])
        sac = body.place(sac, z)
        canvas.fill(_swollen(sac, 4.0), Tissue.BLADDER_WALL)
        canvas.fill(sac, Tissue.URINE)

    vesicle_z = z - (shape.base - 4)
    for vx, vy, vz, radius in body.vesicles:
        cut = radius**2 * 4 - (vesicle_z - vz) ** 2
        if cut > 0:
            seen = min(radius, 0.55 * float(np.sqrt(cut)))
            vy = y - rectal_y - 7.5 + 0.4 * vy + 0.12 * abs(vx)
            canvas.fill(_circle(centre + vx, vy, seen * 1.4 + 0.6, seen + 0.6, 16), Tissue.CAPSULE)
            canvas.fill(_circle(centre + vx, vy, seen * 1.4, seen, 16), Tissue.VESICLE)

    wobble = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    shape_of = 1 + 0.07 * np.cos(2 * wobble + body.rectal_phase + z / 17) + 0.05 * np.cos(3 * wobble + z / 11)
    if body.rectum == "balloon":
        shape_of = 1 + 0.3 * (shape_of - 1)
    bowel = _turn(len(wobble)) * shape_of[:, None] * (rectal_x, rectal_y) + (x, y)
    canvas.fill(bowel, Tissue.RECTAL_WALL)
    wall = 1.6 if body.rectum == "balloon" else 2.8
    if body.rectum == "collapsed" or below > 0.7:
        canvas.fill(_circle(x, y, 0.45 * rectal_x, 0.2 * rectal_y), Tissue.STOOL)
    else:
        lumen = {"balloon": Tissue.BALLOON, "gas": Tissue.AIR}.get(body.rectum, Tissue.STOOL)
        canvas.fill(_swollen(bowel, -wall), lumen)


def _put_gland(labels: NDArray[np.uint8], zones: NDArray[np.uint8], level: float) -> None:
    """Write a slice's zones over its labels, with capsule, anterior stroma and urethra; `labels` is changed in place.

    Args:
        labels: tissues of the slice, (rows, columns).
        zones: zones of the slice, (rows, columns).
        level: the slice's height in the gland: -1 at the apex, 1 at the base.
    """
    inside = zones > 0
    if not inside.any():
        return
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    window = np.s_[max(rows[0] - 3, 0) : rows[-1] + 4, max(columns[0] - 3, 0) : columns[-1] + 4]
    inside, central, target = inside[window], zones[window] == CENTRAL, labels[window]
    target[ndimage.binary_dilation(inside) & ~inside] = Tissue.CAPSULE
    target[inside] = Tissue.PERIPHERAL
    target[central] = Tissue.CENTRAL
    # the surgical capsule lies between the zones
    deep = ndimage.binary_erosion(inside, iterations=2)
    target[central & ~ndimage.binary_erosion(central) & deep] = Tissue.CAPSULE
    height, width = inside.shape
    y, x = np.mgrid[0:height, 0:width]
    middle = np.average(x, weights=inside)
    front = (y - rows[0] + window[0].start) / max(1, rows[-1] - rows[0])
    across = np.abs(x - middle) / max(1, (columns[-1] - columns[0]) / 2)
    target[inside & (front < 0.16 - 0.5 * across**2 + 0.05 * level)] = Tissue.STROMA
    depth = 0.42 - 0.12 * level
    near = (across / 0.07) ** 2 + ((front - depth) / 0.085) ** 2
    target[inside & (near < 2.4)] = Tissue.STROMA if level < 0.2 else Tissue.CENTRAL
    target[inside & (near < 0.9)] = Tissue.URETHRA


def _nodules(factor: NDArray[np.float32], zones: NDArray[np.uint8], grid: Grid, rng: np.random.Generator) -> None:
    """Put nodules of benign hyperplasia into the central gland, in place: mixed signal with dark rims."""
    central = np.argwhere(zones == CENTRAL)
    if not len(central):
        return
    ml = len(central) * float(np.prod(grid.spacing)) / 1000
    z, y, x = (grid.axis(axis) for axis in range(3))
    for _ in range(int(np.clip(0.9 * ml, 6, 70))):
        centre = central[rng.integers(len(central))]
        radius, stretch = rng.gamma(4.0, 1.2) + 1.5, rng.uniform(0.8, 1.25)
        # stromal nodules are dark, glandular ones bright, most are mixed
        low, high = ((0.5, 0.8), (0.85, 1.2), (1.2, 1.9))[int(rng.choice(3, p=[0.3, 0.4, 0.3]))]
        gain = float(rng.uniform(low, high))
        for index in np.flatnonzero(np.abs(z - z[centre[0]]) < radius):
            rows = np.flatnonzero(np.abs(y - y[centre[1]]) < radius * 1.3 + 1)
            columns = np.flatnonzero(np.abs(x - x[centre[2]]) < radius * 1.3 + 1)
            window = np.s_[index, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            away = np.sqrt(
                ((y[rows] - y[centre[1]]) * stretch)[:, None] ** 2
                + ((x[columns] - x[centre[2]]) / stretch)[None, :] ** 2
                + (z[index] - z[centre[0]]) ** 2
            )
            inner = np.clip((radius - away) / 0.6, 0, 1)
            rim = np.exp(-(((away - radius) / 0.5) ** 2)) * 0.38
            change = (1 + (gain - 1) * inner) * (1 - rim)
            here = zones[window] == CENTRAL
            factor[window] = np.where(here, np.clip(factor[window] * change, 0.35, 2.4), factor[window])


# The strength of each texture field in a tissue: smooth clouds, fine grain, dark strands, bright strands.
_TEXTURE: dict[Tissue, tuple[float, float, float, float]] = {
    Tissue.FAT: (0.05, 0.03, 0.42, 0.0),
    Tissue.MUSCLE: (0.22, 0.18, 0.0, 2.2),
    Tissue.MARROW: (0.16, 0.06, 0.10, 0.0),
    Tissue.PLEXUS: (0.25, 0.22, 0.60, 0.4),
    Tissue.LEVATOR: (0.15, 0.12, 0.0, 0.5),
    Tissue.BLADDER_WALL: (0.12, 0.08, 0.0, 0.0),
    Tissue.URINE: (0.03, 0.0, 0.0, 0.0),
    Tissue.RECTAL_WALL: (0.18, 0.16, 0.0, 0.6),
    Tissue.STOOL: (0.35, 0.45, 0.0, 3.0),
    Tissue.VESICLE: (0.18, 0.10, 0.2, 0.0),
    Tissue.PERIPHERAL: (0.13, 0.10, 0.28, 0.0),
    Tissue.CENTRAL: (0.16, 0.14, 0.15, 0.25),
    Tissue.STROMA: (0.12, 0.12, 0.0, 0.4),
}


def surround(
    zones: NDArray[np.uint8], shape: GlandShape, grid: Grid, rng: np.random.Generator, *, rectum: Rectum
) -> Anatomy:
    """Build the pelvis around a gland, whether the gland was drawn or comes from a mask.

    Args:
        zones: 0, PERIPHERAL or CENTRAL for each voxel of the grid, (slices, rows, columns).
        shape: the gland's outline, which the surrounding tissues follow.
        grid: the grid of `zones` and of the result.
        rng: the source of the patient's random measures and textures.
        rectum: the content of the rectum.
    """
    body = _draw_body(rng, rectum, shape)
    tissue = np.empty(grid.shape, np.uint8)
    factor = np.empty(grid.shape, np.float32)
    strengths = np.zeros((4, len(Tissue)), np.float32)
    for kind, values in _TEXTURE.items():
        strengths[:, kind] = values
    clouds = Field(grid, rng, pitch=(7.0, 7.0), depth=7.0)
    grain = Field(grid, rng, pitch=(1.5, 1.5), depth=2.0)
    strands = Field(grid, rng, pitch=(5.5, 4.0), depth=5.0)
    fibres = Field(grid, rng, pitch=(2.8, 9.0), depth=6.0)
    half_height = max(1.0, (shape.base - shape.apex) / 2)
    for index, z in enumerate(grid.axis(0).astype(float)):
        canvas = _Canvas(grid)
        _paint_frame(canvas, body, z)
        _paint_viscera(canvas, body, shape, index, z)
        labels = canvas.labels()
        _put_gland(labels, zones[index], float(np.clip((z - shape.apex) / half_height - 1, -1, 1)))
        tissue[index] = labels
        cloud, fine = clouds.next(), grain.next()
        dark = np.exp(-((strands.next() / 0.10) ** 2))
        bright = np.exp(-((fibres.next() / 0.13) ** 2))
        weight = [strength[labels] for strength in strengths]
        smooth = 1 + weight[0] * cloud + weight[1] * fine
        factor[index] = smooth * (1 - weight[2] * dark) + weight[3] * bright
    np.clip(factor, 0.05, 4.0, out=factor)
    _nodules(factor, zones, grid, rng)
    middle = int(np.argmin(np.abs(grid.axis(0))))
    x, y, _, _ = _rectum_at(body, shape, middle, 0.0)
    return Anatomy(tissue=tissue, factor=factor, coil=(y, x))
