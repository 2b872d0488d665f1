"""The graph of a study: nothing twice, parents first, the same for everybody who plans it."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.study import Study
from common.config.values import POOLED
from common.errors import RelayError
from common.plan import Choices, Plan, PlannedRow, batches_per_epoch, grown, plan, routes_to
from common.plan.graph import (
    Average,
    Best,
    Completed,
    Evaluate,
    FineTune,
    Node,
    Refilled,
    Schedule,
    Start,
    earlier_visit,
    fold_of,
    parents_first,
    visit_of,
    way_of,
)

NAMES = ("A", "B", "C", "D")
Census = dict[str, tuple[int, ...]]


def study_of(*, sites: tuple[str, ...] = ("A", "B", "C"), **parts: Any) -> Study:
    return Study.model_validate({"sites": sites, **parts})


def census_of(study: Study, slices: int = 100) -> Census:
    return dict.fromkeys((*study.sites, "pooled"), (slices,) * study.split.folds)


def planned(study: Study) -> Plan:
    return plan(study, census_of(study))


def trainings(found: Plan) -> list[FineTune]:
    return [node for node in found.nodes if isinstance(node, FineTune)]


def table_three(**split: Any) -> Study:
    """Every route of three sites, target alone, and all data; nothing beyond the paper's Table III."""
    methods = {"longer_baseline": False, "federated": (), "pooled_then_target": False, "forgetting": False}
    return study_of(split=split, methods=methods)


@pytest.mark.parametrize("source", ["best-fold", "same-fold"])
@pytest.mark.parametrize("folds", [2, 5])
def test_table_three_is_15_trainings_a_fold_and_16_with_all_data(source: str, folds: int) -> None:
    study = table_three(folds=folds, source=source)
    assert len(trainings(planned(study))) == 16 * folds
    without = study.model_copy(update={"methods": study.methods.model_copy(update={"pooled": False})})
    nodes = trainings(planned(without))
    assert len(nodes) == 15 * folds
    # 3 alone, 6 of one hop, 6 of two hops, in every fold
    assert Counter((node.fold, way_of(node).count("→")) for node in nodes) == {
        (fold, hops): count for fold in range(folds) for hops, count in {0: 3, 1: 6, 2: 6}.items()
    }


def test_equal_nodes_are_one() -> None:
    schedule = Schedule(6, 0, 6, "best")
    first = FineTune("A", 1, FineTune("B", 1, Start(), schedule), schedule)
    again = FineTune("A", 1, FineTune("B", 1, Start(), Schedule(6, 0, 6, "best")), schedule)
    assert first == again
    assert first is not again
    assert len({first, again}) == 1


def test_whatever_a_node_names_makes_it_another_node() -> None:
    schedule = Schedule(6, 0, 6, "best")
    start = Start()
    nodes: list[Node] = [
        start,
        FineTune("A", 0, start, schedule),
        FineTune("B", 0, start, schedule),
        FineTune("A", 1, start, schedule),
        FineTune("A", 0, start, Schedule(7, 0, 6, "best")),
        FineTune("A", 0, start, Schedule(6, 1, 6, "best")),
        FineTune("A", 0, start, Schedule(6, 0, 5, "best")),
        FineTune("A", 0, start, Schedule(6, 0, 6, "last")),
        FineTune("A", 0, start, schedule, 0.1),
        FineTune("A", 0, FineTune("A", 0, start, schedule), schedule),
        Evaluate("A", 0, "test", start),
        Evaluate("A", 0, "validation", start),
        Evaluate("A", 1, "test", start),
        Evaluate("B", 0, "test", start),
        Average((FineTune("A", 0, start, schedule),), "fedavg"),
        Average((FineTune("A", 0, start, schedule),), "fedprox"),
        Best((FineTune("A", 0, start, schedule), FineTune("A", 1, start, schedule)), "A", "validation"),
        Best((FineTune("A", 1, start, schedule), FineTune("A", 0, start, schedule)), "A", "validation"),
        Best((FineTune("A", 0, start, schedule), FineTune("A", 1, start, schedule)), "B", "validation"),
    ]
    assert len({node.id for node in nodes}) == len(nodes)


def test_a_nodes_name_is_the_same_in_every_process_and_version() -> None:
    """Hospital and coordinator name stages to each other by these; a ledger keeps them for years."""
    schedule = Schedule(6, 0, 6, "best")
    node = FineTune("A", 2, FineTune("B", 1, Start(), schedule), schedule)
    assert Start().id == "d83a956bb783f3c9f236507af2b82b50d14c70c9718f49138f6e647e85709e72"
    assert node.id == "bd7828f177d82ca68206ac922c5992fdac11e2bcc7136b4ff6fbc980c90fb9ca"
    assert Evaluate("A", 2, "test", node).id == "8e6be924744f10afbe62ff6d3a38e3a4678361669b83e09cbcf09ae773bce83d"


