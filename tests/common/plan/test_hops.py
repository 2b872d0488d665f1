"""Second and later trainings: their settings, one cosine over a route, brakes, and the control of the longest rows."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import replace
from typing import Any

import pytest

from common.config.study import Study, study_toml
from common.config.toml import from_table
from common.errors import RelayError
from common.plan import Plan, PlannedRow, plan
from common.plan.cost import all_behind
from common.plan.graph import Best, Evaluate, FineTune, Hop, Node, Schedule, Start, visit_of, way_of
from common.plan.stage_key import ExecutionEnvironment, stage_key

ENVIRONMENT = ExecutionEnvironment(fingerprint="f" * 64, torch="2.13.0", device="cpu", precision="float32")


def study_of(sequential: dict[str, Any] | None = None, **methods: Any) -> Study:
    rest = {"federated": (), "pooled": False, "longer_baseline": False, "forgetting": False}
    return Study.model_validate(
        {
            "sites": ("A", "B", "C"),
            "split": {"folds": 2},
            "training": {"epochs": 4, "batch": 10},
            "methods": {**rest, **methods, "sequential": sequential or {}},
        }
    )


def planned(study: Study, slices: int = 100) -> Plan:
    return plan(study, dict.fromkeys((*study.sites, "pooled"), (slices,) * study.split.folds))


def rows(found: Plan, method: str, target: str = "A") -> list[PlannedRow]:
    return [row for row in found.rows if row.method == method and row.target == target]


def chains(row: PlannedRow) -> list[list[FineTune]]:
    """Each candidate's trainings from first to last; of a source's folds, the first."""
    candidates = row.model.candidates if isinstance(row.model, Best) else (row.model,)
    found = []
    for node in candidates:
        chain: list[FineTune] = []
        while not isinstance(node, Start):
            if isinstance(node, Best):
                node = node.candidates[0]
                continue
            assert isinstance(node, FineTune)
            chain.insert(0, node)
            node = node.parent
        found.append(chain)
    return found


def key(node: FineTune, study: Study) -> str:
    return stage_key(node, study=study, weights="0" * 64, environment=ENVIRONMENT)


def test_settings_that_say_nothing_new_make_no_other_stage() -> None:
    usual = planned(study_of(cyclic={"laps": 2}, more=("restarts",)))
    said = {"learning_rate": 1e-3, "warmup_epochs": 0, "freeze": "none", "annealing": "stage"}
    again = planned(study_of(said, cyclic={"laps": 2}, more=("restarts",)))
    assert [node.id for node in again.nodes] == [node.id for node in usual.nodes]


def test_a_hop_enters_name_and_key_only_where_it_is_set() -> None:
    """Of each setting that differs: a golden name, for ledgers are kept by these."""
    schedule = Schedule(4, 0, 4, "best")
    first = FineTune("B", 0, Start(), schedule)
    nodes = [
        FineTune("A", 0, first, schedule),
        FineTune("A", 0, first, schedule, hop=Hop(learning_rate=1e-4)),
        FineTune("A", 0, first, schedule, hop=Hop(learning_rate=1e-5)),
        FineTune("A", 0, first, schedule, hop=Hop(warmup_epochs=1)),
        FineTune("A", 0, first, schedule, hop=Hop(freeze="encoder")),
        FineTune("A", 0, first, schedule, hop=Hop(distillation=1.0, temperature=2.0)),
        FineTune("A", 0, first, schedule, hop=Hop(distillation=1.0, temperature=3.0)),
        FineTune("A", 0, first, schedule, 0.1),
        FineTune("A", 0, first, Schedule(8, 4, 8, "best")),
        FineTune("A", 0, first, Schedule(12, 4, 8, "best")),
    ]
    study = study_of()
    assert len({node.id for node in nodes}) == len({key(node, study) for node in nodes}) == len(nodes)
    assert nodes[1].id == "7872eacbfafce2b3e16111a86c0ad4c6992a8b9cc47a3964d6c8b2c9b684d9de"
    assert key(nodes[1], study) == "7b3df3de2d8ac57833d8335339eb42d50f1b3d615a2cd85c4371809dcfe10658"


@pytest.mark.parametrize("source", ["best-fold", "same-fold"])
def test_the_targets_validation_chooses_among_all_settings_of_a_whole_route(source: str) -> None:
    hops = {"learning_rate": (1e-3, 1e-4), "warmup_epochs": (0, 2), "freeze": ("none", "encoder")}
    study = study_of(hops).model_copy(update={"split": study_of().split.model_copy(update={"source": source})})
    found = planned(study)
    wanted = {
        (0.0 if rate == 1e-3 else rate, warmup, freeze) for rate, warmup, freeze in itertools.product(*hops.values())
    }
    for row in rows(found, "sequential"):
        assert isinstance(row.model, Best) and row.model.at == "A" and row.validation == row.model
        assert len(row.model.candidates) == 8
        settings = []
        for first, *later in chains(row):
            assert first.hop is None and first.parent == Start(), "the first training is everybody's"
            assert len({hop.hop for hop in later}) == 1, "a setting is one of the whole route"
            one = later[0].hop or Hop()
            settings.append((one.learning_rate, one.warmup_epochs, one.freeze))
        assert set(settings) == wanted and settings[0] == (0.0, 0, "none")
        for candidate in row.model.candidates:  # a source is the best fold of the same setting
            assert isinstance(candidate, FineTune)
            sources = candidate.parent.candidates if isinstance(candidate.parent, Best) else (candidate.parent,)
            assert {one.hop for one in sources if isinstance(one, FineTune)} in ({None}, {candidate.hop})
    firsts = {node for node in found.nodes if isinstance(node, FineTune) and node.parent == Start()}
    assert len(firsts) == 3 * 2
    assert {
        way_of(node) for node in all_behind([rows(found, "sequential")[0].model]) if isinstance(node, FineTune)
    } == {
        "B",
        "B → A",
        "B → A (encoder frozen)",
        "B → A (2 epochs of warm-up)",
        "B → A (2 epochs of warm-up, encoder frozen)",
        "B → A (rate 0.0001)",
        "B → A (rate 0.0001, encoder frozen)",
        "B → A (rate 0.0001, 2 epochs of warm-up)",
        "B → A (rate 0.0001, 2 epochs of warm-up, encoder frozen)",
    }
    assert {way_of(row.model) for row in rows(found, "sequential")} == {"B → A", "C → A", "B → C → A", "C → B → A"}


def test_opponents_have_the_same_settings() -> None:
    """Laps, the target restarted, and the target after an average or after all data."""
    study = study_of(
        {"learning_rate": (1e-3, 1e-4)},
        cyclic={"laps": 2},
        more=("restarts", "route-folds", "target-folds"),
        pooled=True,
        federated=({"strategy": "fedavg", "rounds": 2},),
    )
    found = planned(study)
    for method in ("cyclic", "restarts", "pooled-then-target", "fedavg-then-target"):
        for row in rows(found, method):
            assert isinstance(row.model, Best) and row.model.at == "A", method
            last = [node.hop for node in row.model.candidates if isinstance(node, FineTune)]
            assert last == [None, Hop(learning_rate=1e-4)], method
    for method in ("baseline", "fedavg", "pooled"):
        for row in rows(found, method):
            behind = [node for node in all_behind([row.model]) if isinstance(node, FineTune)]
            assert behind and {node.hop for node in behind} == {None}, method
    (together,) = rows(found, "route-folds")
    assert isinstance(together.model, Best)
    for ensemble, ballots in zip(together.model.candidates, together.model.ballots, strict=True):
        assert ballots == ensemble.parents, "its folds were scored where they were made"


def test_a_warm_up_leaves_an_epoch_of_a_short_visit() -> None:
    found = planned(study_of({"warmup_epochs": (1, 3)}, cyclic={"laps": 4}))
    (row, _) = rows(found, "cyclic")
    assert isinstance(row.model, FineTune), "of one epoch nothing is left to warm up, whatever was asked for"
    assert {node.hop for node in all_behind([row.model]) if isinstance(node, FineTune)} == {None}


def test_one_cosine_goes_over_a_whole_route() -> None:
    study = study_of({"annealing": "route"}, cyclic={"laps": 2}, more=("restarts",))
    found = planned(study)
    for row in (row for row in found.rows if row.method in ("sequential", "restarts", "cyclic", "baseline")):
        (chain,) = chains(row)
        epochs = 2 if row.method == "cyclic" else 4
        total = epochs * len(row.route)
        parts = [(node.schedule.total_epochs, node.schedule.first, node.schedule.last) for node in chain]
        assert parts == [(total, epochs * k, epochs * (k + 1)) for k in range(len(row.route))]
        assert {node.schedule.keep for node in chain} == {"best"}
        # Epochs are counted in the whole cosine, so that a later training of one annealing repeats no draw either.
        assert {visit_of(node) for node in chain} == {0}


def test_a_hops_key_depends_on_its_place_and_on_the_routes_length() -> None:
    study = study_of({"annealing": "route"})
    found = {row.route: chains(row)[0] for row in rows(planned(study), "sequential")}
    short, long = found["B", "A"], found["B", "C", "A"]
    assert key(short[0], study) != key(long[0], study), "so that not even the first is shared"
    assert key(short[1], study) != key(long[2], study)
    assert found["C", "A"][0].schedule == short[0].schedule


def test_less_is_shared_where_a_route_has_one_cosine() -> None:
    """Of three sites, in a fold: 3 + 6 + 6 trainings; of routes of one cosine 3, then 3 + 6, then 3 + 6 + 6."""
    for annealing, trainings in (("stage", 15), ("route", 27)):
        found = planned(study_of({"annealing": annealing}))
        assert sum(isinstance(node, FineTune) for node in found.nodes) == 2 * trainings


@pytest.mark.parametrize("routes", ["all", "greedy"])
def test_brakes_are_rows_beside_the_routes(routes: str) -> None:
    brakes = {"lwf": {"weight": (0.5, 2.0), "temperature": 3.0}, "l2_sp": {"weight": 0.1}}
    study = study_of({"routes": routes, "freeze": ("none", "encoder")}, **brakes)
    choices = {"A": ("B", "C", "A")} if routes == "greedy" else {}
    found = plan(study, dict.fromkeys(study.sites, (100, 100)), choices)
    plain = rows(found, "greedy" if routes == "greedy" else "sequential")
    for method, tried in (("lwf", 4), ("l2-sp", 2)):
        mine = rows(found, method)
        assert [(row.route, row.fold) for row in mine] == [(row.route, row.fold) for row in plain]
        for row in mine:
            found_chains = chains(row)
            assert len(found_chains) == tried
            for first, *later in found_chains:
                assert (first.hop, first.proximal_mu) == (None, 0.0), "nothing was received yet"
                held = {(hop.hop.differing.get("distillation"), hop.proximal_mu) for hop in later if hop.hop}
                assert held <= ({(0.5, 0.0), (2.0, 0.0)} if method == "lwf" else {(None, 0.1)})
                assert {hop.hop.temperature for hop in later if hop.hop} <= ({3.0} if method == "lwf" else {0.0})
                if method == "l2-sp":
                    assert {hop.proximal_mu for hop in later} == {0.1}
    assert not rows(found, "lwf", "B") if routes == "greedy" else rows(found, "lwf", "B")
    ways = {
        way_of(node) for node in all_behind([row.model for row in rows(found, "l2-sp")]) if isinstance(node, FineTune)
    }
    assert "B → C → A (encoder frozen, L2-SP 0.1)" in ways and "B → C → A (L2-SP 0.1)" in ways


def steps(node: Node, census: dict[str, tuple[int, ...]]) -> int:
    """Gradient steps of all trainings behind weights, each counted once; of a choice, the most."""
    ends = [node]
    while any(isinstance(end, Best) or isinstance(getattr(end, "parent", None), Best) for end in ends):
        ends = [
            candidate
            for end in ends
            for candidate in (
                end.candidates
                if isinstance(end, Best)
                else [replace(end, parent=one) for one in end.parent.candidates]
                if isinstance(end, FineTune) and isinstance(end.parent, Best)
                else [end]
            )
        ]
    behind = [{one for one in all_behind([end]) if isinstance(one, FineTune)} for end in ends]
    return max(sum(one.schedule.epochs * -(-census[one.site][one.fold] // 10) for one in found) for found in behind)


@pytest.mark.parametrize(
    "federated",
    [
        (),
        ({"strategy": "fedavg", "rounds": 3}, {"strategy": "fedprox", "rounds": 2, "local_epochs": (1, 5)}),
        ({"strategy": "fedavg", "rounds": 9, "then_target": False},),
        ({"strategy": "fedavg"},),
        (
            {"strategy": "feddc", "rounds": 6, "average_every": (1, 3)},
            {"strategy": "cyclicfl", "rounds": 7, "laps": (2,)},
        ),
    ],
)
def test_the_longest_control_has_the_steps_of_the_longest_row_that_ends_at_the_target(federated: Any) -> None:
    study = study_of({}, federated=federated, pooled=True, longer_baseline=True, more=("longest",))
    census = {"A": (100, 90), "B": (60, 60), "C": (200, 180), "pooled": (360, 330)}
    found = plan(study, census)
    for target in study.sites:
        for fold in (0, 1):
            then = [
                steps(row.model, census)
                for row in found.rows
                if row.method.endswith("-then-target") and (row.target, row.fold) == (target, fold)
            ]
            (row,) = (row for row in rows(found, "longest", target) if row.fold == fold)
            (longer,) = (row for row in rows(found, "longer", target) if row.fold == fold)
            assert isinstance(row.model, FineTune) and row.model.parent == Start()
            an_epoch = census[target][fold] // 10
            assert abs(steps(row.model, census) - max(then)) <= an_epoch / 2
            assert steps(row.model, census) >= steps(longer.model, census), "the row has more steps than any route"
    assert not rows(planned(study_of({}, more=("longest",))), "longest"), "without such rows there is nothing to match"


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        ({"sequential": {"learning_rate": [1e-3, 1e-3]}}, "a value stands twice in learning_rate"),
        ({"sequential": {"learning_rate": 0.0}}, "greater than 0"),
        ({"sequential": {"warmup_epochs": []}}, "warmup_epochs is an empty list"),
        ({"sequential": {"freeze": ["encoder", "encoder"]}}, "freeze is an empty list, or a value stands twice in it"),
        ({"sequential": {"freeze": "decoder"}}, "freeze"),
        ({"sequential": {"annealing": "route", "learning_rate": 1e-4}}, "a route of one cosine has no rate"),
        ({"sequential": {"annealing": "route", "warmup_epochs": [0, 1]}}, "a route of one cosine has no rate"),
        ({"sequential": {"warmup_epochs": 200}}, "a warm-up of 200 epochs leaves nothing of the 200 epochs"),
        ({"lwf": {"weight": -1.0}}, "greater than 0"),
        ({"lwf": {"weight": [1.0, 1.0]}}, "a value stands twice in weight"),
        ({"l2_sp": {"weight": [1.0, 1.0]}}, "a value stands twice in weight"),
        ({"lwf": {"temperature": 0.0}}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(methods: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RelayError, match=sentence):
        from_table({"sites": ["A", "B"], "methods": methods}, Study, "a test")


def test_a_single_value_stands_without_brackets_and_is_read_back() -> None:
    table = {
        "sites": ["A", "B"],
        "methods": {
            "sequential": {"learning_rate": 1e-4, "warmup_epochs": 3, "freeze": "encoder"},
            "lwf": {"weight": 1.0},
            "l2_sp": {"weight": [0.01, 0.1]},
        },
    }
    study = from_table(table, Study, "a test")
    assert study.methods.sequential.settings == ((1e-4, 3, "encoder"),)
    assert study.methods.lwf.weight == (1.0,) and study.methods.l2_sp.weight == (0.01, 0.1)
    assert from_table(tomllib.loads(study_toml(study)), Study, "a test") == study


def test_nothing_is_scored_twice_among_settings() -> None:
    """Each candidate at the target has its score from its own training; only the best is tested."""
    found = planned(study_of({"freeze": ("none", "encoder")}))
    tested = [node for node in found.nodes if isinstance(node, Evaluate)]
    assert len(tested) == len(found.rows)
    assert {node.split for node in tested} == {"test"}
