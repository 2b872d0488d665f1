"""The page begins with a verdict for each hospital, and says why an interval and a corrected p differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from server.report import read_results
from server.report.contrasts import Contrast, Effect, Family
from server.report.disagreements import disagreements
from server.report.verdicts import measured_sd, verdicts
from tests.support.hospitals import small_study
from tests.support.pages import example, page_of, put, the
from tests.support.plausible import plausible

SCREEN = 390 * 844
"""Pixels of a small screen."""
LETTER = 8.0 * 23.2
"""Pixels of a letter at most: half of a font of 16 pixels wide, and a line of 1.45 times the font high."""
UNTOLD = "it cannot be told from this study whether handing on helped"


def with_gains(results: dict[str, Any], target: str, gains: list[float]) -> dict[str, Any]:
    """Let the selected route at a target lie above the hospital's own model by so much, patient by patient."""
    own = the(results, method="baseline", target=target, selected=True)
    longer = the(results, method="longer", target=target, selected=True)
    route = the(results, target=target, headline=True)
    own["validation_dice"], longer["validation_dice"] = 95.0, 90.0
    slices = own["case_slices"] = route["case_slices"] = dict.fromkeys(own["case_dice"], 10)
    for row in results["rows"]:
        if row["target"] == target:
            row["case_slices"], row["slices"] = slices, 10 * len(slices)
            if row is route:
                row["case_dice"] = {
                    case: own["case_dice"][case] + gain for case, gain in zip(slices, gains, strict=True)
                }
            row["dice"] = fmean(row["case_dice"].values())
            row["dice_volume"] = row["dice"]
    return results


GAINS = {
    "A": [2.0, 1.5, 3.0, 0.5, 2.5, 1.0, 1.75, 2.25, 1.25, 0.5],
    "B": [-2.0, -1.5, -3.0, -0.5, -2.5, -1.2],
    "C": [1.0, -1.0, 2.0, -0.5, 0.25, -1.5],
}


@pytest.fixture
def known() -> dict[str, Any]:
    results = example(test_patients=(10, 6, 6), synthetic=False)
    for target, gains in GAINS.items():
        with_gains(results, target, gains)
    return results


def test_a_hospital_that_gained_one_that_lost_and_one_of_which_nothing_can_be_told(
    tmp_path: Path, known: dict[str, Any]
) -> None:
    first, second, third, last = verdicts(read_results(put(tmp_path, known)))
    assert first.startswith("At A, handing on helped: +1.6 points of Dice (95 % interval +1.")
    assert first.endswith("; 10 test patients).")
    assert second == "At B, handing on hurt: −1.8 points of Dice (95 % interval −3.0 to −0.5; 6 test patients)."
    assert third == f"At C, {UNTOLD}: ±0.0 points of Dice (95 % interval −1.5 to +2.0; 6 test patients)."
    assert last.startswith("Compared are the route that validation chose and the hospital's own model")


@pytest.mark.slow
def test_the_verdicts_stand_first_and_on_the_first_screen_of_a_telephone(tmp_path: Path, known: dict[str, Any]) -> None:
    folder = put(tmp_path, known)
    told = " ".join(verdicts(read_results(folder)))
    text = page_of(folder).text
    assert text.index(told) < text.index("3 hospitals (A, B, C)") < text.index("In short")
    above = text[text.index("relay 0.1.0") : text.index(told)]
    assert len(above) < 80, "above stand what the page is, and the study's name"
    # Margins take 32 of 390 pixels; the title and the margins above take no more than 160 in height.
    assert len(told) * LETTER < SCREEN * (390 - 32) / 390 * (844 - 160) / 844


def test_synthetic_patients_are_named_as_such_before_any_verdict(tmp_path: Path) -> None:
    text = page_of(put(tmp_path, example(test_patients=(6, 6, 6)))).text
    assert text.index("This shows that the software works") < text.index("At A, ") < text.index("In short")


def test_the_own_model_is_the_one_that_validation_chose_among_those_of_the_hospital_alone(
    tmp_path: Path, known: dict[str, Any]
) -> None:
    longer = the(known, method="longer", target="A", selected=True)
    longer["validation_dice"] = 99.0
    route = the(known, target="A", headline=True)
    (first, *_) = verdicts(read_results(put(tmp_path, known)))
    gain = route["dice"] - longer["dice"]
    assert f"{abs(gain):.1f} points of Dice" in first and f"{'+' if gain > 0 else '−'}{abs(gain):.1f}" in first


def test_a_gain_on_slices_that_whole_volumes_do_not_have_is_named(tmp_path: Path, known: dict[str, Any]) -> None:
    the(known, target="A", headline=True)["dice_volume"] -= 4.0
    (first, *_) = verdicts(read_results(put(tmp_path, known)))
    assert "helped on selected slices, but not on whole volumes" in first
    assert first.endswith(", −2.4 points of volume Dice.")


def test_few_patients_and_kept_figures_give_no_verdict(tmp_path: Path) -> None:
    few = verdicts(read_results(put(tmp_path / "few", example(test_patients=(5, 6, 6)))))
    assert few[0].startswith(f"At A, {UNTOLD}: ") and few[0].endswith("(5 test patients; an interval needs 6).")
    kept = verdicts(read_results(put(tmp_path / "kept", example(test_patients=(7, 7, 7), scores_leave=False))))
    assert all(f"{UNTOLD}: " in told and "their figures stay at the hospital" in told for told in kept[:3])


