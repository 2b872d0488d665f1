"""A route through the federation gives, bit for bit, the weights of a plain loop in one process."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from common.messages import FineTuneReply
from common.study import Study
from server.aggregation import Part, aggregate
from tests.end_to_end.plain_loop import PlainLoop, Stage, Tensors, digest
from tests.hospitals import forget_stages, run_on_grid, small_study, write_hospitals

pytestmark = pytest.mark.usefixtures("one_thread")

PATIENTS = {"A": 6, "B": 7, "C": 6}
ROUTE = ("B", "C", "A")
BFLOAT16 = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16") and not torch.cpu.get_capabilities().get("amx_bf16"),
    reason="this processor has no bfloat16 arithmetic",
)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), PATIENTS)


def route_study(*, source: str = "best-fold", **training: Any) -> Study:
    model = training.pop("model", {})
    return small_study(
        model=model,
        split={"source": source},
        training={"epochs": 3, **training},
        methods={"sequential": {"routes": (ROUTE,)}},
    )


def ledger(out: Path) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Records of fine-tuning, by site, fold and parent's digest."""
    records = [json.loads(path.read_text()) for path in (out / "ledger").glob("*.json")]
    return {
        (record["site"], record.get("fold", 0), record["parents"][0]): record
        for record in records
        if record["kind"] == "fine-tune"
    }


def plain_route(study: Study, hospitals: dict[str, Path]) -> tuple[Tensors, dict[tuple[str, int, str], Stage]]:
    """The same stages one after the other; what is handed on is the best fold, or each fold's own."""
    loop = PlainLoop(study, hospitals)
    start = loop.start()
    parents = [start, start]
    stages: dict[tuple[str, int, str], Stage] = {}
    for site in ROUTE:
        made = [loop.fine_tune(site, fold, parents[fold]) for fold in (0, 1)]
        stages |= {(site, fold, digest(parents[fold])): made[fold] for fold in (0, 1)}
        if study.split.source == "best-fold":
            best = max(made, key=lambda stage: stage.native_dice)
            parents = [best.weights, best.weights]
        else:
            parents = [stage.weights for stage in made]
    return start, stages


def assert_exact(study: Study, hospitals: dict[str, Path], out: Path, results: dict[str, Any]) -> None:
    start, stages = plain_route(study, hospitals)
    assert (out / "weights" / f"{digest(start)}.safetensors").exists()
    recorded = ledger(out)
    assert set(recorded) == set(stages), "other stages were run, or from other weights"
    for key, stage in stages.items():
        record = recorded[key]
        assert record["weights"] == digest(stage.weights), f"stage {key[:2]} gave other weights"
        assert record["losses"] == stage.losses
        assert record["dices"] == pytest.approx(stage.dices, abs=1e-6)
        assert record["dice"] == pytest.approx(stage.native_dice, abs=1e-6)
        assert record["kept_epoch"] == stage.dices.index(max(stage.dices)) + 1
    at_target = {record["weights"] for key, record in recorded.items() if key[0] == "A"}
    assert {row["weights"] for row in results["rows"]} == at_target
    assert len(results["rows"]) == 2


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=BFLOAT16)])
def test_a_route_gives_the_weights_of_a_plain_loop(hospitals: dict[str, Path], tmp_path: Path, precision: str) -> None:
    """With the defaults of a study: light augmentation, the best epoch, the best fold of a source."""
    study = route_study(precision=precision)
    assert study.training.augmentation == "light" and study.training.keep == "best"
    results, _ = run_on_grid(study, hospitals, tmp_path, at_once=3)
    assert_exact(study, hospitals, tmp_path, results)


@pytest.mark.parametrize(
    ("model", "source", "batch"),
    [
        # random dropping of whole blocks; batches such that a single slice is left over
        ({"encoder": "efficientnet-b0"}, "same-fold", 4),
        # dropout of single values, and dilated convolutions
        pytest.param({"architecture": "DeepLabV3", "encoder": "resnet18"}, "best-fold", 8, marks=pytest.mark.slow),
        pytest.param({"architecture": "UnetPlusPlus", "encoder": "resnet18"}, "same-fold", 8, marks=pytest.mark.slow),
        pytest.param({"architecture": "MAnet", "encoder": "resnet18"}, "best-fold", 16, marks=pytest.mark.slow),
    ],
)
def test_chance_inside_the_network_is_the_plain_loops(
    hospitals: dict[str, Path], tmp_path: Path, model: dict[str, str], source: str, batch: int
) -> None:
    study = route_study(
        model=model, source=source, batch=batch, epochs=2, augmentation="none", precision="float32", weight_decay=1e-3
    )
    results, _ = run_on_grid(study, hospitals, tmp_path, at_once=1)
    assert_exact(study, hospitals, tmp_path, results)


