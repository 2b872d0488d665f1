"""A model card is plain and true, in both of its forms."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from client.data.layouts import Statement
from client.delivery.model_card import Card, card_beside, figure_text, load_card, name_of, network_named, number
from client.delivery.model_card_text import as_text, markdown
from common.config.model import ModelConfig
from common.config.study import N4Config, PreprocessingConfig
from common.errors import RelayError
from tests.support.cards import HOPS, card, figure, outcome, scores


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    for made in (card(forgetting=HOPS), outcome(figure(1.0, 0.5), (1.0,) * 6).selected.card, card(scores=None)):
        path = tmp_path / "model-card.json"
        path.write_text(made.model_dump_json(indent=1), encoding="utf-8")
        assert load_card(path) == made


def test_a_card_names_a_file_of_encoder_weights_without_its_path() -> None:
    for written in ("/srv/coordinator/first.pth", "..\\files\\first.pth", "first.pth"):
        named = network_named(ModelConfig(encoder_weights=written, encoder="resnet18"))
        assert named == ModelConfig(encoder_weights="first.pth", encoder="resnet18")
    assert network_named(ModelConfig()) == ModelConfig()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content | {"format": 2},
        lambda content: content | {"patient": "Smith"},
        lambda content: content | {"std": 0.0},
        lambda content: content | {"mean": "312"},
        lambda content: content | {"precision": "float8"},
        lambda content: {name: value for name, value in content.items() if name != "weights"},
        lambda content: [content],
    ],
)
def test_another_card_is_told_and_not_guessed_at(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "card.json"
    path.write_text(json.dumps(spoil(json.loads(card().model_dump_json()))), encoding="utf-8")  # type: ignore[operator]
    with pytest.raises(RelayError, match="no model card that this program knows"):
        load_card(path)


def test_a_card_that_is_not_there_is_told_with_where_it_belongs(tmp_path: Path) -> None:
    path = card_beside(tmp_path / "model.safetensors")
    assert path == tmp_path / "model-card.json"
    with pytest.raises(RelayError, match="--card"):
        load_card(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RelayError, match="no model card"):
        load_card(path)


def test_the_card_names_way_data_grid_and_digests() -> None:
    told = flat(markdown(card(about="What of it.")))
    for said in (
        "# Model card: B → C → A",
        "not a medical device",
        "Study “three-hospitals”. What of it.",
        "| B | 31 | 6 | 400 | yes |",
        "fold 2 of 5",
        "256 × 256 pixels of 0.625 mm: 160 × 160 mm",
        "less 312.5, divided by 201.25",
        "50 + 50 + 50 + 50 iterations at most",
        "field strengths",
        "b" * 64,
        "a" * 64,
        "Validation, volume Dice: 92.2 %",
    ):
        assert said in told, said
    plain = card(preprocessing=PreprocessingConfig(n4=N4Config(enabled=False)))
    assert "no bias field correction" in markdown(plain)


def test_a_card_says_by_what_images_are_standardised() -> None:
    by_site = flat(markdown(card(mean=200.0, std=50.0)))
    assert "less 200, divided by 50" in by_site and "its own mean" not in by_site
    by_volume = flat(markdown(card(preprocessing=PreprocessingConfig(standardise="volume"), mean=0.0, std=1.0)))
    assert "less its own mean, divided by its own standard deviation" in by_volume and "divided by 1" not in by_volume


def test_a_card_of_volumes_names_the_box() -> None:
    box = {"architecture": "VNet", "dimensions": 3, "depth": 32, "slice_spacing_mm": 2.5}
    text = markdown(card(model=ModelConfig.model_validate(box)))
    assert "on axial T2-weighted MR images, in boxes of slices: VNet.\n" in text
    assert "- one box of 32 slices a patient, about the volume's centre\n" in text
    assert " about the image's centre, and the volume to slices 2.5 mm apart, in boxes of 32 that overlap" in text
    assert "slices without\n" not in text and "slice by slice" not in text
    other = markdown(card())
    assert "about the image's centre\n3. less" in other and "slice by slice: " in other
    assert "one box" not in other and "boxes" not in other


def test_scores_stand_beside_those_of_the_hospital_alone() -> None:
    told = flat(markdown(outcome(figure(1.5, 0.5), (1.5,) * 6).selected.card))
    assert "| **this model** | 91.4 (89.4 to 93.4) | 84.4 (82.4 to 86.4) | 89.4 (87.4 to 91.4) | 6.2" in told
    assert "| A alone | 88.5 (86.5 to 90.5)" in told
    assert "| A alone, longer | 88.5" in told
    assert "against A alone, longer: +1.5 (+1.0 to +2.0) points of volume Dice" in told
    assert "“A alone, longer” was trained there for as many gradient steps as the longest route has." in told
    assert "On 6 test patients of hospital A (77 slices with gland)" in told


def test_what_is_not_known_is_called_unknown() -> None:
    few = flat(markdown(card(scores=scores(91.4, 4))))
    assert "| 91.4 |" in few and "With fewer than 6 patients there is no interval" in few
    assert "The distances of this model are those of 3 patients alone" in flat(
        markdown(card(scores=scores(90, 6, drawn=3)))
    )
    assert "| – | – |" in flat(markdown(card(scores=scores(90, 6, drawn=0))))
    none = flat(markdown(card(scores=None, validation_dice=None, checked=False)))
    assert "No test patient was scored" in none and "Validation Dice" not in none
    assert "The choice is the coordinator's" in none


def test_the_licence_is_the_studys_or_is_said_to_be_missing() -> None:
    assert "## Licence\n\nCC BY 4.0\n" in markdown(card(licence="CC BY 4.0"))
    assert "## Licence\n\nNone was given." in markdown(card())


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=("Cc", "Cf", "Zs"))))
@example("[sign in](https://evil.example) ![x](https://evil.example/pixel.png)")
@example("<img src=x onerror=alert(1)> <https://evil.example> &lt;b&gt; a | b `code` **bold** ~~no~~")
@example("\\[x](y) \\\\<b> # heading")
def test_a_foreign_text_shows_in_markdown_as_it_was_written(text: str) -> None:
    """By another reader of Markdown: no tag comes out, and the text is the text."""
    shown = MarkdownIt("commonmark", {"html": True}).enable(["strikethrough", "table"]).renderInline(as_text(text))
    assert "<" not in shown
    assert html.unescape(shown) == text


def test_the_study_file_writes_no_link_into_a_card() -> None:
    """GitHub's Markdown makes links of bare addresses too."""
    link = "[free](https://evil.example) www.evil.example me@evil.example <b>bold</b>"
    text = markdown(card(about=link, study=link, licence=link))
    for live in ("[free](", "free](https", "https://", "www.", "me@", "<b>"):
        assert live not in text, live


