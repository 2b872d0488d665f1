"""What is to be known of a method stands in its file: whoever adds one touches nothing else."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.delivery.letter import letter, text
from client.delivery.model_card import name_of
from client.delivery.model_card_text import markdown
from common.config.study import Study
from common.errors import RelayError
from common.plan import PlannedRow, Section, methods, plan
from common.plan.methods import METHODS, Given, Method
from common.plan.routes import along
from common.plan.selection import offered
from common.plan.values import row_of
from deploy.planning.study_plan import study_plan
from server.report import read_results, text_lines, write_report
from tests.support.cards import figure, outcome
from tests.support.hospitals import REPO
from tests.support.plausible import plausible

ROOMS = ("client", "common", "deploy", "server")
MAY_NAME = ("common/plan/methods/", "common/strategies/", "common/config/")
"""Where methods are, and the keys and values of a study file."""


def rows(given: Given, target: str) -> Iterator[PlannedRow]:
    route = (target,) * 3
    for fold in given.study.split.run:
        yield row_of(given.study, "threefold", route, target, fold, along(given.study, route, fold))


THREEFOLD = Method(
    key="threefold",
    title="Target alone, three times",
    name=lambda _, target: f"{target} alone, three times",
    section=Section.ALONE,
    rows=rows,
    optional=True,
    alone=True,
)
"""As a file under common/plan/methods/ would have it: the control for the restarts that a route brings."""


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "METHODS", (*METHODS[:2], THREEFOLD, *METHODS[2:]))


def study_of(*more: str) -> Study:
    asked = {"more": more, "unadapted": True, "federated": ({"rounds": 2},)}
    content = {"sites": ("A", "B", "C"), "split": {"folds": 2}, "training": {"epochs": 2}, "methods": asked}
    return Study.model_validate(content)


CENSUS = {"A": (10, 11), "B": (20, 21), "C": (33, 34), "pooled": (60, 61)}


@pytest.mark.usefixtures("registered")
def test_a_method_is_planned_where_a_study_names_it() -> None:
    found = plan(study_of("threefold"), CENSUS)
    own = [row for row in found.rows if row.method == "threefold"]
    assert [(row.target, row.fold, row.route) for row in own] == [(s, fold, (s,) * 3) for s in "ABC" for fold in (0, 1)]
    assert {row.model for row in own} <= set(found.nodes)
    assert plan(study_of(), CENSUS).rows == tuple(row for row in found.rows if row.method != "threefold")
    assert list(dict.fromkeys(row.method for row in offered(found, "A")))[:4] == [
        "baseline", "longer", "threefold", "sequential",
    ]  # fmt: skip


def test_without_its_file_the_study_is_refused() -> None:
    with pytest.raises(RelayError, match="threefold"):
        plan(study_of("threefold"), CENSUS)


@pytest.mark.usefixtures("registered")
def test_a_method_stands_in_the_results_and_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(plausible(study_of("threefold"), tmp_path / "run")))
    results = read_results(tmp_path)
    assert {row.label for row in results.rows if row.method == "threefold" and row.target == "B"} == {
        "B alone, three times"
    }
    assert "threefold" in {budget.method for budget in results.budgets}
    heads = [re.split(r"\s{2,}", line)[0] for line in text_lines(results)]
    assert heads[1:5] == ["Target alone", "Target alone, longer", "Target alone, three times", "A →"]
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<th scope="row">Target alone, three times</th>' in page and "A alone, three times" in page
    settings = re.compile(r"<pre.*?</pre>|<td>threefold</td>", re.DOTALL)
    assert "threefold" not in settings.sub("", page), "but for the study's settings, readers are shown no key"


@pytest.mark.usefixtures("registered")
def test_a_method_stands_in_the_letter_and_on_the_card() -> None:
    brought = outcome(figure(1.5, 0.5), (1.5,) * 6, methods=("baseline", "threefold"))
    for told in (text(letter(brought)), markdown(brought.selected.card)):
        assert "A alone, three times" in " ".join(told.split())
    assert brought.own is not None and name_of(brought.own.card.method, (), "A") == "A alone, three times"
    kept = outcome(figure(1.5, 0.5), (1.5,) * 6, method="threefold", route=("A", "A", "A"))
    assert letter(kept).verdict == "own", "it was trained at the hospital alone"


@pytest.mark.usefixtures("registered")
def test_a_method_is_counted_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    slices = dict.fromkeys("ABC", 100)
    assert study_plan(study_of("threefold"), {}, slices, at_once=1, trial=False, as_json=False) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Target alone, three times")]
    assert line.split()[4:6] == ["6", "18"], "three sites, two folds, three stages each"


def test_nobody_else_knows_a_method_by_its_key() -> None:
    keys = {method.key for method in METHODS} - {"pooled"}  # also the name of a site
    found = {
        (str(path.relative_to(REPO)), node.value)
        for room in ROOMS
        for path in sorted((REPO / room).rglob("*.py"))
        if not str(path.relative_to(REPO)).startswith(MAY_NAME)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in keys
    }
    settings = {("server/report/wording.py", "sequential")}
    settings |= {(f"server/report/{name}.py", "halving") for name in ("remarks", "view")}
    settings |= {("common/plan/searches.py", name) for name in ("greedy", "halving")}
    predictors = {(f"server/{name}/predictions.py", "unadapted") for name in ("report", "results")}
    strategies = {("server/aggregation.py", "fedavg")}
    assert found == settings | predictors | strategies, "where it is no method, but has the same name"
    quoted = re.compile("|".join(f"[\"']{key}[\"']" for key in keys))
    for room in ROOMS:
        for path in (REPO / room).rglob("*.j2"):
            assert not quoted.search(path.read_text(encoding="utf-8")), path
