"""The site's own page shows what it should, replaces what it showed, and stays closed to others."""

from __future__ import annotations

import base64
import io
import json
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from client.evaluation import gallery
from client.evaluation.evaluate import CaseScore, Example
from client.evaluation.gallery import add_to_page, draw
from client.site_config import SiteConfig

SIZE = 64
NUMBERS = {"Abel": 1, "Kain": 2, "Mueller": 3, **{f"patient {k}": 10 + k for k in range(20)}}


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return SiteConfig(name="A", layout="nifti-pairs", images=tmp_path / "images", folder=tmp_path / "private")


def disc(row: float, column: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


def example(dice: float, *, patient: str = "Mueller", number: int = 4) -> Example:
    image = np.random.default_rng(number).normal(100, 20, (SIZE, SIZE)).astype(np.float32)
    return Example(patient, number, image, disc(30, 30, 7), disc(30, 36, 7), dice)


def add(
    site: SiteConfig,
    stage: str,
    dices: list[float],
    title: str = "B → A",
    *,
    scores: Sequence[CaseScore] = (),
    more: Sequence[Example] = (),
) -> str:
    examples = [*(example(dice, number=k) for k, dice in enumerate(dices)), *more]
    page = add_to_page(site, title=title, stage=stage, examples=examples, scores=scores, numbers=NUMBERS)
    return page.read_text(encoding="utf-8")


def case(patient: str, volume: float, **more: Any) -> CaseScore:
    return CaseScore(patient, slices=3, dice=0.9, iou=0.8, dice_volume=volume, **more)


def words(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))


def captions(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"Dice ([\d.]+) %", text)]


def test_the_three_worst_and_the_three_best_are_shown(site: SiteConfig) -> None:
    text = add(site, "one", [0.5, 0.9, 0.1, 0.8, 0.3, 0.7, 0.95, 0.6])
    assert captions(text) == [10.0, 30.0, 50.0, 95.0, 90.0, 80.0]


def test_patients_below_seventy_per_cent_stand_first_with_their_worst_slices_the_worst_first(site: SiteConfig) -> None:
    scores = [
        case("Abel", 0.7, volume_error_ml=99.0),
        case("Mueller", 0.695, volume_error_ml=2.25),
        case("Kain", 0.125, volume_error_ml=-12.34, dice_apex=0.25, dice_middle=0.5, dice_base=0.0,
             false_slices=3, empty_slices=9),
    ]  # fmt: skip
    kain = [example(dice, patient="Kain", number=k) for k, dice in enumerate([0.31, 0.93, 0.33, 0.32])]
    text = add(site, "one", [0.95, 0.8, 0.99, 0.9], scores=scores, more=kain)
    told = words(text)
    assert "Patients below a volume Dice of 70 %: 2 of 3, the worst first" in told
    assert (
        "Kain : no. 2 in reports, volume Dice 12.5 %, volume error −12.3 ml, Dice of the apex 25.0 %,"
        " Dice of the middle 50.0 %, Dice of the base 0.0 %; gland drawn in 3 of 9 slices without gland" in told
    )
    assert "Mueller : no. 3 in reports, volume Dice 69.5 %, volume error +2.2 ml; gland drawn in 0 of 0" in told
    assert "99.0 ml" not in told, "70 % is not below 70 %"
    shown = [value for value in captions(text) if value not in (12.5, 69.5)]
    assert shown[:6] == [31.0, 32.0, 33.0, 80.0, 90.0, 95.0], "each patient's own slices, the worst patient first"
    assert shown[6:] == [31.0, 32.0, 33.0, 99.0, 95.0, 93.0]
    assert told.index("Patients below") < told.index("Worst selected slices") < told.index("Best selected slices")


def test_of_many_such_patients_the_worst_alone_have_pictures(site: SiteConfig) -> None:
    count = gallery.PICTURED + 2
    names = [f"patient {k}" for k in range(count)]
    scores = [case(name, 0.6 - k / 100) for k, name in enumerate(names)]
    text = add(site, "one", [], scores=scores, more=[example(0.9, patient=name) for name in names])
    first = text[: text.index("Worst selected slices")]
    assert [name for name in names if f'of patient {name}"' in first] == names[-gallery.PICTURED :]
    assert all(f"<strong>{name}</strong>" in first for name in names)
    assert f"of each of the first {gallery.PICTURED}." in words(first)


def test_a_model_without_such_a_patient_says_so(site: SiteConfig) -> None:
    text = words(add(site, "one", [0.1], scores=[case("Abel", 0.9)]))
    assert "No patient is below a volume Dice of 70 %." in text and "Patients below" not in text


def test_what_an_earlier_version_noted_is_shown_as_it_was(site: SiteConfig) -> None:
    add(site, "one", [0.5])
    (note,) = (site.folder / "page").glob("*.json")
    content = json.loads(note.read_text(encoding="utf-8"))
    del content["low"], content["scored"]
    note.write_text(json.dumps(content), encoding="utf-8")
    text = add(site, "two", [0.75], scores=[case("Abel", 0.9)])
    assert captions(text) == [75.0, 50.0] and text.count("volume Dice") == 1


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
    name = "<script>x</script>"
    page = add_to_page(
        site,
        title="a<b>",
        stage="<i>",
        examples=[example(0.5, patient=name)],
        scores=[case(name, 0.5)],
        numbers={name: 7},
    )
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


def test_of_zones_the_border_of_the_central_gland_is_outlined_too() -> None:
    gland, central = disc(32, 32, 14), disc(32, 32, 6)
    labels = gland.astype(np.uint8) + central
    nothing = np.zeros((SIZE, SIZE), bool)
    image = np.random.default_rng(1).normal(100, 20, (SIZE, SIZE)).astype(np.float32)
    of_labels = np.asarray(draw(Example("a", 0, image, labels, nothing, 0.0)).convert("RGB")).astype(int)
    of_gland = np.asarray(draw(Example("a", 0, image, gland, nothing, 0.0)).convert("RGB")).astype(int)
    rows, columns = np.nonzero((of_labels == gallery.EXPERT).all(axis=2) & (of_gland != gallery.EXPERT).any(axis=2))
    assert len(rows) > 50
    middle = gallery.SIDE / 2
    radius = np.hypot(rows + 0.5 - middle, columns + 0.5 - middle) * of_window(labels) / gallery.SIDE
    assert radius.min() > 4.5 and radius.max() < 7
    assert ((of_gland == gallery.EXPERT).all(axis=2) <= (of_labels == gallery.EXPERT).all(axis=2)).all()


def of_window(labels: NDArray[Any]) -> float:
    """Pixels of the slice on a side of its picture: half as many again as the gland has, half of the slice at least."""
    rows, _ = np.nonzero(labels)
    return max(SIZE // 2, 1.5 * float(np.ptp(rows)))
