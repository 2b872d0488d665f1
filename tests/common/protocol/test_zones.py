"""Replies of a study of the zones have their figures; replies of other studies do not know of them."""

from __future__ import annotations

from typing import Any

import pytest

from client.evaluation.counted_means import counted_means
from client.evaluation.evaluate import CaseScore
from client.governance.egress import numbers_in
from common.plan.graph import Evaluate, Start
from common.protocol.codec import from_record, to_record
from common.protocol.messages import Description, EvaluateReply
from common.scores import unmeasured
from common.target import GLAND, ZONES
from server.ledger.records import of_scores

ANY = "a" * 64


def reply(**fields: Any) -> EvaluateReply:
    base = {"study": ANY, "key": ANY, "state": "done", "dice": 0.5, "patients": 4, "slices": 9}
    return EvaluateReply.model_validate({**base, **fields})


def test_a_reply_about_the_gland_says_nothing_of_zones() -> None:
    plain = reply(**unmeasured(GLAND))
    assert not {"dice_pz", "dice_cg", "zones_patients"} & plain.model_dump(mode="json").keys()
    assert "zoned_patients" not in Description(study=ANY, site="A", patients_found=1, prepared=0).model_dump()
    record = of_scores(Evaluate("A", 0, "test", Start()), plain, models=(ANY,))
    assert not {"dice_pz", "dice_cg", "zones_patients"} & record.content.keys()


def test_every_reply_about_zones_has_as_many_numbers() -> None:
    without = reply(**unmeasured(ZONES))
    measured = reply(dice_pz=0.0, dice_cg=0.75, zones_patients=3)
    assert numbers_in(without) == numbers_in(measured) == numbers_in(reply()) + 3
    again, _ = from_record(to_record(measured), EvaluateReply)
    assert again == measured
    record = of_scores(Evaluate("A", 0, "test", Start()), measured, models=(ANY,))
    assert (record.dice_pz, record.dice_cg, record.zones_patients) == (0.0, 0.75, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"dice_pz": 0.5, "dice_cg": 0.5, "zones_patients": 0},
        {"dice_pz": 0.5, "dice_cg": 0.5, "zones_patients": 5},
        {"dice_pz": 0.5, "dice_cg": 0.5},
        {"dice_pz": 0.0, "zones_patients": 0},
        {"dice_pz": 1.5, "dice_cg": 0.5, "zones_patients": 3},
    ],
)
def test_figures_of_zones_need_patients_behind_them(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        reply(**fields)


def test_the_mean_is_over_the_patients_with_zones_and_not_over_too_few() -> None:
    def case(name: str, pz: float | None, cg: float | None) -> CaseScore:
        return CaseScore(name, slices=1, dice=0.5, iou=0.5, dice_volume=0.5, dice_pz=pz, dice_cg=cg)

    cases = [case("a", 0.25, 0.5), case("b", None, None), case("c", 0.75, 1.0)]
    found = counted_means(cases, lambda patients: patients == {"a", "c"})
    assert (found["dice_pz"], found["dice_cg"], found["zones_patients"]) == (0.5, 0.75, 2)
    assert "dice_pz" not in counted_means(cases, lambda patients: len(patients) > 2)
