"""`relay site approve` and `relay site leave`: a person reads what would happen, and decides."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.data.survey import survey
from client.governance import audit_log
from client.governance.approval import approvals, approved
from client.governance.disclosure import disclosure_of
from client.governance.released_sets import PatientSets, admit
from client.site_config import SiteConfig, ZoneLabels, load_site
from common.config.study import Study, study_toml
from common.errors import RelayError
from common.fingerprint import format_fingerprint
from common.protocol.refusals import Refusal, Refused
from deploy.site.approve import approve_study, leave_study, list_approvals
from tests.common.test_plugins import install, install_method
from tests.support.hospitals import small_study, write_hospitals, write_site

__all__ = ["install"]

STUDY = small_study(
    name="ours",
    about="Whether B helps A.",
    methods={
        "baseline": True,
        "sequential": {"routes": (("B", "A"), ("A", "C"))},
        "federated": ({"strategy": "fedavg", "rounds": 2, "then_target": False},),
    },
)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 8}, slices=5)["A"]


@pytest.fixture
def site(hospital: Path, tmp_path: Path) -> SiteConfig:
    """Hospital A with a private folder of the test's own, and no word that scores of single patients may leave."""
    images = str(hospital.parent / "images")
    return load_site(write_site(tmp_path, "A", images=images, patient_scores=False, minimum_patients=2))


Shown = Callable[..., str]


@pytest.fixture
def shown(site: SiteConfig, capsys: pytest.CaptureFixture[str]) -> Shown:
    """What is printed when a study is approved; with the lines joined."""

    def show(study: Study = STUDY, **how: Any) -> str:
        capsys.readouterr()
        assert approve_study(site, study, **({"yes": True} | how)) == 0
        return " ".join(capsys.readouterr().out.split())

    return show


def refusal(site: SiteConfig, study: Study = STUDY, **how: Any) -> str:
    with pytest.raises(RelayError) as error:
        approve_study(site, study, **how)
    assert [record.study for record in approvals(site)] == [] or how.get("known")
    return str(error.value)


def test_a_method_of_a_package_is_named_with_the_packages_hash(shown: Shown, install: Callable[..., str]) -> None:
    expected = install_method(install)
    methods = {"baseline": True, "pooled": False, "more": ("thrice",), "packages": {"thrice": expected}}
    text = shown(small_study(name="ours", methods=methods))
    assert f"The method thrice is of a package installed on this machine, sha256 {expected}." in text


def test_what_runs_and_what_leaves_is_counted_in_plain_words(site: SiteConfig, shown: Shown) -> None:
    text = shown()
    counted = disclosure_of(
        "A", STUDY, [survey(site, one) for one in STUDY.variants], largest_elsewhere=10_000, patient_scores=False
    )
    assert f"hash {format_fingerprint(STUDY.digest)} " in text
    assert 'Study "ours" at site A, together with B and C. In its own words: Whether B helps A.' in text
    # By hand: two folds; the target alone, A after the best of B's folds, and the two rounds with one epoch each.
    # What starts the route A → C is the baseline, and costs nothing more.
    assert counted.exact and counted.trainings == 2 + 2 + 2 * 2
    assert counted.epochs == 2 * 2 + 2 * 2 + 2 * 2
    assert f"trainings 8: 4 of 1 epoch, 4 of 2 epochs; 12 epochs and {counted.gradient_steps} gradient steps" in text
    # Each of two rounds and folds gives an average, of which this site estimates the statistics.
    assert counted.estimates == 2 * 2
    assert "estimates 4 of batch normalisation's statistics, for weights from elsewhere" in text
    assert f"weights 12 times, once a training or estimate: {counted.tensors // 12} tensors of" in text
    assert "errors of the gland's volume, Dice of its apex, middle and base, and how far the model's prob" in text
    assert "none of single patients." in text
    assert "To C, where others go on training from them: A → C." in text
    assert "Into averages with those of B and C (FedAvg)" in text
    assert "held, to 10 000 training slices" in text
    assert "fewer than 2 patients" in text
    assert "nor may numbers that left" in text.lower() and "tell of fewer together" in text
    assert "can be worked out by anybody who knows the patients' names" in text
    assert f"After {counted.validations + counted.tests} scorings" in text and "scoring_floor is 0" in text
    assert "Approved. Site A answers" in text


