"""Which weights a site gets: validation chooses, ties go to what is simpler, and nothing needs moved images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from common.config.study import Study
from common.plan import PlannedRow, method_of, plan
from common.plan.selection import offered, own, select
from tests.support.selected import best_row

STUDY = Study.model_validate(
    {
        "sites": ("A", "B", "C"),
        "split": {"folds": 2},
        "methods": {"unadapted": True, "cyclic": {"laps": 2, "epochs": 1}, "federated": ({"rounds": 2},)},
    }
)
PLAN = plan(STUDY, {"A": (10, 11), "B": (20, 21), "C": (33, 34), "pooled": (60, 61)})


def test_every_method_that_moves_no_image_is_offered_and_the_simple_ones_come_first() -> None:
    for site in STUDY.sites:
        rows = offered(PLAN, site)
        assert {row.target for row in rows} == {site}
        methods = list(dict.fromkeys(row.method for row in rows))
        assert methods[:3] == ["baseline", "longer", "sequential"]
        assert set(methods) == {row.method for row in PLAN.rows} - {"pooled", "pooled-then-target"}
        hops = [len(row.route) for row in rows if row.method == "sequential"]
        assert hops == sorted(hops)
    assert {"pooled", "pooled-then-target"} < {row.method for row in PLAN.rows}, "or nothing was left out"


DICES = st.lists(st.sampled_from([-1.0, 0.5, 0.75, 0.875, 0.9]), min_size=60, max_size=60)


def entries(rows: Sequence[PlannedRow], dices: Sequence[float]) -> list[dict[str, Any]]:
    """The rows that count, as results.json would have them."""
    return [
        {"method": row.method, "route": row.route, "validation_dice": dice, "place": place}
        for place, (row, dice) in enumerate(zip(rows, dices, strict=True))
        if dice >= 0
    ]


@given(DICES)
def test_the_best_in_the_mean_over_folds_is_selected_and_of_it_the_best_fold(dices: list[float]) -> None:
    rows = offered(PLAN, "A")
    dices = dices[: len(rows)]
    place, expected = select(rows, dices), entries(rows, dices)
    assert place == (best_row(expected)["place"] if expected else None)


def test_the_easiest_fold_does_not_choose_the_route() -> None:
    rows = [row for row in offered(PLAN, "A") if row.method == "sequential"]
    dices = [0.8] * len(rows)
    dices[2:4] = [0.95, 0.6]  # the second route's folds
    dices[4:6] = [0.81, 0.85]
    assert select(rows, dices) == 5
    assert select(rows, [0.8] * len(rows)) == 0, "the simplest among equals"


@given(DICES)
def test_a_sites_own_is_selected_among_those_trained_there_alone(dices: list[float]) -> None:
    rows = offered(PLAN, "A")
    dices = dices[: len(rows)]
    alone = [row for row in entries(rows, dices) if row["method"] in ("baseline", "longer")]
    assert own(rows, dices) == (best_row(alone)["place"] if alone else None)
    elsewhere = [row for row in rows if not method_of(row.method).alone]
    assert own(elsewhere, [0.5] * len(elsewhere)) is None
