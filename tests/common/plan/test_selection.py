"""Which weights a site gets: validation chooses, ties go to what is simpler, and nothing needs moved images."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.config.study import Study
from common.plan import method_of, plan
from common.plan.selection import offered, own, select

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


@given(st.lists(st.sampled_from([0.5, 0.75, 0.875, 0.9]), min_size=1, max_size=12))
def test_the_best_by_validation_is_selected_and_the_first_among_equals(dices: list[float]) -> None:
    place = select(dices)
    assert all(dice <= dices[place] for dice in dices)
    assert all(dice < dices[place] for dice in dices[:place])


@given(st.data())
def test_a_sites_own_is_the_best_of_those_trained_there_alone(data: st.DataObject) -> None:
    rows = offered(PLAN, "A")
    dices = data.draw(st.lists(st.sampled_from([0.5, 0.75, 0.9]), min_size=len(rows), max_size=len(rows)))
    place = own(rows, dices)
    assert place is not None
    alone = [k for k, row in enumerate(rows) if row.route == ("A",)]
    assert {rows[k].method for k in alone} == {"baseline", "longer"}
    assert place == next(k for k in alone if dices[k] == max(dices[j] for j in alone))
    elsewhere = [row for row in rows if not method_of(row.method).alone]
    assert own(elsewhere, dices[: len(elsewhere)]) is None
