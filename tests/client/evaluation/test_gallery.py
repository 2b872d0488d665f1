"""The site's own page shows what it should, replaces what it showed, and stays closed to others."""

from __future__ import annotations

import base64
import io
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from client.evaluation import gallery
from client.evaluation.evaluate import Example
from client.evaluation.gallery import add_to_page, draw
from client.site_config import SiteConfig

SIZE = 64


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return SiteConfig(name="A", layout="nifti-pairs", images=tmp_path / "images", folder=tmp_path / "private")


def disc(row: float, column: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


def example(dice: float, *, patient: str = "Mueller", number: int = 4) -> Example:
    image = np.random.default_rng(number).normal(100, 20, (SIZE, SIZE)).astype(np.float32)
    return Example(patient, number, image, disc(30, 30, 7), disc(30, 36, 7), dice)


def add(site: SiteConfig, stage: str, dices: list[float], title: str = "B → A") -> str:
    page = add_to_page(
        site, title=title, stage=stage, examples=[example(dice, number=k) for k, dice in enumerate(dices)]
    )
    return page.read_text(encoding="utf-8")


def captions(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"Dice ([\d.]+) %", text)]


def test_the_three_worst_and_the_three_best_are_shown(site: SiteConfig) -> None:
    text = add(site, "one", [0.5, 0.9, 0.1, 0.8, 0.3, 0.7, 0.95, 0.6])
    assert captions(text) == [10.0, 30.0, 50.0, 95.0, 90.0, 80.0]


def test_no_slice_is_shown_twice_where_there_are_few(site: SiteConfig) -> None:
    assert captions(add(site, "one", [0.5, 0.9, 0.1, 0.8])) == [10.0, 50.0, 80.0, 90.0]
    assert captions(add(site, "one", [])) == []


def test_the_same_stage_is_replaced_and_another_joins_it(site: SiteConfig) -> None:
    add(site, "one", [0.5])
    add(site, "two", [0.25], title="C → A")
    text = add(site, "one", [0.75])
    assert sorted(captions(text)) == [25.0, 75.0]
    assert text.count("<section>") == 2
    assert "B → A" in text and "C → A" in text


def test_old_models_make_room_for_new_ones(site: SiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MODELS", 3)
    for k in range(6):
        text = add(site, f"stage {k}", [k / 10])
    assert sorted(captions(text)) == [30.0, 40.0, 50.0]
    assert len(list((site.folder / "page").glob("*.json"))) == 3


def test_the_page_needs_nothing_else_and_says_that_it_must_stay(site: SiteConfig) -> None:
    text = add(site, "one", [0.5, 0.75])
    assert "must stay at the site" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    assert len(pictures) == 2
    for picture in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (gallery.SIDE, gallery.SIDE)


def test_only_its_owner_may_read_it(site: SiteConfig) -> None:
    add(site, "one", [0.5])
    assert stat.S_IMODE((site.folder / "page.html").stat().st_mode) == 0o600
    assert stat.S_IMODE(site.folder.stat().st_mode) == 0o700


def test_a_name_with_markup_in_it_is_shown_as_text(site: SiteConfig) -> None:
    page = add_to_page(site, title="a<b>", stage="<i>", examples=[example(0.5, patient="<script>x</script>")])
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text and "<i>" not in text and "&lt;script&gt;" in text


def test_a_damaged_note_of_a_model_costs_that_model_alone(site: SiteConfig) -> None:
    add(site, "one", [0.5])
    (note,) = (site.folder / "page").glob("*.json")
    note.write_text('{"title": "cut sh', encoding="utf-8")
    assert captions(add(site, "two", [0.75])) == [75.0]


def test_both_outlines_are_drawn_where_they_run() -> None:
    pixels = np.asarray(draw(example(0.5)).convert("RGB")).astype(int)
    for colour, column in ((gallery.EXPERT, 30), (gallery.PREDICTED, 36)):
        rows, columns = np.nonzero((pixels == colour).all(axis=2))
        # The picture shows half of the slice: 32 pixels from row 14 and from column 17 on.
        scale = pixels.shape[0] / 32
        distance = np.hypot((rows + 0.5) / scale + 13.5 - 30, (columns + 0.5) / scale + 16.5 - column)
        assert len(rows) > 50
        assert np.abs(distance - 7).max() < 1
    assert (pixels == gallery.BOTH).all(axis=2).any()


@pytest.mark.parametrize("expert", [disc(30, 30, 40), disc(2, 60, 6), np.zeros((SIZE, SIZE), bool)])
def test_any_slice_can_be_drawn(expert: NDArray[np.bool_]) -> None:
    flat = Example("a", 0, np.zeros((SIZE, SIZE), np.float32), expert, np.zeros((SIZE, SIZE), bool), 0.0)
    assert draw(flat).size == (gallery.SIDE, gallery.SIDE)
