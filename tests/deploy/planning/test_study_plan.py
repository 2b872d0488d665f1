"""What a study will ask for is said before anything runs, and is what it then asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.config.study import Study, study_toml
from common.errors import RelayError
from common.plan import Plan
from common.plan.graph import Average, Evaluate, FineTune, Schedule, Start
from deploy.cli import main
from deploy.planning.study_plan import makespan, numbers_of, study_plan
from tests.support.hospitals import small_study, write_hospitals

EPOCH = Schedule(1, 0, 1, "best")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 5, "B": 5}, slices=7)


def planned(capsys: pytest.CaptureFixture[str], folder: Path, study: Study, *more: str) -> Any:
    path = folder / "mine.toml"
    path.write_text(study_toml(study), encoding="utf-8")
    assert main(["study", "plan", str(path), *more, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_sharing_saves_is_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The paper's Table III for one fold: 3 alone, 6 of one hop, 6 of two hops, 33 if each began anew."""
    methods = {"longer_baseline": False, "federated": (), "pooled": False, "forgetting": False}
    study = Study.model_validate({"sites": ("A", "B", "C"), "split": {"use_folds": 1}, "methods": methods})
    told = planned(capsys, tmp_path, study, "--no-trial", "--slices", "A=100", "--slices", "B=50", "--slices", "C=30")
    assert (told["together"]["trainings"], told["together"]["alone"]) == (15, 3 * 1 + 6 * 2 + 6 * 3)
    assert told["together"]["rows"] == 15
    # 4 of 5 patients, 4 of 5 folds, batches of 16.
    assert told["train_slices"] == {"A": [64] * 5, "B": [32] * 5, "C": [19] * 5}
    steps = {"A": 4, "B": 2, "C": 2}
    ways = [(x,) for x in "ABC"] + [(x, y) for x in "ABC" for y in "ABC" if x != y]
    ways += [(x, y, z) for x in "ABC" for y in "ABC" for z in "ABC" if len({x, y, z}) == 3]
    assert told["together"]["gradient_steps"] == sum(200 * steps[way[-1]] for way in ways)