def test_what_was_not_compared_is_said(tmp_path: Path, known: dict[str, Any]) -> None:
    the(known, method="fedavg", target="A", selected=True)["patients"] = 3
    rows = [row for row in known["rows"] if row["target"] != "B" or row["method"] not in ("baseline", "longer")]
    told = verdicts(read_results(put(tmp_path / "rows", known | {"rows": rows})))
    assert told[0] == f"At A, {UNTOLD}: its rows cannot be compared."
    assert told[1] == f"At B, {UNTOLD}: a route or the hospital's own model is missing."
    routes = [row for row in known["rows"] if row["method"] != "sequential"]
    assert verdicts(read_results(put(tmp_path / "routes", known | {"rows": routes}))) == [
        "No model was handed on from hospital to hospital in this study."
    ]
    known["study"]["methods"]["scored_on"] = "validation"
    (validated,) = verdicts(read_results(put(tmp_path / "validation", known)))
    assert validated.startswith("No test patient was looked at")


def test_the_deviation_of_the_differences_is_that_of_the_patients(tmp_path: Path, known: dict[str, Any]) -> None:
    found = measured_sd(read_results(put(tmp_path, known)))
    assert found == {target: pytest.approx(stdev(gains), abs=1e-4) for target, gains in GAINS.items()}
    few = example(test_patients=(5, 6, 6))
    assert set(measured_sd(read_results(put(tmp_path / "few", few)))) == {"B", "C"}


def test_a_patient_of_several_repeats_counts_once_in_the_deviation(tmp_path: Path) -> None:
    methods = {"baseline": True, "longer_baseline": False, "sequential": {"routes": "all", "max_hops": 1}}
    study = small_study(sites=("A", "B"), methods=methods, repeats=3)
    results = plausible(study, tmp_path, patients={"A": 20, "B": 20})
    gaps: dict[str, list[float]] = {}
    score = "case_dice_volume" if results["rows"][0].get("case_dice_volume") and _by_volume(results) else "case_dice"
    for route in results["rows"]:
        if route["headline"] and route["target"] == "A":
            own = the(results, method="baseline", target="A", seed=route["seed"], selected=True)
            for case, value in route[score].items():
                gaps.setdefault(case, []).append(value - own[score][case])
    assert any(len(found) > 1 for found in gaps.values())
    expected = stdev(fmean(found) for found in gaps.values())
    assert measured_sd(read_results(put(tmp_path, results)))["A"] == pytest.approx(expected, abs=1e-6)


def _by_volume(results: dict[str, Any]) -> bool:
    return results["study"]["training"]["slices"] != "chosen"


def family(ends: tuple[float, float], p: float, corrected: float) -> Family:
    effect = Effect(fmean(ends), ends, better=9, patients=12)
    contrast = Contrast("FedAvg", (("A", effect),), effect, 0.5, 0.0005, p, corrected)
    other = dataclasses.replace(contrast, opponent="Target alone", together=Effect(1.0), p=1.0, corrected=1.0)
    return Family((contrast, other), (), (), True, "", 0.001, 1)


@pytest.mark.parametrize(
    ("ends", "p", "corrected", "words"),
    [
        ((0.2, 3.0), 0.03, 0.06, ("wholly above zero", "p was 0.03 before its correction for 2 comparisons")),
        ((-3.0, -0.2), 0.03, 0.06, ("wholly below zero", "corrected p is 0.06")),
        ((0.2, 3.0), 0.07, 0.14, ("wholly above zero", "p is 0.07 before any correction")),
        ((-0.1, 3.0), 0.01, 0.02, ("holds zero", "corrected p is 0.02", "patients far from the others")),
    ],
)
def test_where_an_interval_and_a_corrected_p_differ_a_sentence_says_why(
    ends: tuple[float, float], p: float, corrected: float, words: tuple[str, ...]
) -> None:
    (sentence,) = disagreements(family(ends, p, corrected))
    assert sentence.startswith("Against FedAvg the interval ")
    assert all(word in sentence for word in words)
    assert sentence.endswith("no difference is shown.")


@pytest.mark.parametrize(("ends", "corrected"), [((0.2, 3.0), 0.01), ((-3.0, -0.2), 0.05), ((-1.0, 1.0), 0.2)])
def test_where_they_agree_nothing_is_said(ends: tuple[float, float], corrected: float) -> None:
    assert disagreements(family(ends, corrected / 2, corrected)) == []


def test_the_page_says_it_under_the_differences(tmp_path: Path, known: dict[str, Any]) -> None:
    """Of ten patients one does worse by as much as two others do better: 12 of 1024 patterns, and seven comparisons."""
    known["rows"] = [row for row in known["rows"] if row["target"] == "A"]
    with_gains(known, "A", [2.0, 1.5, 3.0, 0.5, 2.5, 1.0, 1.75, 2.25, -1.0, 0.5])
    baseline = the(known, method="baseline", selected=True)
    for row in known["rows"]:
        if row["selected"] and row["method"] not in ("baseline", "sequential"):
            row["case_dice"], row["dice"] = baseline["case_dice"], baseline["dice"]
    page = page_of(put(tmp_path, known)).text
    told = page[page.index("patient by patient") : page.index("The smallest p that they could give")]
    assert "Against Target alone the interval lies wholly above zero, and yet the corrected p is 0.08" in told
    assert "p was 0.012 before its correction for 7 comparisons" in told