def test_what_is_protected_is_told_as_the_site_file_has_it(
    site: SiteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    open_to_all = site.model_copy(update={"minimum_patients": 1})
    approve_study(open_to_all, STUDY, yes=True)
    assert "minimum_patients is 1: sums and differences" in " ".join(capsys.readouterr().out.split())
    approve_study(site.model_copy(update={"split_key": "site", "scoring_floor": 0.05}), STUDY, yes=True, again=True)
    text = " ".join(capsys.readouterr().out.split())
    assert "Nor may sums and differences of numbers that left" in text and "Numbers leave rounded" in text
    assert "is decided with a secret of this site" in text and "less than 5.0 % in volume Dice on half" in text
    assert "The figures of a training leave all the same" in text and "it cannot hold there" not in text


def test_a_floor_over_two_validation_patients_is_said_not_to_hold(
    site: SiteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    few = STUDY.model_copy(update={"split": STUDY.split.model_copy(update={"folds": 3})})
    approve_study(site.model_copy(update={"split_key": "site", "scoring_floor": 0.05}), few, yes=True)
    text = " ".join(capsys.readouterr().out.split())
    assert "The smallest validation split has 2 patients" in text and "it cannot hold there" in text


@pytest.mark.parametrize("key", ["public", "site"])
def test_a_minimum_raised_too_late_is_told_as_such(site: SiteConfig, key: str) -> None:
    site = site.model_copy(update={"split_key": key})
    told = PatientSets((frozenset({"Case00"}),))
    admit(site.model_copy(update={"minimum_patients": 1}), told, study="a" * 64)
    with pytest.raises(RelayError, match="what left site A before tells of fewer than 2 patients already"):
        approve_study(site, STUDY, yes=True)
    assert approve_study(site.model_copy(update={"minimum_patients": 1}), STUDY, yes=True) == 0


def test_a_study_of_the_zones_says_what_it_makes_of_the_masks(
    site: SiteConfig, shown: Shown, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "zones" not in shown()
    zoned = small_study(model={"target": "zones"}, methods={"baseline": True})
    text = shown(zoned)
    assert "does not name them, so this site takes part with the whole gland alone" in text
    assert "Dice of its apex, middle and base, and of its two zones, and how far" in text
    assert "in how many patients the zones are drawn; in how many patients the gland reaches beyond" in text
    named = site.model_copy(update={"labels": ZoneLabels(PZ=(1,), CG=(2, 3))})
    assert approve_study(named, zoned, yes=True, again=True) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert '"labels" in the site file names them: peripheral zone 1 and central gland 2 and 3.' in told


def test_a_study_of_volumes_says_so_and_counts_boxes(site: SiteConfig, shown: Shown) -> None:
    model = {"architecture": "VNet", "encoder": "", "dimensions": 3, "depth": 16, "slice_spacing_mm": 3.0}
    study = small_study(
        model=model,
        training={"slices": "all", "batch": 2},
        methods={"baseline": True, "sequential": {"routes": (("B", "A"),)}},
    )
    text = shown(study)
    assert "a network in three dimensions; a training uses one box of 16 slices, 3 mm apart, of each patient." in text
    assert "10 000 training boxes at each of them (--others)" in text
    # Of 8 patients 2 are for test and 3 in each fold: 3 boxes, the last of which joins the batch of the two before.
    assert "4 of 2 epochs; 8 epochs and 8 gradient steps together." in text
    assert "training slices at each of them" in shown() and "boxes" not in shown(again=True)


def test_a_hospital_is_told_that_all_its_patients_are_tested_in_turn(site: SiteConfig, shown: Shown) -> None:
    split = STUDY.split.model_copy(update={"test": "rotate", "test_fraction": 0.5, "folds": 2})
    text = shown(STUDY.model_copy(update={"split": split}))
    assert "are held out for test in the first of 2 rotations, every patient in one of them, the others" in text
    assert "the study is 2 in one: 1 repeat of 1 network, each with 2 rotations of the test." in text


def test_a_share_of_too_few_patients_is_not_approved(site: SiteConfig) -> None:
    methods = STUDY.methods.model_copy(update={"train_fraction": (0.1, 1.0)})
    sentence = refusal(site, STUDY.model_copy(update={"methods": methods}))
    assert "the smallest training split of this study has 1 of this site's" in sentence


def test_models_that_travel_into_ensembles_are_told(site: SiteConfig, shown: Shown) -> None:
    text = shown(STUDY.model_copy(update={"methods": STUDY.methods.model_copy(update={"more": ("consensus",)})}))
    assert "As models beside those of other sites, whose probabilities are averaged: 1 to B, 1 to C." in text
    assert "gets all its models for good" in text


def test_what_the_site_permits_of_single_patients_is_told(site: SiteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    approve_study(site.model_copy(update={"patient_scores": True}), STUDY, yes=True)
    assert "OF SINGLE PATIENTS" in capsys.readouterr().out


def test_nothing_is_approved_unless_somebody_says_yes(site: SiteConfig) -> None:
    assert "add --yes" in refusal(site)
    for answer in ("", "no", "y", "yes please"):
        assert "Not approved" in refusal(site, ask=lambda answer=answer: answer)
    with pytest.raises(Refused):
        approved(site, STUDY.digest)
    assert approve_study(site, STUDY, ask=lambda: " Yes\n") == 0
    assert approved(site, STUDY.digest) == STUDY


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sites": ("B", "C")}, "The study is about the sites B, C, and this is site A"),
        ({"methods": {"pooled": True}}, "pooled = false"),
    ],
)
def test_a_study_that_cannot_run_here_is_not_approved(site: SiteConfig, changes: dict[str, Any], told: str) -> None:
    assert told in refusal(site, small_study(**changes), yes=True)


@pytest.mark.parametrize(("folds", "minimum", "split"), [(2, 3, "test"), (5, 2, "validation")])
def test_a_study_whose_numbers_would_stand_for_too_few_is_not_approved(
    site: SiteConfig, folds: int, minimum: int, split: str
) -> None:
    """Else the site would work for hours, and be refused at its own door."""
    study = small_study(split={"folds": folds})
    site = site.model_copy(update={"minimum_patients": minimum})
    sentence = refusal(site, study, yes=True)
    assert f"the smallest {split} split" in sentence and f"minimum_patients = {minimum}" in sentence


def test_the_hash_is_compared_with_what_was_read_out(site: SiteConfig) -> None:
    digits = STUDY.digest[:20]
    other = digits[:-1] + ("0" if digits[-1] != "0" else "1")
    assert "another one than the coordinator read out" in refusal(site, heard=other, yes=True)
    for few in (digits[:19], "yes, it is", "zzzz" * 5):
        assert "20 digits" in refusal(site, heard=few, yes=True)
    assert approve_study(site, STUDY, heard=f" {format_fingerprint(STUDY.digest).upper()} ", yes=True) == 0


def test_what_changed_since_the_last_approval_is_told(site: SiteConfig, shown: Shown) -> None:
    assert 'No study named "ours" was approved here before.' in shown()
    later = Study.model_validate(
        STUDY.model_dump()
        | {
            "training": STUDY.training.model_dump() | {"epochs": 5},
            "methods": STUDY.methods.model_dump() | {"forgetting": True},
        }
    )
    text = shown(later)
    assert (
        f"approved {format_fingerprint(STUDY.digest)}: methods.forgetting: false → true training.epochs: 2 → 5" in text
    )
    assert re.search(r"and so, with the patients of today: epochs: 12 → \d+ gradient steps: \d+ → \d+", text)
    assert "seed" not in text.partition("Since ")[2]
    # The earlier one is not taken back by that.
    assert [record.left for record in approvals(site)] == ["", ""]


def test_a_study_that_is_approved_already_is_left_as_it_is_unless_asked(site: SiteConfig, shown: Shown) -> None:
    shown(largest_elsewhere=500)
    (record,) = approvals(site)
    assert "It is approved already" in shown(largest_elsewhere=900)
    assert approvals(site) == [record]
    shown(largest_elsewhere=900, again=True)
    (record,) = approvals(site)
    assert record.largest_elsewhere == 900


def test_for_a_script_there_is_json(site: SiteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert approve_study(site, STUDY, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["digest"], told["hash"], told["approved"]) == (STUDY.digest, format_fingerprint(STUDY.digest), False)
    assert told["disclosure"]["trainings"] == 8 and told["fewest_patients"] == 2
    assert approvals(site) == []
    assert approve_study(site, STUDY, as_json=True, yes=True) == 0
    assert json.loads(capsys.readouterr().out)["approved"] is True
    list_approvals(site, as_json=True)
    assert [record["study"] for record in json.loads(capsys.readouterr().out)] == [STUDY.digest]


@pytest.mark.parametrize("which", ["", "file", "digits"])
def test_leaving_ends_it_and_says_what_cannot_be_called_back(
    site: SiteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    other = small_study(name="other", seed=5)
    approve_study(site, STUDY, yes=True)
    if which:
        approve_study(site, other, yes=True)
    audit_log.append(site.private() / "egress.jsonl", {"study": STUDY.digest, "bytes": 2_000_000, "weights": "a" * 64})
    (tmp_path / "study.toml").write_text(study_toml(STUDY), encoding="utf-8")
    capsys.readouterr()
    named = {"": "", "file": str(tmp_path / "study.toml"), "digits": format_fingerprint(STUDY.digest)[:9]}[which]
    assert leave_study(site, named) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert 'Site A has left "ours"' in text
    assert "cannot be called back: 1 message, 1 with weights, 2 MB" in text
    with pytest.raises(Refused) as refused:
        approved(site, STUDY.digest)
    assert refused.value.refusal == Refusal.LEFT
    if which:
        assert approved(site, other.digest)
    with pytest.raises(RelayError, match="takes part in no study"):
        leave_study(site, STUDY.digest)
    assert approve_study(site, STUDY, yes=True) == 0
    assert approved(site, STUDY.digest), "by the site's own will it takes part again"


@pytest.mark.parametrize("which", ["study", "1234", "gone.toml"])
def test_a_study_is_named_by_its_file_or_enough_digits(site: SiteConfig, which: str) -> None:
    approve_study(site, STUDY, yes=True)
    with pytest.raises(RelayError, match="8 digits at least"):
        leave_study(site, which)


@pytest.mark.slow
def test_a_person_at_a_terminal_is_asked(site: SiteConfig, tmp_path: Path) -> None:
    """And a script that has no terminal is told what it lacks."""
    (tmp_path / "study.toml").write_text(study_toml(STUDY), encoding="utf-8")
    command = [sys.executable, "-m", "deploy.cli", "site", "approve", tmp_path / "site.toml", tmp_path / "study.toml"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 1 and "add --yes" in done.stderr.splitlines()[-1] and approvals(site) == []
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, b"yes\n")
    told = b""
    try:
        while part := os.read(ours, 4096):
            told += part
    except OSError:  # the other side has ended
        pass
    os.close(ours)
    assert process.wait(60) == 0, told
    assert b'Type "yes"' in told and b"Approved." in told
    assert [record.study for record in approvals(site)] == [STUDY.digest]