def test_legs_of_one_epoch_equal_one_leg_and_one_site_at_a_time_equals_all_at_once(
    hospitals: dict[str, Path], tmp_path: Path
) -> None:
    """Dropping of blocks, augmentation and Adam's moments all have to go on where they stopped."""
    found = []
    for minutes, at_once in ((10.0, 3), (0.0, 1)):
        study = route_study(model={"encoder": "efficientnet-b0"}, leg_minutes=minutes)
        forget_stages(hospitals)
        out = tmp_path / str(at_once)
        results, events = run_on_grid(study, hospitals, out, at_once=at_once)
        legs = [event for event in events if event.kind == "running" and event.epoch]
        assert len(legs) == 6 * (1 if minutes else study.training.epochs)
        found.append((results["rows"], results["stages"], sorted(path.name for path in (out / "weights").iterdir())))
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def one_round(hospitals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study = small_study(
        training={"precision": "float32", "epochs": 2},
        methods={"federated": ({"strategy": "fedprox", "local_epochs": 2, "proximal_mu": 0.5, "then_target": False},)},
    )
    out = tmp_path_factory.mktemp("round")
    run_on_grid(study, hospitals, out, at_once=2)
    return study, out


def test_a_round_is_the_mean_worked_out_by_hand(one_round: tuple[Study, Path]) -> None:
    _, out = one_round
    trained = ledger(out)
    averages = [json.loads(path.read_text()) for path in (out / "ledger").glob("*.json")]
    averages = [record for record in averages if record["kind"] == "average"]
    assert [record.get("fold", 0) for record in sorted(averages, key=lambda record: record.get("fold", 0))] == [0, 1]
    for average in averages:
        fold = average.get("fold", 0)
        parts = {site: record for (site, k, _), record in trained.items() if k == fold}
        assert sorted(parts) == ["A", "B", "C"]
        assert len({record["train_slices"] for record in parts.values()}) > 1, "equal shares would show less"
        load = {site: read(out, record["weights"]) for site, record in parts.items()}
        parent = read(out, parts["A"]["parents"][0])
        slices = sum(record["train_slices"] for record in parts.values())
        result = read(out, average["weights"])
        assert set(result) == set(parent)
        for name, tensor in result.items():
            if tensor.is_floating_point():
                mean = sum(load[site][name].double() * (parts[site]["train_slices"] / slices) for site in parts)
                assert torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-7)
                assert tensor.dtype == torch.float32
            else:
                assert torch.equal(tensor, parent[name])
                assert not torch.equal(tensor, load["A"][name]), "the parts have counted on"


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedmedian", "fedtrimmedavg"])
def test_a_round_is_the_same_for_every_order_of_replies(one_round: tuple[Study, Path], strategy: str) -> None:
    _, out = one_round
    parts = {site: record for (site, fold, _), record in ledger(out).items() if fold == 0}
    parent = out / "weights" / f"{parts['A']['parents'][0]}.safetensors"
    made = []
    for order in itertools.permutations(parts):
        given = {
            site: Part(out / "weights" / f"{parts[site]['weights']}.safetensors", parts[site]["train_slices"])
            for site in order
        }
        made.append(digest(aggregate(strategy, given, expected=frozenset(order), parent=parent)))
    assert len(set(made)) == 1
    assert made[0] not in {record["weights"] for record in parts.values()}


def test_the_proximal_term_is_the_plain_loops(one_round: tuple[Study, Path], hospitals: dict[str, Path]) -> None:
    study, out = one_round
    loop = PlainLoop(study, hospitals)
    start = loop.start()
    for site in study.sites:
        plain = loop.fine_tune(site, 1, start, keep="last", mu=0.5)
        record = ledger(out)[site, 1, digest(start)]
        assert record["weights"] == digest(plain.weights)
        assert record["losses"] == pytest.approx(plain.losses, rel=1e-5)
        without = loop.fine_tune(site, 1, start, keep="last")
        assert digest(without.weights) != digest(plain.weights)


def test_fedavgs_rounds_are_slices_of_one_cosine(hospitals: dict[str, Path], tmp_path: Path) -> None:
    study = small_study(
        training={"precision": "float32", "epochs": 2, "augmentation": "none"},
        methods={"federated": ({"strategy": "fedavg", "local_epochs": 1, "then_target": False},)},
    )
    run_on_grid(study, hospitals, tmp_path)
    loop = PlainLoop(study, hospitals)
    recorded = ledger(tmp_path)
    rounds = {parent for _, _, parent in recorded}
    first = digest(loop.start())
    for parent in rounds:
        number = 0 if parent == first else 1
        site, fold = next((site, fold) for site, fold, before in recorded if before == parent)
        plain = loop.fine_tune(
            site, fold, read(tmp_path, parent), epochs=range(number, number + 1), total=2, keep="last"
        )
        assert recorded[site, fold, parent]["weights"] == digest(plain.weights)
    assert len(rounds) == 3, "the start, and the first round's average of each fold"


def test_learning_rates_follow_the_cosine(one_round: tuple[Study, Path]) -> None:
    _, out = one_round
    for record in ledger(out).values():
        assert record["learning_rates"] == pytest.approx([3e-3, 1.5e-3])
        assert set(FineTuneReply.model_fields) >= {"learning_rates"}


def read(out: Path, name: str) -> Tensors:
    return safetensors.torch.load_file(out / "weights" / f"{name}.safetensors")
