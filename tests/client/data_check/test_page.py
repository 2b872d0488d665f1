"""The contact sheet shows every patient to the site's own eyes, and the counts show none to anybody."""

from __future__ import annotations

import base64
import io
import json
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from client import drawing
from client.data_check import Kind, examine
from client.data_check.counts import write_counts
from client.data_check.page import SIDE, write_page
from client.site_config import SiteConfig, load_site
from common.errors import RelayError
from tests.support.hospitals import patient, write_pair, write_site

PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
ODD, GOOD = "Jürgen <b>Müller", "Erika-Mustermann-1951"


def write(folder: Path, name: str, seed: int, *, gap: bool = False) -> None:
    """A patient whose gland has the size of one: pixels of 1.5 mm."""
    image, mask = patient(seed, slices=9)
    if gap:
        mask[4] = 0
    write_pair(folder, name, image, mask)
    for path in folder.glob(f"{name}*"):
        volume = sitk.ReadImage(str(path))
        volume.SetSpacing((1.5, 1.5, 3.0))
        sitk.WriteImage(volume, str(path))


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    """Four patients: one is odd, one cannot be used."""
    images = tmp_path / "geheime Klinik" / "images"
    for seed, name in enumerate((GOOD, "p1", "p2", "Damaged-Patient")):
        write(images, name, seed)
    (images / "Damaged-Patient.nii.gz").write_bytes(b"")
    write(images, ODD, 9, gap=True)
    return load_site(write_site(tmp_path / "geheime Klinik", "B", minimum_patients=2, patient_scores=False))


def test_every_patient_is_shown_and_the_suspicious_first(site: SiteConfig) -> None:
    text = write_page(site, examine(site)).read_text(encoding="utf-8")
    assert "must stay at the site" in text
    assert "<b>" not in text and "Jürgen &lt;b&gt;" in text
    order = [text.index(word) for word in ("Damaged-Patient", "To look at", "Jürgen", "Nothing found", GOOD)]
    assert order == sorted(order)
    assert "slice 5 is without a mask" in text
    assert "Damaged-Patient.nii.gz cannot be read" in text
    shown = PICTURE.findall(text)
    assert len(shown) == 4 * 9
    for picture in shown:
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (SIDE, SIDE)


def test_the_page_needs_nothing_else_and_only_its_owner_may_read_it(site: SiteConfig) -> None:
    path = write_page(site, examine(site))
    assert path == site.folder / "checkup.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(site.folder.stat().st_mode) == 0o700
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "http" not in text and "<script" not in text


def test_a_contour_is_drawn_where_the_mask_ends() -> None:
    rows, columns = np.mgrid[:60, :60]
    discs = [np.hypot(rows - 29.5, columns - column) < 15 for column in (25, 34)]
    picture = drawing.draw(
        np.full((60, 60), 100, np.uint8), [(discs[0], drawing.FIRST), (discs[1], drawing.SECOND)], side=180
    )
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour, column in ((drawing.FIRST, 25), (drawing.SECOND, 34)):
        down, across = np.nonzero((pixels == colour).all(axis=2))
        away = np.hypot((down + 0.5) / 3 - 0.5 - 29.5, (across + 0.5) / 3 - 0.5 - column)
        assert len(down) > 300
        assert np.abs(away - 14.6).max() < 1.1
    assert (pixels == drawing.BOTH).all(axis=2).any()
    grey = pixels[0, 0]
    assert len(set(grey)) == 1 and abs(grey[0] - 100) < 4


def test_the_counts_hold_no_name_no_path_and_no_value_of_a_patient(site: SiteConfig, tmp_path: Path) -> None:
    checkup = examine(site).checkup
    path = tmp_path / "counts.json"
    write_counts(path, [(site, checkup)])
    content = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for secret in ("Jürgen", "Müller", "Erika", "Mustermann", "1951", "p1", "p2", "Damaged", "nii", "geheim", "Klinik",
                   "images", str(tmp_path), "/", "mask is", "nifti"):  # fmt: skip
        assert secret.encode() not in content
        assert json.dumps(secret)[1:-1].encode() not in content
    for one in checkup.patients:
        for value in (one.digest, one.mask_digest, f"{one.gland_ml:.1f}", f"{one.intensity:.1f}"):
            assert value.encode() not in content


def test_the_counts_are_counts_and_say_what_the_check_up_says(site: SiteConfig, tmp_path: Path) -> None:
    checkup = examine(site).checkup
    write_counts(tmp_path / "counts.json", [(site, checkup)])
    content = json.loads((tmp_path / "counts.json").read_text())
    (entry,) = content["sites"]
    assert set(content) == {"what", "version", "sites"}
    assert set(entry) == {"site", "patients", "slices", "faults", "whole_site"}
    assert entry["site"] == "B"
    assert entry["patients"] == {"usable": 4, "unusable": 1, "to_look_at": 1}
    assert entry["slices"] == {
        "minimum_pixels": 200,
        "above": sum(one.slices for one in checkup.patients),
        "at": sum(one.slices_at for one in checkup.patients),
        "below": sum(one.slices_below for one in checkup.patients),
    }
    assert set(entry["faults"]) == {kind.value for kind in Kind}
    for counts in entry["faults"].values():
        assert set(counts) == {"compared", "found", "hidden", "undecided"}
        assert all(type(count) is int for count in counts.values())
    assert entry["faults"]["mask-extent"]["found"] == 1
    assert entry["faults"]["unusable"] == {"compared": 5, "found": 1, "hidden": 0, "undecided": 0}


def test_no_counts_are_written_of_fewer_patients_than_the_site_s_file_demands(site: SiteConfig, tmp_path: Path) -> None:
    strict = site.model_copy(update={"minimum_patients": 6})
    with pytest.raises(RelayError, match="at least 6 behind any number"):
        write_counts(tmp_path / "counts.json", [(strict, examine(site).checkup)])
    assert not (tmp_path / "counts.json").exists()