def test_the_plan_does_not_depend_on_who_plans_it() -> None:
    study = study_of()
    backwards = dict(reversed(census_of(study).items()))
    assert [node.id for node in plan(study, backwards).nodes] == [node.id for node in planned(study).nodes]
    again = Study.model_validate_json(study.model_dump_json())
    assert planned(again) == planned(study)


def test_fifty_rounds_over_ten_sites_are_planned_in_a_second() -> None:
    study = study_of(
        sites=tuple(f"S{k}" for k in range(10)),
        training={"epochs": 50},
        methods={"longer_baseline": False, "sequential": {"routes": "none"}, "pooled": False},
    )
    began = time.process_time()
    found = planned(study)
    assert time.process_time() - began < 1.0
    assert sum(isinstance(node, Average) for node in found.nodes) == 50 * 5
    assert len(repr(found.rows[-1].model)) < 100, "a failing test, or a debugger, would write out 10^50 paths"


def test_a_single_fold_leaves_no_choice_among_folds() -> None:
    study = table_three(folds=5, use_folds=1)
    assert not [node for node in planned(study).nodes if isinstance(node, Best)]


def test_best_fold_hands_the_sources_best_to_every_fold() -> None:
    study = study_of(
        split={"folds": 3, "source": "best-fold"},
        methods={"sequential": {"routes": (("B", "A"),)}, "federated": (), "pooled": False},
    )
    rows = [row for row in planned(study).rows if row.method == "sequential"]
    parents = {row.model.parents[0] for row in rows}
    assert [row.fold for row in rows] == [0, 1, 2]
    (best,) = parents
    assert isinstance(best, Best)
    assert best.at == "B" and best.split == "validation"
    assert [fold_of(node) for node in best.candidates] == [0, 1, 2]
    assert all(isinstance(node, FineTune) and node.site == "B" for node in best.candidates)
    # Training at B gave each candidate's score for nothing.
    assert best.ballots == tuple((candidate,) for candidate in best.candidates)


def test_same_fold_hands_on_the_same_fold() -> None:
    study = study_of(
        split={"folds": 3, "source": "same-fold"},
        methods={"sequential": {"routes": (("C", "B", "A"),)}, "federated": (), "pooled": False},
    )
    found = planned(study)
    for row in (row for row in found.rows if row.method == "sequential"):
        node: Node = row.model
        while isinstance(node, FineTune):
            assert node.fold == row.fold
            node = node.parent
        assert node == Start()
    assert not [node for node in found.nodes if isinstance(node, Best)]


