"""The mean of a target's routes: uniform, with the target's own statistics, and made of nothing that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Error

from common.plan.graph import FineTune, Soup
from common.protocol.messages import FineTuneOrder, WireMessage
from server.results.choices import open_choices
from server.results.rows import results_of, write_json
from server.results.schema import dump
from server.scheduling.state import RunState
from tests.support.fake_sites import Answer, FakeGrid, go, quick, study_of

__all__ = ["quick"]
pytestmark = pytest.mark.usefixtures("quick")

SOUP: dict[str, Any] = {"sequential": {"routes": "all", "max_hops": 2}, "more": ("soup",)}


def found_by(run: RunState) -> bytes:
    return write_json(dump(results_of(run.study, [run])))


def layer(out: Path, digest: str) -> Any:
    return safetensors.numpy.load_file(out / "weights" / f"{digest}.safetensors")["layer"].astype(np.float64)


def test_the_row_is_the_uniform_mean_of_all_routes_re_estimated(tmp_path: Path) -> None:
    run = go(FakeGrid(study_of(**SOUP)), tmp_path, keep_weights=True)
    assert not run.parked
    rows = [row for row in run.plan.rows if row.method == "soup"]
    assert {(row.target, row.fold) for row in rows} == {(target, fold) for target in "ABC" for fold in (0, 1)}
    for row in rows:
        assert isinstance(row.model, FineTune) and not row.model.trains and row.validation == row.model
        soup = row.model.parent
        assert isinstance(soup, Soup) and len(soup.parts) == 4
        ends = {
            run.records[other.model].weights
            for other in run.plan.rows
            if (other.method, other.target, other.fold) == ("sequential", row.target, row.fold)
        }
        assert set(run.records[soup].parents) == ends
        mean = np.mean([layer(tmp_path, end) for end in ends], axis=0)
        np.testing.assert_allclose(layer(tmp_path, run.records[soup].weights), mean, rtol=1e-6)
        assert run.records[row.model].parents == (run.records[soup].weights,)
    results = results_of(run.study, [run])
    shown = [row for row in results.rows if row.method == "soup"]
    assert all(row.contributed == ("A", "B", "C") for row in shown)
    assert all(row.label == f"mean of all routes to {row.target}" for row in shown)
    budgets = {budget.method: budget for budget in results.budgets}
    assert budgets["soup"].trainings == budgets["sequential"].trainings, "a soup costs no training"
    assert "uniform" in {entry[0]: entry[1] for entry in open_choices(run.study, run.plan)}["mean of all routes"]


def test_it_resumes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    whole = go(FakeGrid(study_of(**SOUP)), tmp_path / "whole")
    files = {path.stem for path in (tmp_path / "whole" / "weights").glob("*.safetensors")}
    soups = {whole.records[node].weights for node in whole.plan.nodes if isinstance(node, Soup)}
    assert len(soups) == 6 and not soups & files, "only the re-estimated soups are rows"

    def no_estimates(_: str, order: WireMessage, answer: Answer) -> Answer:
        node = whole.plan.by_id[order.node] if isinstance(order, FineTuneOrder) else None
        return Error(8, "gone") if isinstance(node, FineTune) and not node.trains else answer

    assert go(FakeGrid(study_of(**SOUP), no_estimates), tmp_path / "broken").parked
    grid = FakeGrid(study_of(**SOUP))
    assert found_by(go(grid, tmp_path / "broken")) == found_by(whole)
    trained = [whole.plan.by_id[order.node] for order in grid.orders() if isinstance(order, FineTuneOrder)]
    assert len({node for node in trained if isinstance(node, FineTune) and not node.trains}) == 6
    assert not any(node.trains for node in trained if isinstance(node, FineTune))
