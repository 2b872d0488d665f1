"""4. Preparing five real series: cold, warm, and against one-thread N4 at full resolution.

    python -m tests.bench.preprocessing [PAIRS]

A pair a series. The other way is SimpleITK's filter with its defaults (four levels of 50 iterations) on the whole
image, as most pipelines call it, over the foreground that relay fits to. The difference between the corrected images is
the mean absolute one over the body, as a share of the body's mean, after both are brought to the same mean: N4 leaves
the overall brightness open.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.data.layouts import find, read
from client.preprocessing.bias_field import correct_bias_field, foreground
from client.preprocessing.pipeline import prepare
from client.site_config import SiteConfig, load_site
from common.config.study import PreprocessingConfig
from tests.bench.pairs import PAIRS, interleaved, seconds, show, table
from tests.support.hospitals import REAL_DATA, write_site

Image = NDArray[np.float32]
IMAGES, MASKS = REAL_DATA / "prostate3t", REAL_DATA / "nci_isbi_predicted" / "Prostate3T"


def main(pairs: int = PAIRS) -> None:
    if not IMAGES.exists():
        print(f"4. Preprocessing: not measured, since no real series lie in {IMAGES}.")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "labels").mkdir()
        for label in MASKS.glob("Prostate3T-03-000[1-5]_*.nrrd"):
            (folder / "labels" / label.name).symlink_to(label)
        path = write_site(folder, "A", layout="nci-isbi", images=str(IMAGES), masks="labels", cores=0)
        site, rules = load_site(path), PreprocessingConfig()
        cases = [read(source) for source in find(site).sources]
        cold = seconds(lambda: _whole(site, rules))
        warm = statistics.median(seconds(lambda: _whole(site, rules)) for _ in range(pairs))
        made: tuple[list[Image], list[Image]] = ([], [])

        def ours() -> float:
            case = cases[len(made[0]) % len(cases)]
            return seconds(lambda: made[0].append(correct_bias_field(case.image, rules.n4)))

        def full() -> float:
            case = cases[len(made[1]) % len(cases)]
            return seconds(lambda: made[1].append(_full_resolution(case.image)))

        found = interleaved(ours, full, pairs)
        apart = [_apart(cases[k % len(cases)].image, a, b) for k, (a, b) in enumerate(zip(*made, strict=True))]
    shown = table("4. Preparing five real series", "", "relay", "N4 at full size", "ratio", "range of ratios")
    shown.add_row("N4 of one series, one thread, a pair a series", *found.cells())
    shown.add_row(f"all five from files, cold, {os.cpu_count()} cores", f"{cold:.3g} s")
    shown.add_row("all five, warm", f"{warm:.3g} s")
    show(
        shown,
        f"Mean absolute difference of the corrected images: {100 * statistics.median(apart):.2f} % of the body's mean"
        f" (median; at most {100 * max(apart):.2f} %).",
    )


def _whole(site: SiteConfig, rules: PreprocessingConfig) -> None:
    while (prepared := prepare(site, rules)).done != prepared.total:
        time.sleep(0)


def _full_resolution(image: Image) -> Image:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    values = image - min(image.min(), np.float32(0))
    volume, mask = (sitk.GetImageFromArray(part) for part in (values, foreground(values).astype(np.uint8)))
    corrected: Image = sitk.GetArrayFromImage(sitk.N4BiasFieldCorrectionImageFilter().Execute(volume, mask))
    return corrected


def _apart(image: Image, ours: Image, other: Image) -> float:
    body = sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(image), 0, 1, 200)) > 0
    a, b = ours[body] / ours[body].mean(), other[body] / other[body].mean()
    return float(np.abs(a - b).mean())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