def test_repeats_and_networks_multiply(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one = small_study(sites=("A", "B"), methods={"baseline": True})
    many = one.model_copy(update={"repeats": 3, "models": type(one.models)(encoders=("resnet18", "mobilenet_v2"))})
    slices = ("--no-trial", "--slices", "A=100", "--slices", "B=50")
    single, several = (planned(capsys, tmp_path, study, *slices) for study in (one, many))
    assert several["variants"] == 6
    for name in ("rows", "trainings", "gradient_steps"):
        assert several["together"][name] == 6 * single["together"][name]
    starts = one.model_copy(update={"models": type(one.models)(encoder_weights=("imagenet", "none"))})
    both = planned(capsys, tmp_path, starts, *slices)
    assert both["variants"] == 2
    assert both["together"]["gradient_steps"] == 2 * single["together"]["gradient_steps"]


def test_rotations_multiply_all_but_what_they_share(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one = small_study(sites=("A", "B"), methods={"baseline": True}, split={"folds": 2})
    round_trip = small_study(sites=("A", "B"), methods={"baseline": True}, split={"folds": 2, "test": "rotate"})
    slices = ("--no-trial", "--slices", "A=100", "--slices", "B=50")
    single, several = (planned(capsys, tmp_path, study, *slices) for study in (one, round_trip))
    assert several["variants"] == 5
    assert several["together"]["trainings"] == 5 * single["together"]["trainings"] == 5 * 2 * 2
    assert several["together"]["gradient_steps"] == 5 * single["together"]["gradient_steps"]
    assert main(["study", "plan", str(tmp_path / "mine.toml"), *slices]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 repeat, 5 rotations of the test;" in told
    assert "5 rotations of 4 trainings each, since other patients train in each" in told
    assert "share the prepared patients, and the first weights of each training seed" in told


@pytest.mark.slow
def test_the_plan_is_what_the_study_then_does(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, hospitals: dict[str, Path]
) -> None:
    study = small_study(
        sites=("A", "B"),
        methods={
            "baseline": True,
            "sequential": {"routes": "all"},
            "federated": ({"rounds": 2, "then_target": False},),
            "forgetting": True,
        },
        training={"epochs": 1},
    )
    given = [word for name, path in hospitals.items() for word in ("--site", f"{name}={path}")]
    told = planned(capsys, tmp_path, study, *given)
    assert told["estimate"]["training"] > 0 and told["estimate"]["step"] > 0 and told["estimate"]["predict"] > 0
    out = tmp_path / "results"
    assert main(["simulate", str(tmp_path / "mine.toml"), *given, "--out", str(out), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    done = {entry["method"]: entry for entry in results["budgets"]}
    for line in [*told["methods"], told["together"]]:
        found = done[line["method"]]
        for name in ("trainings", "scorings", "gradient_steps", "bytes_moved"):
            assert found[name] == line[name], (line["method"], name)
    assert told["together"]["rows"] == len(results["rows"])
    sites = {site["name"]: site["train_slices"] for site in results["sites"]}
    assert told["train_slices"] == sites


def test_a_method_that_the_study_has_no_row_for_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    study = small_study(methods={"baseline": True, "more": ("consensus", "target-folds", "restarts")})
    assert study_plan(study, {}, dict.fromkeys("ABC", 100), at_once=1, trial=False, as_json=False) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "are too few for it: Target alone, restarted." in text, "the study has no route"
    assert "All sites' own models" in text and "Target alone, all folds" in text


def test_a_study_of_volumes_is_planned_in_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 50 patients 20 % are for test and half of the others in each fold: 20 boxes, in batches of two."""
    box = {"architecture": "VNet", "encoder": "", "dimensions": 3, "depth": 16}
    study = small_study(model=box, training={"slices": "all", "batch": 2, "epochs": 3}, methods={"baseline": True})
    for as_json in (False, True):
        assert study_plan(study, {}, dict.fromkeys("ABC", 50), at_once=1, trial=False, as_json=as_json) == 0
        said = capsys.readouterr().out
        assert as_json or "A: 20 training boxes a fold (assumed)." in said
    assert json.loads(said)["together"]["gradient_steps"] == 3 * 2 * 3 * 10


def test_settings_of_later_trainings_and_what_one_cosine_costs_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    def planned(**methods: Any) -> tuple[str, dict[str, int]]:
        text = ""
        study = small_study(methods={"sequential": {"routes": "all", **methods.pop("sequential", {})}, **methods})
        for as_json in (False, True):
            assert study_plan(study, {}, dict.fromkeys("ABC", 100), at_once=1, trial=False, as_json=as_json) == 0
            said = capsys.readouterr().out
            text = text if as_json else " ".join(said.split())
        return text, {line["method"]: line["trainings"] for line in json.loads(said)["methods"]}

    text, trainings = planned(lwf={"weight": (0.5, 1.0)}, l2_sp={"weight": 0.1})
    assert "settings" not in text and "one cosine" not in text
    # In each of two folds: three first trainings, six of one hop, six of two; of a brake, so many a weight.
    assert trainings == {"sequential": 2 * 15, "lwf": 2 * (3 + 2 * 12), "l2-sp": 2 * 15}
    text, trainings = planned(sequential={"learning_rate": (3e-3, 1e-4), "freeze": ("none", "encoder")})
    assert "Second and later trainings have 4 settings" in text
    assert trainings == {"sequential": 2 * (3 + 4 * 12)}
    text, trainings = planned(sequential={"annealing": "route"})
    assert "A route has one cosine: its trainings depend on their place and on its length" in text
    assert trainings == {"sequential": 2 * (3 + 6 + 3 + 6 + 6)}


@pytest.mark.slow
def test_the_papers_counts_stand_in_for_a_site_that_is_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "plan", "paper-table3", "--no-trial"]) == 0
    told = capsys.readouterr().out
    assert "A: 253 training slices a fold (assumed)." in told
    assert "Target alone" in told and "Together" in told


@pytest.mark.slow
def test_the_papers_tables_are_asked_for_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "plan", "paper-table3", "--no-trial", "--json"]) == 0
    methods = {line["method"]: line for line in json.loads(capsys.readouterr().out)["methods"]}
    # Every source of Table III with every target, five folds each.
    assert methods["baseline"]["rows"] == 3 * 5
    assert methods["sequential"]["rows"] == (6 + 6) * 5 and methods["sequential"]["trainings"] == 15 * 5
    assert methods["pooled"]["rows"] == 3 * 5 and methods["pooled"]["trainings"] == 5
    beyond = {"longer", "unadapted", "cyclic", "fedavg", "fedavg-then-target", "fedprox", "pooled-then-target"}
    assert beyond < set(methods)
    assert main(["study", "plan", "paper-table2", "--no-trial", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["variants"] == 7 * 4 and told["together"]["trainings"] == 7 * 4 * 5
    assert told["together"]["scorings"] == 0


@pytest.mark.parametrize("given", ["A", "A=", "=5", "A=x", "A=-1", "A=0"])
def test_a_count_that_is_none_is_told(given: str) -> None:
    with pytest.raises(RelayError, match="--slices wants NAME=N"):
        numbers_of("--slices", [given])


def test_a_site_is_given_one_number_of_slices() -> None:
    with pytest.raises(RelayError, match="--slices names A twice"):
        numbers_of("--slices", ["A=10", "B=10", "A=20"])


def test_a_site_of_which_nothing_is_known_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.planning.study_plan import study_plan

    with pytest.raises(RelayError, match=r"Nothing is known of site B; add --site B=PATH, or --slices B=N"):
        study_plan(small_study(sites=("A", "B")), {}, {"A": 100}, at_once=1, trial=False, as_json=False)


def stages(*nodes: FineTune | Evaluate | Average | Start) -> Plan:
    return Plan((), nodes)


A = FineTune("A", 0, Start(), EPOCH)
B = FineTune("B", 0, Start(), EPOCH)
AB = FineTune("B", 0, A, EPOCH)
BA = FineTune("A", 0, B, EPOCH)
MEAN = Average((A, B), "fedavg")
OF_MEAN = Evaluate("A", 0, "test", MEAN)


@pytest.mark.parametrize(
    ("found", "at_once", "seconds"),
    [
        (stages(Start()), 2, 0),
        (stages(Start(), A), 2, 3),
        # Two sites at once, or one after the other.
        (stages(Start(), A, B), 2, 5),
        (stages(Start(), A, B), 1, 3 + 5),
        # A site does one thing at a time.
        (stages(Start(), A, FineTune("A", 1, Start(), EPOCH)), 2, 3 + 3),
        # B → A waits for B (5), then takes 3; A → B waits for both A (3) and the site.
        (stages(Start(), A, B, AB, BA), 2, 5 + 5),
        (stages(Start(), A, B, MEAN, OF_MEAN), 2, 5 + 1),
    ],
)
def test_the_time_is_that_of_sites_side_by_side(found: Plan, at_once: int, seconds: float) -> None:
    def duration(node: FineTune | Evaluate) -> float:
        return 1.0 if isinstance(node, Evaluate) else {"A": 3.0, "B": 5.0}[node.site]

    assert makespan(found, duration, at_once=at_once) == seconds
