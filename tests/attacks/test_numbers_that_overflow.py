"""A hospital tells finite numbers whose mean is not: all that others had worked for failed at the page, every time."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from common.protocol.codec import from_record, to_record
from common.protocol.messages import EvaluateReply, FineTuneReply

A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize("name", ["hd95_mm", "assd_mm", "volume_error_ml", "absolute_volume_error_ml"])
@pytest.mark.parametrize("value", [1.7e308, 1e6, -1e6])
def test_a_number_that_no_patient_has_does_not_cross_the_wire(name: str, value: float) -> None:
    """A distance of 1.7e308 is finite, and the mean of two is not: the page failed after all the work, every time."""
    honest = EvaluateReply(study=A, key=B, state="done", patients=5, slices=9, surface_patients=5, volume_patients=5)
    record = to_record(honest)
    assert from_record(record, EvaluateReply)[0] == honest
    with pytest.raises(ValidationError):
        EvaluateReply.model_validate(honest.model_dump() | {name: value})


@pytest.mark.parametrize("change", [{"losses": (1e300,)}, {"learning_rates": (1e300,)}, {"kept_loss": -1e300}])
def test_a_training_tells_no_number_that_overflows_a_sum(change: dict[str, Any]) -> None:
    honest = {"losses": (0.5,), "learning_rates": (0.1,), "dices": (0.5,), "epoch": 1}
    assert FineTuneReply.model_validate({"study": A, "key": B, "state": "running", **honest})
    with pytest.raises(ValidationError):
        FineTuneReply.model_validate({"study": A, "key": B, "state": "running", **honest, **change})
