"""The registry of methods: one key, one title and one name each, and traits that agree with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

import common.config.methods
from common.config.study import Study, load_study, study_toml
from common.errors import RelayError
from common.plan import Section, absence_rule, method_of, name_of, plan
from common.plan.methods import METHODS, Method
from common.strategies import STRATEGIES

SITES = ("A", "B", "C")
STAYS = {"batch_norm": ("average", "re-estimate", "local"), "ditto_lambda": (0.1, 1.0)}
EVERYTHING: dict[str, Any] = {
    "sites": SITES,
    "split": {"folds": 2},
    "training": {"epochs": 2},
    "methods": {
        "unadapted": True,
        "more": ("restarts", "longest", "target-folds", "route-folds", "consensus", "soup"),
        "leave_out": True,
        "pooled_subsets": True,
        "lwf": {"weight": 1.0},
        "l2_sp": {"weight": (0.1, 1.0)},
        "train_fraction": (0.5, 1.0),
        "cyclic": {"laps": 2},
        "sequential": {"routes": "all", "batch_norm": ("travel", "local")},
        "federated": tuple(
            {"strategy": key, "rounds": 2} | (STAYS if strategy.plain_rounds else {})
            for key, strategy in reversed(STRATEGIES.items())
        ),
    },
}
CENSUS = {"A": (10, 11), "B": (20, 21), "C": (33, 34), "pooled": (60, 61)}
HALVING = {"methods": EVERYTHING["methods"] | {"sequential": {"routes": "halving", "max_hops": 1}}}
DEEP = {
    "methods": EVERYTHING["methods"]
    | {"federated": tuple(part | {"rounds": 0, "budget": "depth"} for part in EVERYTHING["methods"]["federated"])}
}
GREEDY = {"methods": EVERYTHING["methods"] | {"sequential": {"routes": "greedy", "max_hops": 1}}}


def rows_of(content: dict[str, Any], choices: dict[str, tuple[str, ...]] | None = None) -> list[tuple[str, str]]:
    found = plan(Study.model_validate(content), CENSUS, choices)
    return [(row.method, name_of(row)) for row in found.rows if row.target == "A" and row.fold == 0]


def test_every_method_has_rows_of_its_own_under_one_name() -> None:
    assert rows_of(EVERYTHING) == [
        ("baseline", "A alone"),
        ("longer", "A alone, longer"),
        ("longest", "A alone, longest"),
        ("restarts", "A alone, restarted"),
        ("baseline-share", "A alone, 50 % of its patients"),
        ("target-folds", "A alone, all folds"),
        ("sequential", "B → A"),
        ("sequential", "C → A"),
        ("sequential", "B → C → A"),
        ("sequential", "C → B → A"),
        ("lwf", "B → A, LwF"),
        ("lwf", "C → A, LwF"),
        ("lwf", "B → C → A, LwF"),
        ("lwf", "C → B → A, LwF"),
        ("l2-sp", "B → A, L2-SP"),
        ("l2-sp", "C → A, L2-SP"),
        ("l2-sp", "B → C → A, L2-SP"),
        ("l2-sp", "C → B → A, L2-SP"),
        ("sequential-local", "B → A, own batch norm"),
        ("sequential-local", "C → A, own batch norm"),
        ("sequential-local", "B → C → A, own batch norm"),
        ("sequential-local", "C → B → A, own batch norm"),
        ("soup", "mean of all routes to A"),
        ("sequential-share", "B → A, 50 % of A's patients"),
        ("sequential-share", "C → A, 50 % of A's patients"),
        ("sequential-share", "B → C → A, 50 % of A's patients"),
        ("sequential-share", "C → B → A, 50 % of A's patients"),
        ("cyclic", "2 laps to A"),
        ("cyclic-local", "2 laps to A, own batch norm"),
        ("unadapted", "B, unadapted"),
        ("unadapted", "C, unadapted"),
        # as the study lists its strategies, each with what descends from it
        ("cyclicfl", "CyclicFL"),
        ("cyclicfl-re-estimated", "CyclicFL, batch norm re-estimated"),
        ("cyclicfl-then-target", "CyclicFL, then A"),
        ("feddc", "FedDC"),
        ("feddc-re-estimated", "FedDC, batch norm re-estimated"),
        ("feddc-then-target", "FedDC, then A"),
        ("fedyogi", "FedYogi"),
        ("fedyogi-re-estimated", "FedYogi, batch norm re-estimated"),
        ("fedyogi-local", "FedYogi, own batch norm"),
        ("fedyogi-then-target", "FedYogi, then A"),
        ("fedyogi-ditto", "FedYogi, personal models"),
        ("fedadam", "FedAdam"),
        ("fedadam-re-estimated", "FedAdam, batch norm re-estimated"),
        ("fedadam-local", "FedAdam, own batch norm"),
        ("fedadam-then-target", "FedAdam, then A"),
        ("fedadam-ditto", "FedAdam, personal models"),
        ("fedadagrad", "FedAdagrad"),
        ("fedadagrad-re-estimated", "FedAdagrad, batch norm re-estimated"),
        ("fedadagrad-local", "FedAdagrad, own batch norm"),
        ("fedadagrad-then-target", "FedAdagrad, then A"),
        ("fedadagrad-ditto", "FedAdagrad, personal models"),
        ("fedavgm", "FedAvgM"),
        ("fedavgm-re-estimated", "FedAvgM, batch norm re-estimated"),
        ("fedavgm-local", "FedAvgM, own batch norm"),
        ("fedavgm-then-target", "FedAvgM, then A"),
        ("fedavgm-ditto", "FedAvgM, personal models"),
        ("krum", "Krum"),
        ("krum-re-estimated", "Krum, batch norm re-estimated"),
        ("krum-local", "Krum, own batch norm"),
        ("krum-then-target", "Krum, then A"),
        ("krum-ditto", "Krum, personal models"),
        ("fedtrimmedavg", "FedTrimmedAvg"),
        ("fedtrimmedavg-re-estimated", "FedTrimmedAvg, batch norm re-estimated"),
        ("fedtrimmedavg-local", "FedTrimmedAvg, own batch norm"),
        ("fedtrimmedavg-then-target", "FedTrimmedAvg, then A"),
        ("fedtrimmedavg-ditto", "FedTrimmedAvg, personal models"),
        ("fedmedian", "FedMedian"),
        ("fedmedian-re-estimated", "FedMedian, batch norm re-estimated"),
        ("fedmedian-local", "FedMedian, own batch norm"),
        ("fedmedian-then-target", "FedMedian, then A"),
        ("fedmedian-ditto", "FedMedian, personal models"),
        ("fedprox", "FedProx"),
        ("fedprox-re-estimated", "FedProx, batch norm re-estimated"),
        ("fedprox-local", "FedProx, own batch norm"),
        ("fedprox-then-target", "FedProx, then A"),
        ("fedprox-ditto", "FedProx, personal models"),
        ("fedavg", "FedAvg"),
        ("fedavg-re-estimated", "FedAvg, batch norm re-estimated"),
        ("fedavg-local", "FedBN"),
        ("fedavg-then-target", "FedAvg, then A"),
        ("fedavg-ditto", "Ditto"),
        ("route-folds", "best route to A, all folds"),
        ("consensus", "All sites' own models"),
        ("pooled", "All data"),
        ("pooled-then-target", "All data, then A"),
        ("pooled-subset", "All data of A and B"),
        ("pooled-subset", "All data of A and C"),
        # Krum and FedTrimmedAvg need three sites, and two are left
        ("route-unseen", "best route, A unseen"),
        ("consensus-unseen", "other sites' own models, A unseen"),
        ("pooled-unseen", "all data of the other sites, A unseen"),
        ("cyclicfl-unseen", "CyclicFL, A unseen"),
        ("feddc-unseen", "FedDC, A unseen"),
        ("fedyogi-unseen", "FedYogi, A unseen"),
        ("fedadam-unseen", "FedAdam, A unseen"),
        ("fedadagrad-unseen", "FedAdagrad, A unseen"),
        ("fedavgm-unseen", "FedAvgM, A unseen"),
        ("fedmedian-unseen", "FedMedian, A unseen"),
        ("fedprox-unseen", "FedProx, A unseen"),
        ("fedavg-unseen", "FedAvg, A unseen"),
    ]
    grown = rows_of(EVERYTHING | GREEDY, {"A": ("C", "A")})
    assert ("greedy", "C → A") in grown and "sequential" not in dict(grown)
    assert [name for method, name in grown if method in ("lwf", "l2-sp")] == ["C → A, LwF", "C → A, L2-SP"]
    halved = rows_of(EVERYTHING | HALVING, {"A": ("01",)})
    assert ("halving", "C → A") in halved and "sequential" not in dict(halved)
    deep = rows_of(EVERYTHING | DEEP)
    assert ("fedavg-depth", "FedAvg, equal depth") in deep and ("fedavg-local-depth", "FedBN, equal depth") in deep
    planned = {method for method, _ in (*rows_of(EVERYTHING), *grown, *halved, *deep)}
    # with three sites, the only union without the target is that of "pooled-unseen"
    need_four = {"krum-unseen", "fedtrimmedavg-unseen", "pooled-subset-unseen"}
    assert planned == {method.key for method in METHODS} - need_four
    four = EVERYTHING | {"sites": (*SITES, "D")}
    found = plan(Study.model_validate(four), CENSUS | {"D": (7, 8)})
    assert need_four <= {row.method for row in found.rows}
    names = [name_of(row) for row in found.rows if (row.method, row.target) == ("pooled-subset-unseen", "A")]
    assert list(dict.fromkeys(names)) == [
        f"all data of {union}, A unseen" for union in ("B and C", "B and D", "C and D")
    ]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_a_methods_names_are_its_own_and_no_keys(method: Method) -> None:
    assert method_of(method.key) is method
    assert [one.key for one in METHODS if one.title == method.title] == [method.key]
    told = (method.title, method.name(("B", "A"), "A"), method.name((), "A"), method.line_of(("B", "A"), "A"))
    assert method.key not in told


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_traits_agree_with_each_other(method: Method) -> None:
    assert not (method.baseline or method.longer) or method.alone
    assert not method.alone or (method.section is Section.ALONE and method.deliverable and not method.everybody)
    assert not method.grows or method.routed
    assert not method.routed or method.travelling
    assert not method.travelling or method.adapted
    assert not method.strategy or method.everybody or not method.adapted


def test_one_method_is_what_gains_are_counted_from_and_one_the_control_for_longer_training() -> None:
    assert [method.key for method in METHODS if method.baseline] == ["baseline"]
    assert [method.key for method in METHODS if method.longer] == ["longer"]


def test_a_method_that_is_not_known_is_called_by_its_key() -> None:
    unknown = method_of("swarm")
    assert unknown.title == unknown.name(("B", "A"), "A") == unknown.line_of(("B", "A"), "A") == "swarm"


def test_a_study_that_names_a_method_that_is_not_known_is_told() -> None:
    study = Study.model_validate({"sites": SITES, "methods": {"more": ("swarm",)}})
    with pytest.raises(
        RelayError,
        match=r"names swarm, which this relay lacks \(it knows consensus, longest, restarts, route-folds, soup, tar",
    ):
        plan(study, dict.fromkeys((*SITES, "pooled"), (10,) * 5))


def test_a_study_that_names_no_more_methods_has_the_digest_of_before() -> None:
    assert "more" not in Study.model_validate({"sites": SITES}).model_dump(mode="json")["methods"]
    named = Study.model_validate({"sites": SITES, "methods": {"more": ("swarm",)}})
    assert named.model_dump(mode="json")["methods"]["more"] == ["swarm"]
    assert named.digest != Study.model_validate({"sites": SITES}).digest
    assert Study.model_validate_json(named.model_dump_json()) == named


def test_a_rule_of_its_own_may_be_given_to_what_can_do_without_a_site_and_to_nothing_else() -> None:
    skippable = {method.absence or method.key for method in METHODS if method.skippable}
    assert set(get_args(common.config.methods.Skippable)) == skippable


def test_a_method_has_the_rule_of_all_but_for_what_it_says_itself(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'sites = ["A", "B", "C"]\n[absence]\nwait_hours = 2.0\n[absence.methods.fedavg]\nthen = "skip"\n'
        "[absence.methods.cyclic]\nwait_hours = 0.5\n",
        encoding="utf-8",
    )
    study = load_study(path)
    found = {
        name: (rule.wait_hours, rule.then)
        for name in ("baseline", "sequential", "greedy", "cyclic", "fedavg", "fedavg-then-target")
        for rule in [absence_rule(study, method_of(name))]
    }
    assert found == {
        "baseline": (2.0, "park"),
        "sequential": (2.0, "park"),
        "greedy": (2.0, "park"),
        "cyclic": (0.5, "park"),
        "fedavg": (2.0, "skip"),
        "fedavg-then-target": (2.0, "skip"),
    }
    again = tmp_path / "again.toml"
    again.write_text(study_toml(study), encoding="utf-8")
    assert load_study(again) == study


def test_no_source_of_a_growing_route_is_left_out() -> None:
    """What the next hop is selected from would not be what it claims to be."""
    study = Study.model_validate(
        {"sites": ("A", "B"), "methods": {"sequential": {"routes": "greedy"}}, "absence": {"then": "skip"}}
    )
    assert absence_rule(study, method_of("greedy")).then == "park"
    assert absence_rule(study, method_of("halving")).then == "park"
    assert absence_rule(study, method_of("fedavg")).then == "skip"
    assert absence_rule(study, method_of("krum")).then == "park"
    assert absence_rule(study, method_of("feddc")).then == "park"
    assert absence_rule(study, method_of("cyclicfl")).then == "skip"