def test_what_was_forgotten_is_shown_where_it_was_measured() -> None:
    assert "forgot" not in markdown(card())
    told = markdown(card(forgetting=HOPS))
    assert (
        "| after training at | test volume Dice at A | test volume Dice at B | test volume Dice at C |\n"
        "| --- | --- | --- | --- |\n" in told
    )
    assert "| A | 91.4 | 75.0 | 70.5 |\n" in told


def test_the_card_says_how_far_the_probabilities_can_be_believed() -> None:
    told = flat(markdown(outcome(figure(1.5, 0.5), (1.5,) * 6).selected.card))
    assert "The calibration error of this model is 8.6 (8.3 to 8.8) %, a mean over 6 test patients" in told
    assert "Of “A alone” it is 11.5 (11.2 to 11.8) %. Of “A alone, longer” it is 11.5" in told
    assert "at most 10 mm beyond the box around the experts' gland" in told
    assert "| 30 to 40 | 36.0 | 30.5 | 10.0 | 6 | | 50 to 60 | 56.0 | 50.5 | 10.0 | 6 |" in told
    assert "have no line" in told


def test_the_card_says_how_often_the_test_patients_have_been_looked_at() -> None:
    told = flat(markdown(card(test_looks=7, test_studies=2)))
    assert "The test patients of hospital A have been looked at 7 times: so many models, of 2 studies, were sc" in told
    assert "looked at 1 time: so many models, of one study," in flat(markdown(card(test_looks=1, test_studies=1)))
    assert "have been looked at" not in flat(markdown(card())), "it is not on record"


