"""A coordinator has weights scored that draw the gland of one patient whom it knows, and of nobody else.

A Dice of exactly 0 says that the patient is not among those scored, and any other that the patient is: one question for
each scoring, and the answers tell in which split the patient is, and whether at all. What such weights do is put in the
network's place here; the site's code around it is the real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.data.splits import split
from client.data.survey import survey
from client.governance.approval import Approval, approve
from client.governance.disclosure import disclosure_of
from client.preprocessing.pipeline import PatientSlices, Record
from client.site_config import load_site
from common.model.network import build
from common.plan.graph import Evaluate
from common.protocol.codec import from_record
from common.protocol.messages import EvaluateReply
from common.protocol.refusals import Refusal
from deploy.simulation.local_grid import enter_run
from tests.support.hospitals import patient, small_study, write_pair, write_site
from tests.support.site_calls import order_of, planned, refused, send

NAMES = [f"Case{k:02}" for k in range(10)]
STUDY = small_study(
    methods={
        "baseline": True,
        "unadapted": True,
        "sequential": {"routes": (("B", "A"),)},
        "federated": ({"rounds": 1},),
    }
)
FIGURES = ("dice", "iou", "dice_volume", "false_slices", "hd95_mm", "surface_patients", "volume_error_ml", "dice_apex")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital") / "images"
    for k, name in enumerate(NAMES):
        write_pair(folder, name, *patient(k, slices=7))
    return folder


def approved_at(folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> Approval:
    enter_run(1)
    path = write_site(folder, "A", **{"images": str(images), "patient_scores": False, **keys})
    monkeypatch.setenv("RELAY_SITE", str(path))
    site = load_site(path)
    counted = disclosure_of("A", STUDY, [survey(site, STUDY)], largest_elsewhere=10_000, patient_scores=False)
    return approve(site, STUDY, disclosure=counted)


def draws(monkeypatch: pytest.MonkeyPatch, known: set[str]) -> None:
    """From now on, whatever weights come draw the glands of these patients, and no others."""

    def model(*_: object) -> Any:
        def probabilities(record: Record, slices: PatientSlices) -> NDArray[np.float32]:
            return slices.mask.astype(np.float32) * np.float32(record.patient in known)

        return probabilities

    monkeypatch.setattr("client.stages.evaluate.predictions", model)


def scorings(of: str) -> list[Evaluate]:
    nodes = [node for node in planned(STUDY)[0].nodes if isinstance(node, Evaluate) and node.site == "A"]
    return [node for node in nodes if node.split == of]


def ask(node: Evaluate, seed: int) -> EvaluateReply:
    """Other weights each time, so that each is a question of its own to a site that is approved anew."""
    torch.manual_seed(seed)
    weights = build(STUDY.model).state_dict()
    reply = send(order_of(node, weights, STUDY), weights)
    assert not reply.has_error(), reply.error
    return from_record(reply.content, EvaluateReply)[0]


def answers(
    folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch, victim: str, **keys: Any
) -> list[tuple[EvaluateReply, bool]]:
    """What the site says of each scoring, and whether the victim truly is among those scored."""
    approved_at(folder, images, monkeypatch, **keys)
    draws(monkeypatch, {victim})
    divided = split(NAMES, STUDY.split, site="A")
    found = []
    for node in [*scorings("validation")[:2], scorings("test")[0]]:
        over = divided.test if node.split == "test" else divided.validation[node.fold]
        found.append((ask(node, 0), victim in over))
    return found


@pytest.mark.parametrize("victim", ["Case00", "Case04"])
def test_without_a_floor_an_exact_0_tells(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """That the attack is one: as the site's own words at the approval say."""
    for reply, there in answers(tmp_path, images, monkeypatch, victim):
        assert (reply.dice_volume > 0) == there


@pytest.mark.slow
def test_with_a_floor_all_answers_are_alike(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    divided = split(NAMES, STUDY.split, site="A")
    for victim in (divided.test[0], divided.validation[0][0], divided.validation[1][0], "Case99"):
        found = answers(tmp_path / victim, images, monkeypatch, victim, scoring_floor=0.05)
        assert any(there for _, there in found) == (victim != "Case99")
        for reply, _ in found:
            assert reply.below_floor and not any(getattr(reply, name) for name in FIGURES)


def test_a_model_that_does_its_work_is_scored_as_before(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approved_at(tmp_path, images, monkeypatch, scoring_floor=0.05)
    draws(monkeypatch, set(NAMES))
    for node in (scorings("validation")[0], scorings("test")[0]):
        reply = ask(node, 0)
        assert reply.dice_volume > 0.5 and not reply.below_floor


@pytest.mark.slow
def test_scorings_are_as_many_as_were_approved(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = approved_at(tmp_path, images, monkeypatch)
    assert record.disclosure is not None and record.scorings == record.disclosure.validations + record.disclosure.tests
    few = record.disclosure.model_copy(update={"validations": 1, "tests": 1})
    site = load_site(tmp_path / "site.toml")
    approve(site, STUDY, disclosure=few)
    draws(monkeypatch, set(NAMES))
    first, second, *rest = [*scorings("validation"), *scorings("test")]
    torch.manual_seed(0)
    weights = build(STUDY.model).state_dict()
    for node in (first, second, first):  # the same again is no further one
        assert not send(order_of(node, weights, STUDY), weights).has_error()
    for node in rest[:2]:
        assert refused(send(order_of(node, weights, STUDY), weights), Refusal.SCORINGS_SPENT)
    approve(site, STUDY, disclosure=few)
    assert not send(order_of(rest[0], weights, STUDY), weights).has_error()
