"""What a study could show is told before anything runs, from the patients counted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from common.config.study import Study, study_toml
from common.errors import BadData, RelayError
from deploy.cli import main
from deploy.planning.power_plan import Patients, measured_in, patients_elsewhere, power_lines
from tests.support.hospitals import small_study, write_hospitals
from tests.support.pages import example, put

SLICES = ("--no-trial", "--slices", "A=100", "--slices", "B=50")


def study(**changes: Any) -> Study:
    return small_study(**{"sites": ("A", "B"), "methods": {"baseline": True}, **changes})


def planned(capsys: pytest.CaptureFixture[str], folder: Path, of: Study, *more: str) -> Any:
    path = folder / "mine.toml"
    path.write_text(study_toml(of), encoding="utf-8")
    assert main(["study", "plan", str(path), *more, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["power"]


@pytest.mark.slow
def test_the_gains_of_the_papers_table_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "plan", "paper-table3", "--no-trial"]) == 0
    told = capsys.readouterr().out
    assert "A: 2.9 Dice points, with 6 test patients; one point takes 34 test patients, and the site has 30 (" in told
    assert "C: 4.3 Dice points, with 4 test patients; one point takes 34 test patients, and the site has 19 (" in told
    assert "With fewer than 6 test patients the report shows no interval" in told and "own model (C)." in told


def test_patients_are_counted_where_the_site_file_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hospitals = write_hospitals(tmp_path, {"A": 7, "B": 5}, slices=7)
    given = [word for name, path in hospitals.items() for word in ("--site", f"{name}={path}")]
    counted = study(split={"test_fraction": 0.3, "folds": 2})
    of_a, of_b = planned(capsys, tmp_path, counted, "--no-trial", *given)["targets"]
    assert (of_a["target"], of_a["patients"], of_a["test_patients"]) == ("A", 7, 2)  # 2.1
    assert (of_b["target"], of_b["patients"], of_b["test_patients"]) == ("B", 5, 2)  # 1.5
    assert of_a["smallest_gain"] == pytest.approx(23.1, abs=0.05), "two patients show nothing that could be true"


def test_without_a_number_of_patients_the_plan_says_what_to_add(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    power = planned(capsys, tmp_path, study(), *SLICES, "--patients", "A=150")
    assert power["power"] == 0.8 and power["level"] == 0.05
    known, unknown = power["targets"]
    assert (known["patients"], known["test_patients"], known["patients_for_one_point"]) == (150, 30, 34)
    assert round(known["smallest_gain"], 1) == 1.1
    assert (unknown["patients"], unknown["test_patients"], unknown["smallest_gain"]) == (None, None, None)
    assert unknown["patients_for_one_point"] == 34
    assert main(["study", "plan", str(tmp_path / "mine.toml"), *SLICES]) == 0
    assert "B: the patients are not known, add --patients B=N; one point takes 34" in capsys.readouterr().out


def test_repeats_hold_out_more_patients_and_are_counted_by_drawing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The expected number of different patients, against patients drawn one repeat after the other."""
    (known, _) = planned(capsys, tmp_path, study(repeats=4), *SLICES, "--patients", "A=60")["targets"]
    generator = random.Random(4)

    def distinct(repeats: int) -> float:
        tried = [{case for _ in range(repeats) for case in generator.sample(range(60), 12)} for _ in range(400)]
        return sum(map(len, tried)) / 400

    assert known["test_patients"] == pytest.approx(distinct(4), abs=1)
    assert distinct(known["repeats_for_one_point"]) > 34 - 1
    assert distinct(known["repeats_for_one_point"] - 1) < 34


def test_where_the_test_rotates_every_patient_is_a_test_patient(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for repeats in (1, 3):
        of = study(split={"test": "rotate"}, repeats=repeats)
        (known, few) = planned(capsys, tmp_path, of, *SLICES, "--patients", "A=34", "--patients", "B=20")["targets"]
        assert (known["patients"], known["test_patients"], known["repeats_for_one_point"]) == (34, 34, 1)
        assert known["smallest_gain"] == pytest.approx(1.0, abs=0.02)
        assert (few["test_patients"], few["repeats_for_one_point"]) == (20, None), "more than all cannot be tested"


def test_no_number_of_repeats_is_told_where_the_patients_are_too_few() -> None:
    (line,) = power_lines(study(), ["A"], {"A": Patients(30, 6)}, sd=2.0, measured={})
    assert line.patients_for_one_point == 34 and line.repeats_for_one_point is None
    (line,) = power_lines(study(), ["A"], {"A": Patients(34, 7)}, sd=2.0, measured={})
    assert line.repeats_for_one_point is not None and line.repeats_for_one_point > 15
    (line,) = power_lines(study(), ["A"], {"A": Patients(30, 6)}, sd=0.1, measured={})
    assert (line.patients_for_one_point, line.repeats_for_one_point) == (6, 1), "the report needs six"


def test_a_deviation_measured_in_an_earlier_study_takes_the_place_of_the_assumed_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = put(tmp_path / "earlier", example(sites=("A", "B"), test_patients=(12, 5)))
    found = measured_in(folder)
    assert set(found) == {"A"}, "B has too few patients"
    given = (*SLICES, "--patients", "A=30", "--patients", "B=30", "--sd", "3.5", "--earlier", str(folder))
    of_a, of_b = planned(capsys, tmp_path, study(), *given)["targets"]
    assert (of_a["sd"], of_a["measured"]) == (found["A"], True)
    assert (of_b["sd"], of_b["measured"]) == (3.5, False)
    assert main(["study", "plan", str(tmp_path / "mine.toml"), *given]) == 0
    told = capsys.readouterr().out
    assert "points, measured)." in told and "3.5 points, assumed)." in told
    assert measured_in(None) == {}


def test_an_earlier_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RelayError, match=r"holds no results\.json"):
        measured_in(tmp_path)


@pytest.mark.slow
def test_without_test_patients_nothing_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "plan", "paper-table2", "--no-trial"]) == 0
    assert "No test patient is looked at, so the study can show no gain" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["0", "-1", "two", "inf", "nan"])
def test_a_deviation_that_is_none_is_told(capsys: pytest.CaptureFixture[str], given: str) -> None:
    assert main(["study", "plan", "paper-table3", "--no-trial", "--sd", given]) == 2
    assert "is no number above 0" in capsys.readouterr().err


def test_too_few_patients_for_the_folds_are_told_as_when_the_study_begins() -> None:
    with pytest.raises(BadData, match="Site A has 4 usable patients"):
        patients_elsewhere(4, Study.model_validate({"sites": ("A", "B")}), "A")
