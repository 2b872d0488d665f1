"""What results.json calls things: a row has one name, whether it was finished or parked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.protocol.messages import EvaluateReply, FineTuneOrder, WireMessage
from common.protocol.refusals import Refusal, refusal_error
from common.scores import COUNTED
from server.results.rows import results_of
from server.results.schema import dump
from tests.support.fake_sites import Answer, FakeGrid, go, quick, study_of

__all__ = ["quick"]

pytestmark = pytest.mark.usefixtures("quick")


def found_at_b(folder: Path, *, refuses: bool, **methods: Any) -> dict[str, set[str]]:
    """The labels of the rows at B, and of the parked ones, where B trains or refuses to."""

    def change(site: str, order: WireMessage, answer: Answer) -> Answer:
        refused = refuses and site == "B" and isinstance(order, FineTuneOrder)
        return refusal_error(Refusal.DATA_CHANGED) if refused else answer

    run = go(FakeGrid(study_of(**methods), change), folder)
    results = dump(results_of(run.study, [run]))
    return {part: {entry["label"] for entry in results[part] if entry["target"] == "B"} for part in ("rows", "parked")}


def test_a_parked_row_has_the_name_that_it_would_have_had(tmp_path: Path) -> None:
    methods = {
        "baseline": True,
        "longer_baseline": True,
        "cyclic": {"laps": 1},
        "federated": ({"strategy": "krum", "rounds": 1},),
    }
    names = {"B alone", "B alone, longer", "1 lap to B", "Krum", "Krum, batch norm re-estimated", "Krum, then B"}
    assert found_at_b(tmp_path / "yes", refuses=False, **methods) == {"rows": names, "parked": set()}
    assert found_at_b(tmp_path / "no", refuses=True, **methods) == {"rows": set(), "parked": names}


def test_a_route_that_could_not_grow_is_called_a_growing_route(tmp_path: Path) -> None:
    found = found_at_b(tmp_path, refuses=True, sequential={"routes": "greedy"})
    assert found == {"rows": set(), "parked": {"growing route to B"}}


def test_figures_of_test_patients_alone_are_in_the_units_shown_and_null_where_not_measured(tmp_path: Path) -> None:
    unmeasured = dict.fromkeys(COUNTED, 0) | {s.key: 0.0 for scores in COUNTED.values() for s in scores}

    def change(site: str, order: WireMessage, answer: Answer) -> Answer:
        if site == "B" and isinstance(answer, tuple) and isinstance(answer[0], EvaluateReply):
            return answer[0].model_copy(update=unmeasured), None
        return answer

    run = go(FakeGrid(study_of(baseline=True), change), tmp_path)
    rows = dump(results_of(run.study, [run]))["rows"]
    assert {row["target"] for row in rows} == {"A", "B", "C"}
    for row in rows:
        counts = (row["volume_patients"], row["thirds_patients"])
        figures = [row["volume_error_ml"], row["absolute_volume_error_ml"]]
        calibration = (row["calibration_error"], row["calibration_patients"])
        thirds = [row["dice_apex"], row["dice_middle"], row["dice_base"]]
        if row["target"] == "B":
            assert counts == (0, 0) and figures + thirds == [None] * 5
            assert calibration == (None, 0)
        else:
            share = row["dice"] / 100
            assert counts == (5, 4)
            assert figures == pytest.approx([-share, 2 * share], abs=1e-4)
            assert thirds == pytest.approx([100 * share / 8, 100 * share / 2, 100 * share / 4], abs=1e-5)
            assert calibration == (pytest.approx(100 * share / 16, abs=1e-5), 5)
