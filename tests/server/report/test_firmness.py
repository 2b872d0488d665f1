"""Under the table stands how often other validation patients would have chosen another route."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from common.statistics.optimism import choice
from server.report import read_results, text_lines
from server.report.firmness import firmness
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

METHODS = {"baseline": True, "longer_baseline": False, "sequential": {"routes": "all", "max_hops": 2}}


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = small_study(sites=("A", "B", "C"), methods=METHODS, repeats=2)
    return plausible(study, tmp_path_factory.mktemp("firm"))


def by_hand(results: dict[str, Any], variant: int, target: str) -> Any:
    """The choice again, from the rows as they stand in results.json."""
    volume = results["study"]["training"]["slices"] != "chosen"
    routes = defaultdict(list)
    for row in results["rows"]:
        if (row["variant"], row["target"], row["method"]) == (variant, target, "sequential"):
            values = row["validation_case_dice_volume" if volume else "validation_case_dice"]
            weights = dict.fromkeys(values, 1) if volume else row["validation_case_slices"]
            routes[tuple(row["route"])].append({case: (value, weights[case]) for case, value in values.items()})
    return choice(list(routes.values()))


def test_results_hold_the_choice_of_every_target_and_repeat(repeated: dict[str, Any]) -> None:
    entries = repeated["route_choices"]
    assert [(entry["variant"], entry["target"]) for entry in entries] == [(v, t) for v in (0, 1) for t in "ABC"]
    for entry in entries:
        (headline,) = [
            row
            for row in repeated["rows"]
            if row["headline"] and (row["variant"], row["target"]) == (entry["variant"], entry["target"])
        ]
        found = by_hand(repeated, entry["variant"], entry["target"])
        assert entry["route"] == headline["route"] and len(entry["chosen"]) == 4
        assert entry["patients"] == found.patients >= 6
        assert entry["chosen"][headline["label"]] == pytest.approx(100 - entry["another"])
        assert sorted(entry["chosen"].values()) == pytest.approx(sorted(100 * share for share in found.shares))
        assert entry["optimism"] == pytest.approx(found.optimism, abs=1e-6)


def test_a_route_of_another_method_is_another_choice(tmp_path: Path) -> None:
    """With brakes, or with batch norm of its own, a route has several rows; their folds are not those of one route."""
    routes = METHODS | {"sequential": {"routes": (("B", "A"), ("C", "A")), "batch_norm": ("travel", "local")}}
    study = small_study(sites=("A", "B", "C"), methods=routes | {"l2_sp": {"weight": 0.1}})
    results = plausible(study, tmp_path)
    (entry,) = results["route_choices"]
    ends = ("", ", own batch norm", ", L2-SP")
    assert set(entry["chosen"]) == {f"{source} → A{end}" for source in "BC" for end in ends}
    (headline,) = [row for row in results["rows"] if row["headline"]]
    assert entry["chosen"][headline["label"]] == pytest.approx(100 - entry["another"])
    assert sum(entry["chosen"].values()) == pytest.approx(100)


def test_it_stands_under_the_table_on_the_page_and_in_the_terminal(tmp_path: Path, repeated: dict[str, Any]) -> None:
    folder = put(tmp_path, repeated)
    (told,) = firmness(read_results(folder))
    shares = {target: [] for target in "ABC"}  # type: dict[str, list[float]]
    for entry in repeated["route_choices"]:
        shares[entry["target"]].append(entry["another"])
    assert all(f"{fmean(found):.0f} % at {target}" in told for target, found in shares.items())
    assert len(re.findall(r"[+−±][\d.]+ at [ABC]", told)) == 3
    assert told in page_of(folder).text and told in " ".join(text_lines(read_results(folder)))


def test_where_figures_of_single_patients_stay_a_sentence_says_so(tmp_path: Path, repeated: dict[str, Any]) -> None:
    kept = repeated | {"route_choices": [entry for entry in repeated["route_choices"] if entry["target"] != "B"]}
    first, second = firmness(read_results(put(tmp_path, kept)))
    assert " at B" not in first
    assert second.startswith("How often other validation patients would have chosen another route is not known for B:")
    one = [
        row for row in repeated["rows"] if row["method"] != "sequential" or (len(row["route"]) == 2 and row["headline"])
    ]
    alone = put(tmp_path / "one", repeated | {"route_choices": [], "rows": one})
    assert firmness(read_results(alone)) == []
