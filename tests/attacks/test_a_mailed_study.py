"""A study file comes by mail and plans more models than any machine can hold, so that opening it takes all memory."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from common.config.study import Study


@pytest.mark.parametrize(
    ("sites", "methods", "what"),
    [
        (12, {"sequential": {"max_hops": 11}}, 'the routes "all" of 12 sites ask for 3868260 models or more'),
        (
            40,
            {"sequential": {"routes": "none"}, "pooled_subsets": True},
            "the data of every union of 40 sites ask for 219902325546800",
        ),
        (
            100_000,
            {"sequential": {"routes": "none"}, "pooled_subsets": True},
            "the data of every union of 100000 sites",
        ),
        (10_000, {"sequential": {"max_hops": 9_999}}, 'the routes "all" of 10000 sites ask for'),
        (100, {"sequential": {"routes": "none"}, "cyclic": {"laps": 100}}, "the laps of 100 sites ask for 5000000"),
        (
            50,
            {"sequential": {"routes": "none"}, "federated": ({"rounds": 1000, "local_epochs": (1, 2, 3)},)},
            "the rounds of fedavg of 50 sites ask for 750000",
        ),
    ],
)
def test_a_study_that_no_machine_could_plan_is_refused_at_once(sites: int, methods: dict[str, Any], what: str) -> None:
    """12 sites in all orders took all memory of whoever opened the file."""
    began = time.monotonic()
    with pytest.raises(ValidationError) as refused:
        Study.model_validate({"sites": tuple(f"S{n}" for n in range(sites)), "methods": methods})
    assert time.monotonic() - began < 2
    assert what in str(refused.value) and "and a study may ask for 200000" in str(refused.value)
