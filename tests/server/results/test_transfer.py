"""Backward and forward transfer in results.json, worked out anew from its own matrix, with numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.report import read_results, write_report
from server.report.forgetting import transfer_lines
from tests.support.hospitals import small_study
from tests.support.pages import put
from tests.support.plausible import plausible

METHODS: dict[str, Any] = {
    "baseline": True,
    "forgetting": True,
    "sequential": {"routes": (("B", "C", "A"), ("C", "B"), ("A", "B", "A"))},
    "lwf": {"weight": (0.5, 1.0)},
    "l2_sp": {"weight": 0.1},
    "cyclic": {"laps": 2, "epochs": 1},
}


def made(folder: Path, **methods: Any) -> dict[str, Any]:
    return plausible(small_study(methods={**METHODS, **methods}), folder)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return made(tmp_path_factory.mktemp("transfer"))


def test_every_selected_route_has_its_transfer(results: dict[str, Any]) -> None:
    ways = {(entry["method"], tuple(entry["route"])) for entry in results["forgetting"]}
    routes = {("B", "C", "A"), ("C", "B"), ("A", "B", "A")}
    assert ways == {(method, route) for method in ("sequential", "lwf", "l2-sp") for route in routes} | {
        ("cyclic", route * 2) for route in (("B", "C", "A"), ("C", "A", "B"), ("A", "B", "C"))
    }


def test_transfer_is_that_of_lopez_paz_and_ranzato(results: dict[str, Any]) -> None:
    own = {
        (row["variant"], row["target"]): row["dice"]
        for row in results["rows"]
        if row["method"] == "baseline" and row["selected"]
    }
    assert len(own) == 3
    for entry in results["forgetting"]:
        route, hops = np.array(entry["route"]), entry["after"]
        assert [hop["site"] for hop in hops] == list(route)
        r = np.array([[hop["dice"][site] for site in route] for hop in hops])
        b = np.array([own[entry["variant"], site] for site in route])
        assert entry["alone"] == dict(zip(route, b, strict=True))
        end = len(route) - 1
        left = [place for place in range(end) if route[place] not in route[place + 1 :]]
        come = [place for place in range(1, len(route)) if route[place] not in route[:place]]
        assert np.isclose(entry["backward_transfer"], np.mean([r[end, p] - r[p, p] for p in left]), atol=1e-5)
        assert np.isclose(entry["forward_transfer"], np.mean([r[p - 1, p] - b[p] for p in come]), atol=1e-5)
        if len(set(route)) == len(route):  # without repetition these are the paper's sums over its tasks
            tasks = len(route)
            backward = sum(r[tasks - 1, p] - r[p, p] for p in range(tasks - 1)) / (tasks - 1)
            forward = sum(r[p - 1, p] - b[p] for p in range(1, tasks)) / (tasks - 1)
            assert np.allclose([entry["backward_transfer"], entry["forward_transfer"]], [backward, forward], atol=1e-5)


def test_without_own_models_there_is_no_forward_transfer(tmp_path: Path) -> None:
    results = made(tmp_path, baseline=False, lwf={}, l2_sp={}, cyclic={})
    assert results["forgetting"]
    for entry in results["forgetting"]:
        assert entry["forward_transfer"] is None and entry["alone"] == {}
        assert entry["backward_transfer"] is not None


def test_the_page_shows_the_transfer_of_every_method(results: dict[str, Any], tmp_path: Path) -> None:
    lines = {line.title: line for line in transfer_lines(read_results(put(tmp_path, results)))}
    assert list(lines) == [
        "Routes",
        "Routes, learning without forgetting",
        "Routes, pulled towards the received weights (L2-SP)",
        "Laps",
    ]
    for title, method in (("Routes", "sequential"), ("Laps", "cyclic")):
        entries = [entry for entry in results["forgetting"] if entry["method"] == method]
        assert lines[title].routes == len(entries) == 3
        assert lines[title].backward == pytest.approx(np.mean([entry["backward_transfer"] for entry in entries]))
        assert lines[title].forward == pytest.approx(np.mean([entry["forward_transfer"] for entry in entries]))
    page = write_report(put(tmp_path, results)).read_text(encoding="utf-8")
    for words in ("<h3>Transfer</h3>", "Lopez-Paz and Ranzato", "B → C → A, LwF", "Backward transfer"):
        assert words in page, words
