"""The letter says what the figures allow and no more, and why; "keep your own model" wherever nothing was shown."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.delivery.letter import MODEL, OWN_MODEL, Letter, html, letter, text, verdict_of
from client.delivery.model_card import Card, Figure
from client.delivery.model_card_text import markdown
from client.delivery.store import Arrival, Outcome
from common.config.study import TrainingConfig
from common.strategies import STRATEGIES, Strategy
from tests.support.browser import CHROMIUM, WHY_NOT
from tests.support.cards import card, figure, outcome, reference

BETTER = outcome(Figure(mean=1.9, low=0.4, high=3.9, patients=6), (0.4, 0.9, 1.8, 2.2, 3.1, 3.9))
PERHAPS = outcome(Figure(mean=0.3, low=-1.4, high=1.9, patients=6), (-1.4, -0.2, 0.1, 0.4, 1.0, 1.9))
WORSE = outcome(Figure(mean=-1.9, low=-3.9, high=-0.3, patients=6), (-3.9, -2.4, -2.3, -2.2, -1.0, -0.3))
FEW = outcome(figure(4.2, None, 4), (3.1, 4.0, 4.2, 5.5))
OWN = Outcome(
    Arrival(card(method="longer", route=("A",), references=(reference("baseline", None),)), Path("x"), {}), None
)
UNKNOWN = Outcome(Arrival(card(), Path("x"), {}), None)
CHOSEN = TrainingConfig(slices="chosen")
NOT_WHOLE = outcome(
    Figure(mean=1.9, low=0.4, high=3.9, patients=6),
    (0.4, 0.9, 1.8, 2.2, 3.1, 3.9),
    volume_ahead=figure(-2.5, 1.0),
    training=CHOSEN,
)
ALL = {
    "not-whole": NOT_WHOLE,
    "better": BETTER,
    "not-shown": PERHAPS,
    "worse": WORSE,
    "too-few": FEW,
    "own": OWN,
    "unknown": UNKNOWN,
}


def plain(page: str) -> str:
    """What a reader sees."""
    seen: list[str] = []

    class Reader(HTMLParser):
        hidden = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.hidden = tag in ("style", "title")

        def handle_endtag(self, tag: str) -> None:
            self.hidden = False

        def handle_data(self, data: str) -> None:
            if not self.hidden:
                seen.append(data)

    Reader().feed(page)
    return " ".join(" ".join(seen).split())


@pytest.mark.parametrize("verdict", ALL)
def test_every_verdict_has_its_letter_and_only_one_of_them_advises_the_studys_model(verdict: str) -> None:
    written = letter(ALL[verdict])
    assert written.verdict == verdict
    assert written.heading.startswith("Keep your own model") == (verdict != "better")
    told = " ".join(text(written).split())
    assert ("wholly above zero: for patients like these it is better" in told) == (verdict == "better")
    first = written.files[0][0]
    assert first == (OWN_MODEL if ALL[verdict].own and verdict != "better" else MODEL)
    assert written.command == f"relay predict {first} SERIES -o mask.nii.gz"
    named = {name for name, _ in written.files}
    assert (OWN_MODEL in named) == (ALL[verdict].own is not None)


@given(st.floats(-20, 20), st.floats(0, 20))
def test_taking_part_has_helped_only_if_the_whole_interval_lies_above_zero(low: float, width: float) -> None:
    ahead = Figure(mean=low + width / 2, low=low, high=low + width, patients=7)
    found = verdict_of(card(), reference("longer", ahead))
    assert (found == "better") == (low > 0)
    assert (found == "worse") == (low + width < 0)


UNTOLD = "At A, it cannot be told from this study whether handing on helped"
FIRST = {
    "better": "At A, handing on helped: +1.9 points of volume Dice (95 % interval +0.4 to +3.9; 6 test patients).",
    "worse": "At A, handing on hurt: −1.9 points of volume Dice (95 % interval −3.9 to −0.3; 6 test patients).",
    "not-shown": f"{UNTOLD}: +0.3 points of volume Dice (95 % interval −1.4 to +1.9; 6 test patients).",
    "too-few": f"{UNTOLD}: +4.2 points of volume Dice (4 test patients; an interval needs 6).",
    "unknown": f"{UNTOLD}.",
    "not-whole": "At A, handing on helped on selected slices, but not on whole volumes: +1.9 points of Dice"
    " (95 % interval +0.4 to +3.9; 6 test patients), −2.5 points of volume Dice.",
}


@pytest.mark.parametrize("verdict", FIRST)
def test_the_letter_begins_with_the_verdict_in_the_words_of_the_report(verdict: str) -> None:
    assert letter(ALL[verdict]).reasons[0] == FIRST[verdict]


def test_of_an_average_taking_part_is_judged_and_not_handing_on() -> None:
    averaged = outcome(figure(1.0, 0.5), (1.0,) * 6, method="fedavg", route=())
    assert letter(averaged).reasons[0].startswith("At A, taking part helped: +1.0 points")


def test_a_model_that_is_worse_on_whole_volumes_is_not_advised_however_good_its_slices_are() -> None:
    told = " ".join(text(letter(NOT_WHOLE)).split())
    assert "its Dice is 1.9 points higher" in told and "over whole volumes its Dice is 2.5 points lower" in told
    better = NOT_WHOLE.selected.card.references[-1].model_copy(update={"volume_ahead": figure(0.1, 1.0)})
    assert verdict_of(card(training=CHOSEN), better) == "better"


def test_however_large_a_difference_is_with_few_patients_nothing_is_claimed() -> None:
    told = text(letter(outcome(figure(60.0, None, 5), (59.0, 60.0, 60.0, 60.0, 61.0))))
    assert "Keep your own model" in told and "5 test patients" in told
    assert "With fewer than 6 test patients no such difference can be told from chance" in " ".join(told.split())


@pytest.mark.parametrize("verdict", ALL)
def test_the_rule_stands_in_every_letter(verdict: str) -> None:
    told = plain(html(letter(ALL[verdict])))
    for rule in (
        "Your validation patients chose the study's model among all methods",
        "only if the 95 % interval of the mean difference lies wholly above zero",
        "in all other cases we advise to keep your own model",
        "needs 6 patients",
        "Took part: A (30 patients), B (31 patients), C (19 patients)",
        "not a medical device",
    ):
        assert rule in told


@pytest.mark.parametrize("verdict", ALL)
def test_page_and_text_say_the_same(verdict: str) -> None:
    written = letter(ALL[verdict])
    page, told = plain(html(written)), " ".join(text(written).split())
    sentences = [
        written.heading,
        *written.reasons,
        *written.calibration,
        *written.decided,
        written.below,
        *written.limits,
    ]
    for sentence in sentences:
        assert " ".join(sentence.split()) in page and " ".join(sentence.split()) in told
    for way, cells in written.rows:
        for cell, score in zip(cells, written.columns, strict=True):
            assert cell is not None
            assert way in page and way in told
            assert f"{cell.mean:.{score.digits}f}" in page and f"{cell.mean:.{score.digits}f}" in told
    assert max(len(line) for line in text(written).splitlines()) <= 100


@pytest.mark.parametrize("verdict", ALL)
def test_the_page_needs_nothing_outside_of_it(verdict: str) -> None:
    page = html(letter(ALL[verdict]))
    assert not re.search(r"(src|href)=|https?://|<script|<link|@import|url\(", page)


def test_names_are_text_and_never_markup() -> None:
    evil = outcome(figure(1.0, 0.5), (1.0,) * 6, study="<script>alert(1)</script>")
    page = html(letter(evil))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "<script>" in text(letter(evil))


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=lambda strategy: strategy.key)
def test_an_average_is_announced_by_its_strategys_name_and_never_as_a_route(strategy: Strategy) -> None:
    for method, route, way in (
        (strategy.key, ("A", "B", "C"), strategy.title),
        (f"{strategy.key}-then-target", ("A", "B", "C", "A"), f"{strategy.title}, then A"),
    ):
        brought = outcome(figure(1.0, 0.5), (1.0,) * 6, method=method, route=route)
        for told in (text(letter(brought)), markdown(brought.selected.card)):
            assert way in " ".join(told.split())
            assert "→" not in told and strategy.key not in told


def test_figures_are_those_of_the_card_with_their_signs() -> None:
    told = " ".join(text(letter(PERHAPS)).split())
    assert "its volume Dice is 0.3 points higher than that of the best model trained on your patients alone" in told
    assert "it is higher for 4 of them" in told
    assert "whether handing on helped: +0.3 points of volume Dice (95 % interval −1.4 to +1.9; 6 test patients)" in told
    assert "The interval of the difference holds zero" in told
    assert "is 1.9 points lower" in " ".join(text(letter(WORSE)).split())


def test_without_a_control_for_longer_training_the_letter_says_so() -> None:
    short = outcome(Figure(mean=1.9, low=0.4, high=3.9, patients=6), (1.0,) * 6, methods=("baseline",))
    assert "may be longer training alone" in " ".join(text(letter(short)).split())
    assert "may be longer training alone" not in " ".join(text(letter(BETTER)).split())


def test_an_unchecked_choice_is_called_the_coordinators() -> None:
    assert "Your site's own record of this network's validation scores chooses the same" in " ".join(
        text(letter(BETTER)).split()
    )
    unchecked = outcome(figure(1.0, 0.5), (1.0,) * 6, checked=False)
    assert "The choice is the coordinator's" in " ".join(text(letter(unchecked)).split())


def test_in_how_many_slices_without_gland_each_model_draws_some_is_told() -> None:
    told = " ".join(text(letter(BETTER)).split())
    assert (
        "Of 41 slices without gland, gland is drawn by “B → C → A” in 3, “A alone” in 3, “A alone, longer” in 3."
        in told
    )
    card_told = " ".join(markdown(BETTER.selected.card).split())
    assert "In 3 of 41 slices without gland this model draws gland." in card_told
    uncounted = card(scores=BETTER.selected.card.scores.model_copy(update={"empty_slices": 0, "false_slices": 0}))  # type: ignore[union-attr]
    assert "without gland this model" not in markdown(uncounted)


def test_letter_and_card_have_a_line_for_the_zones_of_a_model_that_draws_them() -> None:
    plain = BETTER.selected.card
    assert plain.scores is not None and "peripheral" not in text(letter(BETTER)) + markdown(plain)
    zoned = plain.scores.model_copy(update={"dice_pz": figure(61.25, 2.0, 4), "dice_cg": figure(80.5, None, 4)})
    model = plain.model.model_copy(update={"target": "zones"})
    selected = BETTER.selected.card.model_copy(update={"scores": zoned, "model": model})
    outcome_of_zones = replace(BETTER, selected=replace(BETTER.selected, card=selected))
    line = (
        "Dice of the peripheral zone 61.2 (59.2 to 63.2) % and Dice of the central gland 80.5 %, over all slices of 4"
        " test patients with zones drawn."
    )
    assert f"“B → C → A”: {line}" in " ".join(text(letter(outcome_of_zones)).split())
    card_told = " ".join(markdown(selected).split())
    assert f"This model: {line}" in card_told
    assert "It draws the peripheral zone and the central gland, which make up the prostate, on axial" in card_told
    assert "no zones" not in card_told and "It knows two zones" in card_told
    assert Card.model_validate_json(selected.model_dump_json()) == selected


def test_the_letter_says_how_far_the_probabilities_can_be_believed() -> None:
    written = letter(BETTER)
    told = " ".join(text(written).split())
    assert "the calibration error, is 8.6 (8.3 to 8.8) % with “B → C → A” and 11.5 (11.2 to 11.8) % with “A al" in told
    assert "Where “B → C → A” gives 90 to 100 %, 90 % of the voxels are gland." in told
    assert len(written.calibration) == 2 and len(letter(OWN).calibration) == 2
    assert "8.6 (8.3 to 8.8) % with “A alone, longer”; 0 is" in " ".join(text(letter(OWN)).split())
    scores = BETTER.selected.card.scores
    assert scores is not None
    unknown = card(scores=scores.model_copy(update={"calibration_error": None, "reliability": ()}))
    without = letter(Outcome(Arrival(unknown, Path("x"), {}), None))
    assert (without.calibration, without.curves) == ((), None)
    for words in (html(without), text(without)):
        assert "can be believed" not in words and "BE BELIEVED" not in words


def test_each_bin_is_a_dot_as_far_right_as_its_probability_and_as_high_as_its_share_of_gland() -> None:
    written = letter(BETTER)
    curves, scores = written.curves, BETTER.selected.card.scores
    assert curves is not None and scores is not None
    assert [name for name, _ in curves.lines] == ["B → C → A", "A alone, longer"]
    for (x, y), one in zip(curves.lines[0][1], scores.reliability, strict=True):
        assert x / curves.size == pytest.approx(one.probability / 100, abs=1e-3)
        assert 1 - y / curves.size == pytest.approx(one.gland / 100, abs=1e-3)
    assert html(written).count('r="3"') == 18
    assert "Below the dashed line a model is too sure of gland" in plain(html(written))


@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
@pytest.mark.parametrize("verdict", ["better", "not-whole"])
def test_the_letter_is_printed_on_one_page(verdict: str, tmp_path: Path) -> None:
    page, printed = tmp_path / "letter.html", tmp_path / "letter.pdf"
    page.write_text(html(letter(ALL[verdict])), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}",
               f"--print-to-pdf={printed}", "--no-pdf-header-footer", page.as_uri()]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert len(re.findall(rb"/Type /Page\b", printed.read_bytes())) == 1


def test_synthetic_patients_are_called_so() -> None:
    assert "synthetic" not in text(letter(BETTER))
    assert "synthetic" in text(letter(outcome(figure(1.0, 0.5), (1.0,) * 6, synthetic=True)))


@given(st.lists(st.floats(-60, 60), min_size=6, max_size=12))
def test_every_test_patient_is_a_dot_on_its_side_of_zero(differences: list[float]) -> None:
    low, high = min(differences), max(differences)
    ahead = Figure(mean=sum(differences) / len(differences), low=low, high=high, patients=len(differences))
    written: Letter = letter(outcome(ahead, sorted(differences)))
    picture = written.picture
    assert picture is not None and len(picture.dots) == len(differences)
    for value, (x, y) in zip(sorted(differences), picture.dots, strict=True):
        assert 0 <= x <= picture.width and y <= picture.line
        assert (x - picture.zero) * value >= 0
    assert [x for x, _ in picture.dots] == sorted(x for x, _ in picture.dots)
    assert picture.interval is not None and picture.interval[0] <= picture.mean <= picture.interval[1]
    assert any(label in ("0", "0.0") and x == picture.zero for x, label in picture.ticks)
    assert 2 <= len(picture.ticks) <= 10


def test_where_the_test_rotated_letter_and_card_say_whose_figures_these_are() -> None:
    one = card(rotation=0, rotations=5)
    for words in (text(letter(Outcome(Arrival(one, Path("x"), {}), None))), markdown(one)):
        said = " ".join(words.split())
        assert "This model is of rotation 1, which was fixed before any result" in said
        assert "its figures are of the method, not of this model." in said
    for words in (text(letter(UNKNOWN)), markdown(card())):
        assert "rotation" not in words
    assert not {"rotation", "rotations"} & set(card().model_dump())