def test_a_card_of_a_version_without_calibration_says_that_none_is_known(tmp_path: Path) -> None:
    content = json.loads(outcome(figure(1.0, 0.5), (1.0,) * 6).selected.card.model_dump_json())
    for one in (content["scores"], *(reference["scores"] for reference in content["references"])):
        del one["calibration_error"], one["reliability"]
    path = tmp_path / "card.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    told = flat(markdown(load_card(path)))
    assert "The calibration of its probabilities is not on record." in told and "calibration error" not in told


def test_tables_hold_together() -> None:
    """A row has as many cells as its head, or a reader of Markdown shows no table."""
    told = markdown(outcome(figure(1.5, 0.5), (1.5,) * 6, forgetting=HOPS).selected.card).splitlines()
    tables = [k for k, line in enumerate(told) if line.startswith("| --- |")]
    assert len(tables) == 4
    for k in tables:
        cells = told[k].count("|")
        assert told[k - 1].count("|") == cells and told[k - 2] == ""
        rows = 0
        while told[k + 1 + rows].startswith("|"):
            assert told[k + 1 + rows].count("|") == cells
            rows += 1
        assert rows and told[k + 1 + rows] == ""


def test_names_of_methods_and_numbers_are_a_readers() -> None:
    assert name_of("baseline", ("A",), "A") == "A alone"
    assert name_of("sequential", ("B", "C", "A"), "A") == "B → C → A"
    assert name_of("greedy", ("B", "A"), "A") == "B → A"
    assert name_of("unadapted", ("B",), "A") == "B, unadapted"
    assert name_of("fedavg", ("A", "B"), "A") == "FedAvg"
    assert name_of("fedprox-then-target", ("A", "B", "A"), "A") == "FedProx, then A"
    assert (number(-0.04), number(-1.25, sign=True), number(0.06, sign=True)) == ("0.0", "−1.2", "+0.1")
    assert figure_text(None) == "–"
    assert isinstance(card(), Card)


def test_a_card_of_version_0_1_is_read_as_one_of_selected_slices(tmp_path: Path) -> None:
    """Such a card knows no slices, no clean-up and no volume Dice of differences; its model is used all the same."""
    content = json.loads(outcome(figure(1.0, 0.5), (1.0,) * 6).selected.card.model_dump_json())
    del content["training"]["slices"], content["training"]["empty_share"], content["cleaned"]
    for reference in content["references"]:
        del reference["volume_ahead"]
        del reference["scores"]["false_slices"], reference["scores"]["empty_slices"]
    path = tmp_path / "card.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    found = load_card(path)
    assert (found.training.slices, found.cleaned) == ("chosen", False)
    told = flat(markdown(found))
    assert "selected slices alone: those whose mask holds more than 200 pixels" in told
    assert "it may draw gland where there is none" in told


def test_a_card_repeats_what_the_hospital_stated_about_its_files() -> None:
    stated = Statement(spacing_mm=(3.0, 0.5, 0.5), orientation="LPS", labels=(1, 2))
    text = flat(markdown(card(stated=stated.sentences())))
    assert "stated 3 × 0.5 × 0.5 mm" in text and "stated LPS" in text and "named the values 1 and 2" in text
    assert "above 0.5 of its masks" in flat(markdown(card(stated=Statement(mask_threshold=0.5).sentences())))
    assert "stated" not in flat(markdown(card()))
    assert Statement().sentences() == ()