@pytest.mark.parametrize(("epochs", "local", "rounds"), [(6, 1, 0), (6, 2, 0), (6, 3, 5)])
def test_the_rounds_are_consecutive_slices_of_one_cosine(epochs: int, local: int, rounds: int) -> None:
    part = {"strategy": "fedprox", "rounds": rounds, "local_epochs": local, "then_target": False}
    study = study_of(training={"epochs": epochs}, methods={"federated": (part,)})
    total = (rounds or epochs // local) * local
    for fold in range(study.split.folds):
        averages = [node for node in planned(study).nodes if isinstance(node, Average) and node.fold == fold]
        averages.sort(key=lambda node: node.parts[0].schedule.first)
        epochs_covered = []
        parent: Node = Start()
        for average in averages:
            assert [part.site for part in average.parts] == ["A", "B", "C"]
            assert {part.schedule for part in average.parts} == {average.parts[0].schedule}
            assert {part.proximal_mu for part in average.parts} == {0.1}
            schedule = average.parts[0].schedule
            assert schedule.total_epochs == total and schedule.keep == "last"
            assert {part.parent for part in average.parts} == {parent}
            epochs_covered += range(schedule.first, schedule.last)
            parent = average
        assert epochs_covered == list(range(total))


@pytest.mark.parametrize(("slices", "rounds"), [({"A": 100, "B": 100, "C": 100}, 4), ({"A": 320, "B": 16, "C": 16}, 4)])
def test_by_default_the_rounds_take_the_longest_routes_steps(slices: dict[str, int], rounds: int) -> None:
    study = study_of(training={"epochs": 4}, split={"folds": 2}, methods={"pooled": False})
    found = plan(study, {site: (count,) * 2 for site, count in slices.items()})
    assert sum(isinstance(node, Average) and node.fold == 0 for node in found.nodes) == rounds


def test_by_default_the_rounds_stay_within_half_a_round_of_a_route_of_some_sites() -> None:
    """Of ten sites, the longest route of two hops takes three; so many steps as it, all sites together take."""
    sites = tuple(f"S{k}" for k in range(10))
    study = study_of(sites=sites, training={"epochs": 50, "batch": 10}, methods={"pooled": False})
    found = plan(study, {site: (10 * (k + 1),) * 5 for k, site in enumerate(sites)})
    longest = (10 + 9 + 8) * 50
    a_round = sum(range(1, 11))
    rounds = sum(isinstance(node, Average) and node.fold == 0 for node in found.nodes)
    assert abs(rounds * a_round - longest) <= a_round / 2


def test_of_several_settings_the_targets_validation_patients_choose() -> None:
    part = {"strategy": "fedprox", "local_epochs": (1, 2), "proximal_mu": (0.01, 1.0)}
    study = study_of(training={"epochs": 4}, split={"folds": 2}, methods={"federated": (part,)})
    for row in planned(study).rows:
        if row.method == "fedprox":
            assert isinstance(row.model, Best) and row.model.at == row.target
            tried = Counter(
                (node.parts[0].schedule.epochs, node.parts[0].proximal_mu)
                for node in row.model.candidates
                if isinstance(node, Average)
            )
            assert tried == {(1, 0.01): 4, (1, 1.0): 4, (2, 0.01): 2, (2, 1.0): 2}


def test_the_target_chooses_among_all_averages_with_statistics_of_its_own() -> None:
    part = {"strategy": "fedprox", "local_epochs": (1, 2), "proximal_mu": (0.01, 1.0), "then_target": True}
    study = study_of(training={"epochs": 4}, split={"folds": 2}, methods={"federated": (part,)})
    rows = {(row.method, row.target, row.fold): row for row in planned(study).rows}
    for target in study.sites:
        for fold in (0, 1):
            plain, found = rows["fedprox", target, fold].model, rows["fedprox-re-estimated", target, fold].model
            assert isinstance(plain, Best) and isinstance(found, Best) and found.at == target
            assert all(isinstance(one, FineTune) and (one.site, one.fold) == (target, fold) for one in found.candidates)
            assert tuple(one.parent for one in found.candidates if isinstance(one, FineTune)) == plain.candidates
            assert rows["fedprox-re-estimated", target, fold].validation == found
            assert found.ballots == tuple((one,) for one in found.candidates), "each is scored where it is made"
            assert way_of(found) == "FedProx, best round, batch norm re-estimated"
            assert way_of(found.candidates[1]) == "FedProx, round 2, batch norm re-estimated"
            then = rows["fedprox-then-target", target, fold].model
            assert isinstance(then, FineTune) and then.parent == plain, "it goes on from the plain average, as ever"


@pytest.mark.parametrize(("laps", "epochs", "visit"), [(1, 0, 6), (2, 0, 3), (3, 0, 2), (9, 0, 1), (2, 5, 5)])
def test_laps_go_round_all_sites_and_end_with_the_target(laps: int, epochs: int, visit: int) -> None:
    study = study_of(training={"epochs": 6}, split={"folds": 2}, methods={"cyclic": {"laps": laps, "epochs": epochs}})
    cycles = {"A": ("B", "C", "A"), "B": ("C", "A", "B"), "C": ("A", "B", "C")}
    rows = [row for row in planned(study).rows if row.method == "cyclic"]
    assert len(rows) == 3 * 2
    for row in rows:
        assert row.route == cycles[row.target] * laps
        way, node = [], row.model
        while isinstance(node, FineTune):
            assert node.fold == row.fold, "another fold has trained on those who choose"
            assert node.schedule == Schedule(visit, 0, visit, "best"), "each visit is a cosine of its own"
            way.append(node.site)
            node = node.parent
        assert tuple(reversed(way)) == row.route and node == Start()


def test_all_data_then_the_target_keeps_to_its_fold() -> None:
    study = study_of(split={"folds": 3}, methods={"pooled": True, "pooled_then_target": True})
    rows = [row for row in planned(study).rows if row.method == "pooled-then-target"]
    assert len(rows) == 9
    for row in rows:
        assert isinstance(row.model, FineTune) and isinstance(row.model.parent, FineTune)
        assert (row.model.site, row.model.fold) == (row.target, row.fold)
        assert (row.model.parent.site, row.model.parent.fold) == ("pooled", row.fold)
        assert row.route == ("pooled", row.target)


def test_what_a_network_keeps_at_a_site_goes_on_from_the_last_training_there() -> None:
    cosine = Schedule(4, 0, 4, "best")
    first = FineTune("A", 0, Start(), cosine)
    second = FineTune("B", 0, first, cosine)
    third = FineTune("A", 0, second, cosine)
    assert [earlier_visit(node) for node in (first, second, third)] == [None, None, first]
    average = Average((third, second), "fedavg")
    assert earlier_visit(FineTune("B", 0, average, cosine)) == second
    assert earlier_visit(FineTune("C", 0, average, cosine)) is None
    assert earlier_visit(FineTune("A", 0, Refilled(average), cosine)) == third
    estimate = FineTune("A", 0, average, Schedule(0, 0, 0, "last"))
    assert earlier_visit(FineTune("A", 0, estimate, cosine)) == third, "an estimate of statistics trains nothing"
    assert earlier_visit(FineTune("A", 0, Best((first, third), "A", "validation"), cosine)) is None
    personal = FineTune("A", 0, average, cosine, 0.1, "everything")
    assert earlier_visit(personal) is None, "a personal model begins with its own"
    assert earlier_visit(FineTune("A", 0, average, cosine, 0.1, "everything", personal)) == personal


@pytest.mark.parametrize("leave_out", [False, True])
def test_a_union_is_trained_once_for_all_targets_and_rows(leave_out: bool) -> None:
    methods = {"pooled": True, "pooled_subsets": True, "leave_out": leave_out, "baseline": False, "federated": ()}
    study = study_of(sites=("A", "B", "C", "D"), split={"folds": 2}, methods=methods)
    found = planned(study)
    pools = [node for node in trainings(found) if node.site == POOLED]
    left_out = Counter(node.without for node in pools)
    singles, pairs = [("A",), ("B",), ("C",), ("D",)], list(itertools.combinations("ABCD", 2))
    assert left_out == dict.fromkeys([(), *singles, *pairs], 2), "each union in each fold once, and all data"
    assert {node.parent for node in pools} == {Start()}
    of_union = {(node.without, node.fold): node for node in pools}
    for row in found.rows:
        if row.method in ("pooled-subset", "pooled-subset-unseen", "pooled-unseen"):
            without = tuple(site for site in study.sites if site not in row.route)
            trained = next(iter(row.model.candidates)) if isinstance(row.model, Best) else row.model
            assert trained is of_union[without, row.fold] or trained == of_union[without, row.fold]
            assert (row.target in row.route) == (row.method == "pooled-subset")
    unseen = {(row.method, len(row.route)) for row in found.rows if row.method.endswith("-unseen")}
    assert ("pooled-subset-unseen", 2) in unseen and (("pooled-subset-unseen", 3) in unseen) == (not leave_out)
    assert {way_of(node) for node in pools} >= {"pooled", "pooled without A", "pooled without A and B"}


def test_a_study_without_unions_has_the_stages_of_before() -> None:
    """What left out one site had this identity before several could be."""
    node = FineTune(POOLED, 1, Start(), Schedule(6, 0, 6, "best"), without=("B",))
    assert node.id == "7c1c2c7e70177fcb46fbb73ed2d8078add724d1ded2112b4ef39fdac323a9ea8"
    assert len({node.id, FineTune(POOLED, 1, Start(), Schedule(6, 0, 6, "best"), without=("B", "C")).id}) == 2
    plain, asked = ({"pooled": True, "leave_out": True, "pooled_subsets": unions} for unions in (False, True))
    assert set(planned(study_of(methods=plain)).nodes) <= set(planned(study_of(methods=asked)).nodes)


def test_the_travelling_model_is_scored_at_every_site_after_every_hop() -> None:
    study = study_of(
        split={"folds": 2},
        methods={
            "sequential": {"routes": (("B", "C", "A"),)},
            "baseline": False,
            "longer_baseline": False,
            "federated": (),
            "pooled": False,
        },
    )
    found = planned(study)
    scored = Counter(
        (way_of(node.weights), node.site, node.fold, fold_of(node.weights))
        for node in found.nodes
        if isinstance(node, Evaluate) and node.split == "test"
    )
    assert scored == {
        (way, site, fold, fold): 1 for way in ("B", "B → C", "B → C → A") for site in "ABC" for fold in range(2)
    }


def test_a_study_of_one_site_compares_networks_by_validation() -> None:
    study = study_of(
        sites=("A",),
        models={"encoders": ("resnet18",)},
        methods={"longer_baseline": False, "federated": (), "pooled": False, "scored_on": "validation"},
    )
    (variant,) = study.variants
    found = plan(variant, {"A": (10,) * 5})
    assert {(row.method, row.test) for row in found.rows} == {("baseline", None)}
    assert len(found.nodes) == 5 + 1, "five trainings from one start, and nothing scored besides"


def test_a_federated_round_is_selected_at_the_target_by_validation() -> None:
    study = study_of(training={"epochs": 4}, split={"folds": 2})
    for row in planned(study).rows:
        if row.method == "fedavg":
            assert isinstance(row.model, Best)
            assert row.model.at == row.target and row.model.split == "validation"
            assert {fold_of(node) for node in row.model.candidates} == {row.fold}
            assert len(row.model.candidates) == 4
            for (ballot,) in row.model.ballots:
                assert isinstance(ballot, Evaluate)
                assert (ballot.site, ballot.fold, ballot.split) == (row.target, row.fold, "validation")
        if row.method == "fedavg-then-target":
            (parent,) = row.model.parents
            assert isinstance(parent, Best)
            assert {fold_of(node) for node in parent.candidates} == {row.fold}
            assert isinstance(row.model, FineTune) and row.model.site == row.target


def test_a_visit_is_counted_by_the_annealings_that_a_site_began_before() -> None:
    study = study_of(
        training={"epochs": 4},
        split={"folds": 2},
        methods={
            "more": ("restarts",),
            "cyclic": {"laps": 3},
            "federated": ({"strategy": "fedavg", "rounds": 3, "then_target": True},),
        },
    )
    visits: dict[str, set[tuple[str, tuple[int, ...]]]] = {}
    for row in planned(study).rows:
        way: list[FineTune] = []
        node = row.model
        while not isinstance(node, Start):
            if isinstance(node, Best):
                node = node.candidates[-1]
            elif isinstance(node, Average):
                (node,) = (part for part in node.parts if part.site == row.target)
            else:
                assert isinstance(node, FineTune)
                way.insert(0, node)
                node = node.parent
        visits.setdefault(row.method, set()).add(
            (row.target, tuple(visit_of(stage) for stage in way if stage.site == row.target))
        )
    assert {counts for _, counts in visits["restarts"]} == {(0, 1, 2)}
    assert {counts for _, counts in visits["cyclic"]} == {(0, 1, 2)}
    assert {counts for _, counts in visits["fedavg"]} == {(0, 0, 0)}, "rounds are parts of one annealing"
    assert {counts for _, counts in visits["fedavg-then-target"]} == {(0, 0, 0, 1)}
    assert {counts for _, counts in (*visits["sequential"], *visits["baseline"])} == {(0,)}


MORE = ("restarts", "longest", "target-folds", "route-folds", "consensus", "soup")
STRATEGIES_DRAWN = ("fedavg", "fedprox", "fedadam", "feddc", "cyclicfl")
CENSUS_COUNTS = st.integers(min_value=1, max_value=2000)


BATCH_NORM = st.lists(st.sampled_from(["average", "re-estimate"]), min_size=1, unique=True).map(tuple)


WEIGHTS = st.sampled_from([(), (), (), (0.5,), (0.5, 2.0)])
HOPS = st.sampled_from(
    [
        {},
        {},
        {"learning_rate": (1e-4, 1e-3)},
        {"freeze": ("none", "encoder")},
        {"annealing": "route"},
        {"annealing": "route", "freeze": "encoder"},
        {"batch_norm": ("travel", "local")},
        {"batch_norm": ("local", "travel"), "learning_rate": (1e-4, 1e-3)},
    ]
)
"""Settings of second and later trainings."""


@st.composite
def studies(draw: st.DrawFn) -> tuple[Study, Census]:
    sites = NAMES[: draw(st.integers(2, 4))]
    folds = draw(st.integers(2, 4))
    routes = st.lists(st.sampled_from(sites), min_size=2, max_size=5).filter(
        lambda route: all(a != b for a, b in itertools.pairwise(route))
    )
    federated = [
        {
            "strategy": name,
            "rounds": draw(st.integers(1, 3)),
            "local_epochs": draw(st.integers(1, 2)),
            "batch_norm": draw(BATCH_NORM),
            "then_target": draw(st.booleans()),
        }
        for name in draw(st.lists(st.sampled_from(STRATEGIES_DRAWN), unique=True, max_size=2))
    ]
    study = study_of(
        sites=sites,
        split={
            "folds": folds,
            "use_folds": draw(st.integers(0, folds)),
            "source": draw(st.sampled_from(["best-fold", "same-fold"])),
        },
        training={"epochs": draw(st.integers(1, 7)), "batch": draw(st.integers(2, 32))},
        methods={
            "baseline": draw(st.booleans()),
            "longer_baseline": draw(st.booleans()),
            "unadapted": draw(st.booleans()),
            "more": draw(st.lists(st.sampled_from(MORE), unique=True).map(tuple)),
            "pooled": draw(st.booleans()),
            "pooled_then_target": draw(st.booleans()),
            "forgetting": draw(st.booleans()),
            "leave_out": len(sites) > 2 and draw(st.booleans()),
            "scored_on": draw(st.sampled_from(["test", "test", "validation"])),
            "cyclic": {"laps": draw(st.integers(0, 2)), "epochs": draw(st.integers(0, 2))},
            "sequential": {
                "routes": draw(
                    st.one_of(
                        st.sampled_from(["all", "greedy", "halving", "none"]),
                        st.lists(routes.map(tuple), max_size=3).map(tuple),
                    )
                ),
                "max_hops": draw(st.integers(1, 3)),
                **draw(HOPS),
            },
            "lwf": {"weight": draw(WEIGHTS)},
            "l2_sp": {"weight": draw(WEIGHTS)},
            "federated": tuple(federated),
        },
    )
    if study.methods.pooled and len(sites) > 2 and draw(st.booleans()):
        study = Study.model_validate(
            study.model_dump() | {"methods": study.methods.model_dump() | {"pooled_subsets": True}}
        )
    census = {
        site: draw(st.tuples(*[CENSUS_COUNTS] * folds))
        for site in (*sites, *(("pooled",) if study.methods.pooled else ()))
    }
    return study, census


def grown_to_the_end(study: Study, census: Census) -> Plan:
    """The plan once all routes have grown, by scores that depend on the node's name alone."""
    choices: Choices = {}
    while True:
        found = plan(study, census, choices)
        further = grown(study, found.growing, choices, lambda node: int(node.id[:6], 16) / 16**6)
        if further == choices:
            assert not found.growing
            return found
        choices = further


@settings(max_examples=40, deadline=None)
@given(studies())
def test_every_plan_holds_together(example: tuple[Study, Census]) -> None:
    study, census = example
    found = grown_to_the_end(study, census)
    assert len({node.id for node in found.nodes}) == len(found.nodes)
    seen: set[str] = set()
    for node in found.nodes:
        assert {parent.id for parent in node.parents} <= seen, "a parent comes after its child"
        seen.add(node.id)
        if isinstance(node, FineTune):
            estimates = isinstance(node.parent, Average) and node.schedule == Schedule(0, 0, 0, "last")
            assert estimates or 0 <= node.schedule.first < node.schedule.last <= node.schedule.total_epochs
        if isinstance(node, FineTune | Evaluate):
            assert node.fold in study.split.run
        if isinstance(node, Evaluate):
            assert node.site in study.sites
    folds = set(study.split.run)
    groups: dict[tuple[Any, ...], list[PlannedRow]] = {}
    for row in found.rows:
        assert row.target in study.sites
        if study.methods.scored_on == "validation":
            assert row.test is None and row.model.id in seen
        else:
            assert row.test is not None
            assert (row.test.site, row.test.fold, row.test.split) == (row.target, row.fold, "test")
            assert row.test.weights == row.model
            assert row.test.id in seen
        assert row.validation.id in seen
        groups.setdefault((row.method, row.route, row.target), []).append(row)
        if row.method.endswith("-unseen"):
            assert row.validation == row.model
            behind = set(parents_first([row.model]))
            assert not any(getattr(node, "site", "") == row.target for node in behind), "the target had a part in it"
            assert all(row.target in node.without for node in behind if getattr(node, "site", "") == POOLED)
            continue
        # Its fold is selected by the target's own validation patients of that fold.
        scorings = row.validation.candidates if isinstance(row.validation, Best) else (row.validation,)
        assert len(scorings) == 1 or row.validation == row.model
        for scoring in scorings:
            assert isinstance(scoring, FineTune | Evaluate)
            assert (scoring.site, scoring.fold) == (row.target, row.fold)
            assert not isinstance(scoring, Evaluate) or scoring.split == "validation"
    for rows in groups.values():
        together = rows[0].method in ("target-folds", "route-folds")  # a single row for all folds
        assert [row.fold for row in rows] == sorted(folds)[: 1 if together else None]
    # Nothing is trained that no row needs, and nothing scored beside the rows but travelling models.
    needed: set[Node] = set()
    stack: list[Node] = [node for row in found.rows for node in (row.test or row.model, row.validation)]
    stack += found.tried
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += node.parents
    assert needed <= set(found.nodes)
    completed = {node for node in found.nodes if isinstance(node, Completed | Refilled)} - needed
    assert completed <= {node.weights for node in found.nodes if isinstance(node, Evaluate)}
    for node in set(found.nodes) - needed - completed:
        assert study.methods.forgetting and isinstance(node, Evaluate) and node.split == "test"
        scored = node.weights.weights if isinstance(node.weights, Completed | Refilled) else node.weights
        assert isinstance(scored, FineTune) and scored in needed and scored.site != "pooled"


@settings(max_examples=40, deadline=None)
@given(studies())
def test_the_rows_are_those_that_were_asked_for(example: tuple[Study, Census]) -> None:
    study, census = example
    methods, sites = study.methods, study.sites
    routes = methods.sequential.routes
    if routes == "all":
        hops = min(methods.sequential.max_hops, len(sites) - 1)
        wanted = {route for n in range(2, hops + 2) for route in itertools.permutations(sites, n)}
    else:
        wanted = set() if isinstance(routes, str) else {tuple(route) for route in routes}
    brakes = [key for key, part in (("lwf", methods.lwf), ("l2-sp", methods.l2_sp)) if part.weight]
    local = "local" in methods.sequential.batch_norm
    brakes += ["sequential-local"] if local else []
    kinds = ("sequential", *brakes)
    expected: set[tuple[str, tuple[str, ...], str]] = {(kind, way, way[-1]) for kind in kinds for way in wanted}
    for target in sites:
        expected |= {("baseline", (target,), target)} if methods.baseline else set()
        expected |= {("longer", (target,), target)} if methods.longer_baseline else set()
        expected |= {("unadapted", (site,), target) for site in sites if site != target and methods.unadapted}
        expected |= {("pooled", ("pooled",), target)} if methods.pooled else set()
        if methods.pooled and methods.pooled_then_target:
            expected.add(("pooled-then-target", ("pooled", target), target))
        for bits in range(2 ** len(sites)) if methods.pooled_subsets else ():
            union = tuple(site for place, site in enumerate(sites) if bits >> place & 1)
            if 1 < len(union) < len(sites) and target in union:
                expected.add(("pooled-subset", union, target))
            stands = methods.leave_out and {*union, target} == set(sites)
            if 1 < len(union) < len(sites) and target not in union and methods.scored_on == "test" and not stands:
                expected.add(("pooled-subset-unseen", union, target))
        if methods.cyclic.laps:
            at = sites.index(target)
            laps = (sites[at + 1 :] + sites[: at + 1]) * methods.cyclic.laps
            expected |= {(key, laps, target) for key in ("cyclic", *(["cyclic-local"] if local else []))}
        for part in methods.federated:
            expected |= {(part.strategy, sites, target)} if "average" in part.batch_norm else set()
            if "re-estimate" in part.batch_norm:
                expected.add((f"{part.strategy}-re-estimated", sites, target))
            if part.then_target:
                expected.add((f"{part.strategy}-then-target", (*sites, target), target))
        if "consensus" in methods.more:
            expected.add(("consensus", (*(site for site in sites if site != target), target), target))
        stages = max((len(route) for route in wanted if route[-1] == target), default=0)
        if routes in ("greedy", "halving") and len(sites) > 1:
            stages = min(methods.sequential.max_hops, len(sites) - 1) + 1
        if "restarts" in methods.more and stages > 1:
            expected.add(("restarts", (target,) * stages, target))
        then = any(part.then_target for part in methods.federated) or (methods.pooled and methods.pooled_then_target)
        if "longest" in methods.more and then:
            expected.add(("longest", (target,), target))
        folds = len(study.split.run) > 1 and methods.scored_on == "test"
        ending = [route for route in wanted if route[-1] == target]
        if "soup" in methods.more and len(ending) > 1:
            on_the_way = [site for site in sites if site != target and any(site in route for route in ending)]
            expected.add(("soup", (*on_the_way, target), target))
        if methods.leave_out and methods.scored_on == "test":
            others = tuple(site for site in sites if site != target)
            expected |= {("route-unseen", (), target), ("consensus-unseen", others, target)}
            expected |= {(f"{part.strategy}-unseen", others, target) for part in methods.federated}
            expected |= {("pooled-unseen", others, target)} if methods.pooled else set()
        if folds and "target-folds" in methods.more:
            expected.add(("target-folds", (target,), target))
        if folds and "route-folds" in methods.more and any(route[-1] == target for route in wanted):
            expected.add(("route-folds", (target,), target))
    rows = grown_to_the_end(study, census).rows
    grows = (routes, "route-folds", *brakes) if routes in ("greedy", "halving") else ()  # which, the scores decide
    assert {(row.method, row.route, row.target) for row in rows if row.method not in grows} == expected
    found = {row.target for row in rows if row.method in ("greedy", "halving")}
    assert found == (set(sites) if grows else set())


@settings(max_examples=40, deadline=None)
@given(studies())
def test_the_longer_baseline_takes_the_longest_routes_steps_to_half_an_epoch(example: tuple[Study, Census]) -> None:
    study, census = example

    def steps(site: str, fold: int) -> int:
        """Batches of an epoch, counted one slice after the other."""
        slices, batch = census[site][fold], study.training.batch
        taken = [min(batch, slices - first) for first in range(0, slices, batch)]
        if len(taken) > 1 and taken[-1] == 1:
            taken.pop()
        return len(taken)

    for row in plan(study, census).rows:
        if row.method == "longer":
            assert isinstance(row.model, FineTune)
            routes = routes_to(study, row.target) or [study.sites]
            if study.methods.sequential.routes in ("greedy", "halving"):
                hops = min(study.methods.sequential.max_hops, len(study.sites) - 1)
                others = [site for site in study.sites if site != row.target]
                routes = [(*selected, row.target) for selected in itertools.permutations(others, hops)]
            longest = max(sum(steps(site, row.fold) for site in route) * study.training.epochs for route in routes)
            own = steps(row.target, row.fold)
            assert abs(row.model.schedule.epochs * own - longest) <= max(own / 2, own - longest)
            assert row.model.parent == Start()
            assert (row.model.schedule.first, row.model.schedule.last) == (0, row.model.schedule.total_epochs)


@given(st.integers(1, 500), st.integers(2, 40))
def test_no_batch_is_a_single_slice_unless_there_is_but_one(slices: int, batch: int) -> None:
    count = batches_per_epoch(slices, batch)
    assert count == max(1, math.ceil(slices / batch) - (slices % batch == 1))


def test_a_site_that_nothing_is_known_of_is_told() -> None:
    study = study_of()
    with pytest.raises(RelayError, match="Nothing is known of site C yet"):
        plan(study, {"A": (1,) * 5, "B": (1,) * 5, "pooled": (1,) * 5})
    with pytest.raises(RelayError, match="site pooled"):
        plan(study, dict.fromkeys(study.sites, (1,) * 5))


def test_a_route_that_names_an_unknown_site_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the route B → X → A names site X, which is not among .* \(A, B, C\)"):
        study_of(methods={"sequential": {"routes": (("B", "X", "A"),)}})


def test_weights_tell_the_way_they_came() -> None:
    study = study_of(training={"epochs": 2}, split={"folds": 2})
    ways = {(row.method, row.target): way_of(row.model) for row in planned(study).rows}
    assert ways["baseline", "A"] == "A"
    assert ways["fedavg", "A"] == "FedAvg, best round"
    assert ways["fedavg-then-target", "A"] == "FedAvg, best round → A"
    assert ways["pooled", "A"] == "pooled"
    assert {way_of(row.model) for row in planned(study).rows if row.method == "sequential" and row.target == "A"} == {
        "B → A",
        "C → A",
        "B → C → A",
        "C → B → A",
    }


@pytest.mark.parametrize("source", ["best-fold", "same-fold"])
@pytest.mark.parametrize("routes", ["all", (("A", "B", "A"), ("B", "C", "A", "B"), ("A", "B", "C", "A", "B", "C"))])
def test_nobody_validates_weights_that_have_seen_the_patients(source: str, routes: object) -> None:
    """Folds of one site share patients: weights of one must never be trained on, or selected by, another's."""
    study = study_of(
        split={"folds": 3, "source": source},
        training={"epochs": 2},
        methods={"sequential": {"routes": routes}, "federated": ({"strategy": "fedavg"}, {"strategy": "fedprox"})},
    )
    sites_of = {site: {site} for site in study.sites} | {"pooled": set(study.sites)}
    behind: dict[Node, set[tuple[str, int]]] = {}
    for node in planned(study).nodes:
        before = set().union(*(behind[parent] for parent in node.parents))
        if isinstance(node, FineTune | Evaluate) and not (isinstance(node, Evaluate) and node.split == "test"):
            for site in sites_of[node.site]:
                folds = {fold for name, fold in before if name == site}
                assert folds <= {node.fold}, node
        trained = {(site, node.fold) for site in sites_of[node.site]} if isinstance(node, FineTune) else set()
        behind[node] = before | trained


def own(found: Plan, site: str) -> set[Node]:
    """A site's stages."""
    return {node for node in found.nodes if isinstance(node, FineTune | Evaluate) and node.site == site}


@settings(max_examples=40, deadline=None)
@given(studies(), st.data())
def test_a_route_grows_by_the_best_of_all_sources_hop_by_hop(
    example: tuple[Study, Census], data: st.DataObject
) -> None:
    """Against the rule, written out: try every source, take the best, go on while that is better than before."""
    study, census = example
    if study.methods.sequential.routes != "greedy":
        return
    scores: dict[str, float] = {}

    def dice(way: str) -> float:
        return scores.setdefault(way, data.draw(st.integers(0, 5), label=way) / 5)

    choices: Choices = {}
    while (
        further := grown(
            study, plan(study, census, choices).growing, choices, lambda n: dice(way_of(n, settings=False))
        )
    ) != choices:
        choices = further
        whole = plan(study, census, choices)
        for site in study.sites:
            its = plan(study, census, choices, at=site)
            assert its.rows == whole.rows
            assert own(its, site) == own(whole, site)
    for target in study.sites:
        route: tuple[str, ...] = ()
        best = -1.0
        while len(route) < study.methods.sequential.max_hops:
            sources = [site for site in study.sites if site not in (*route, target)]
            if not sources:
                break
            found = {site: dice(" → ".join((*route, site, target))) for site in sources}
            source = max(sources, key=lambda site: (found[site], -sources.index(site)))
            if found[source] <= best:
                break
            best, route = found[source], (*route, source)
        assert choices[target] == (*route, target)


@pytest.mark.parametrize(
    "choices",
    [
        {"X": ("B",)},
        {"A": ("X",)},
        {"A": ("A",)},
        {"A": ("B", "B")},
        {"A": ("B", "A", "C")},
        {"A": ("B", "C", "D", "A")},
        {"A": ("B", "A", "A")},
    ],
)
def test_hops_that_the_study_could_not_choose_are_refused(choices: Choices) -> None:
    study = study_of(sites=NAMES, methods={"sequential": {"routes": "greedy", "max_hops": 2}})
    with pytest.raises(RelayError, match="is no choice of routes to"):
        plan(study, census_of(study), choices)
    with pytest.raises(RelayError, match="is no choice of routes to"):
        plan(study_of(), census_of(study_of()), {"A": ("B",)})


def test_a_plan_made_again_with_a_hop_more_makes_no_stage_anew() -> None:
    """A hundred sites try ten thousand routes, and plan again two hundred times."""
    study = study_of(sites=NAMES, methods={"sequential": {"routes": "greedy", "max_hops": 2}})
    before = plan(study, census_of(study))
    after = plan(study, census_of(study), {"A": ("B",)})
    assert len(after.tried) > len(before.tried)
    there = {node.id: node for node in after.tried}
    assert all(there[node.id] is node for node in before.tried)


@pytest.mark.slow
def test_a_site_of_a_hundred_makes_few_stages_of_the_others() -> None:
    names = tuple(f"S{number:02}" for number in range(100))
    study = study_of(sites=names, methods={"sequential": {"routes": "greedy", "max_hops": 2}})
    choices: Choices = {name: ("S01" if name == "S00" else "S00",) for name in names}
    whole, its = plan(study, census_of(study), choices), plan(study, census_of(study), choices, at="S50")
    assert own(its, "S50") == own(whole, "S50")
    assert len(its.tried) < len(whole.tried) / 20
