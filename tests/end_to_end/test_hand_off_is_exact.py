"""A route through the federation gives, bit for bit, the weights of a plain loop in one process."""

from __future__ import annotations

import hmac
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from client.data.splits import split
from common.config.study import Study
from server.aggregation import Contribution, aggregate
from tests.end_to_end.plain_loop import Patient, PlainLoop, Stage, Tensors, digest
from tests.support.hospitals import forget_stages, run_on_grid, small_study, write_hospitals

pytestmark = pytest.mark.usefixtures("one_thread")

PATIENTS = {"A": 6, "B": 7, "C": 6}
ROUTE = ("B", "C", "A")


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
        deciding = "dice" if study.training.slices == "chosen" else "dice_volume"
        # The loop interpolates by itself: a voxel of probability 0.5 but for the last bit may fall to either side.
        assert record.get(deciding, 0.0) == pytest.approx(stage.native_dice, abs=5e-5)
        assert record["kept_epoch"] == stage.dices.index(max(stage.dices)) + 1
    at_target = {record["weights"] for key, record in recorded.items() if key[0] == "A"}
    assert {row["weights"] for row in results["rows"]} == at_target
    assert len(results["rows"]) == 2


@pytest.mark.slow
def test_a_route_gives_the_weights_of_a_plain_loop(hospitals: dict[str, Path], tmp_path: Path) -> None:
    """With the defaults of a study: light augmentation, the best epoch, the best fold of a source."""
    study = route_study(precision="float32")
    assert (study.training.augmentation, study.training.keep, study.split.source) == ("light", "best", "best-fold")
    results, _ = run_on_grid(study, hospitals, tmp_path, at_once=3)
    assert_exact(study, hospitals, tmp_path, results)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, pytest.param(1.0, marks=pytest.mark.slow)])
def test_whole_volumes_give_the_weights_of_a_plain_loop(
    hospitals: dict[str, Path], tmp_path: Path, share: float
) -> None:
    """Every slice of a volume, the study's share of those without gland, and the volume Dice of the patients."""
    study = route_study(precision="float32", slices="all", empty_share=share, epochs=2)
    results, _ = run_on_grid(study, hospitals, tmp_path, at_once=3)
    assert_exact(study, hospitals, tmp_path, results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "training"),
    [
        # random dropping of whole blocks; batches such that a single slice is left over
        ({"encoder": "efficientnet-b0"}, {"batch": 4, "weight_decay": 1e-3, "augmentation": "none"}),
        # dropout of single values, and dilated convolutions
        pytest.param({"architecture": "DeepLabV3", "encoder": "resnet18"}, {}, marks=pytest.mark.nightly),
        pytest.param({"architecture": "UnetPlusPlus", "encoder": "efficientnet-b1"}, {}, marks=pytest.mark.nightly),
        pytest.param({"architecture": "MAnet", "encoder": "resnet18"}, {"batch": 16}, marks=pytest.mark.nightly),
    ],
)
def test_legs_of_one_epoch_and_one_site_at_a_time_change_nothing(
    hospitals: dict[str, Path], tmp_path: Path, model: dict[str, str], training: dict[str, Any]
) -> None:
    """The network's own chance, Adam's moments and the best epoch so far all have to go on where they stopped."""
    precision = "bfloat16" if has_bfloat16() else "float32"
    found = []
    for minutes, at_once in ((0.0, 1), (10.0, 3)):
        study = route_study(
            model=model, source="same-fold", leg_minutes=minutes, precision=precision, **{"epochs": 2, **training}
        )
        forget_stages(hospitals)
        out = tmp_path / str(at_once)
        results, events = run_on_grid(study, hospitals, out, at_once=at_once)
        answers = [event for event in events if event.kind == "running" and event.epoch]
        assert len(answers) == 6 * (1 if minutes else study.training.epochs)
        found.append((results["rows"], results["stages"], sorted(path.name for path in (out / "weights").iterdir())))
        if not minutes:
            assert_exact(study, hospitals, out, results)
    assert found[0] == found[1]


UNET = {"architecture": "Unet", "encoder": "mobilenet_v2"}
OTHERS = ("AttentionUnet", "VNet", "EncUSENet", "EncDecUSENet", "HolisticallyNested", "FCN8s", "DenseUNet")
HOPS: list[Any] = [
    ({**UNET, "neighbours": 1}, {}),
    ({"architecture": "BasicUNet"}, {"recipe": "nnunet"}),
    pytest.param({"architecture": "DynUNet"}, {"recipe": "nnunet"}, marks=pytest.mark.slow),
    *(pytest.param({"architecture": name}, {}, marks=pytest.mark.nightly) for name in OTHERS),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "training"), HOPS, ids=str)
def test_a_hop_of_every_network_gives_the_weights_of_a_plain_loop(
    hospitals: dict[str, Path], tmp_path: Path, model: dict[str, Any], training: dict[str, Any]
) -> None:
    """B → A, with auxiliary outputs, with neighbours as channels, and by nnU-Net's recipe, in legs of an epoch."""
    whole = {"epochs": 2, "batch": 8, "slices": "chosen", "precision": "float32", "leg_minutes": 0.0, **training}
    content = small_study().model_dump()
    content |= {
        "sites": ("A", "B"),
        "model": {"encoder_weights": "none", **model},
        "preprocessing": {"pixels": 64, "spacing_mm": 1.0, "n4": {"enabled": False}},
        "split": {"folds": 2, "use_folds": 1},
        "training": whole,
    }
    content["methods"]["sequential"] = {"routes": (("B", "A"),)}
    study = Study.model_validate(content)
    sites = {name: hospitals[name] for name in study.sites}
    results, _ = run_on_grid(study, sites, tmp_path)
    loop = PlainLoop(study, sites)
    weights = loop.start()
    for site in ("B", "A"):
        weights = loop.fine_tune(site, 0, weights).weights
    (row,) = results["rows"]
    assert row["weights"] == digest(weights)


def has_bfloat16() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@pytest.fixture(scope="module")
def rounds(hospitals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """One round of FedProx and two of FedAvg."""
    study = small_study(
        split={"use_folds": 1},
        training={"precision": "float32", "epochs": 2, "augmentation": "none"},
        methods={
            "federated": (
                {"strategy": "fedprox", "local_epochs": 2, "proximal_mu": 0.5, "then_target": False},
                {"strategy": "fedavg", "local_epochs": 1, "then_target": False},
            )
        },
    )
    out = tmp_path_factory.mktemp("rounds")
    run_on_grid(study, hospitals, out, at_once=2, keep_weights=True)
    return study, out


def test_a_round_is_the_mean_worked_out_by_hand(rounds: tuple[Study, Path]) -> None:
    _, out = rounds
    records = [json.loads(path.read_text()) for path in (out / "ledger").glob("*.json")]
    trained = [record for record in records if record["kind"] == "fine-tune"]
    averages = [record for record in records if record["kind"] == "average"]
    assert len(averages) == 3
    for average in averages:
        parts = {record["site"]: record for record in trained if record["weights"] in average["parents"]}
        assert sorted(parts) == ["A", "B", "C"]
        assert len({record["train_slices"] for record in parts.values()}) > 1, "equal shares would show less"
        brought = {site: read(out, record["weights"]) for site, record in parts.items()}
        parent = read(out, parts["A"]["parents"][0])
        slices = sum(record["train_slices"] for record in parts.values())
        result = read(out, average["weights"])
        assert set(result) == set(parent)
        for name, tensor in result.items():
            if tensor.is_floating_point():
                mean = sum(brought[site][name].double() * (parts[site]["train_slices"] / slices) for site in parts)
                assert torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-9)
                assert tensor.dtype == torch.float32
            else:
                assert torch.equal(tensor, parent[name])
                assert not torch.equal(tensor, brought["A"][name]), "the parts have counted on"


def test_an_average_gets_the_targets_statistics_and_nothing_else(
    rounds: tuple[Study, Path], hospitals: dict[str, Path]
) -> None:
    study, out = rounds
    loop = PlainLoop(study, hospitals)
    records = all_records(out)
    averages = {record["weights"] for record in records if record["kind"] == "average"}
    estimates = [record for record in records if record["kind"] == "re-estimate"]
    assert {(record["site"], *record["parents"]) for record in estimates} == {
        (site, average) for site in PATIENTS for average in averages
    }
    assert len(averages) == 3 and len(estimates) == 9
    for record in estimates:
        average = read(out, record["parents"][0])
        plain = loop.with_own_statistics(record["site"], 0, average)
        assert record["weights"] == digest(plain.weights)
        # After so few steps many a pixel lies at the threshold, and falls to either side by the last bit.
        assert record.get("dice", 0.0) == pytest.approx(plain.native_dice, abs=1e-3)
        changed = {name for name, value in plain.weights.items() if not torch.equal(value, average[name])}
        assert changed and all(name.endswith(("running_mean", "running_var")) for name in changed)
        assert not record.get("losses") and not record.get("gradient_steps")
    rows = {
        (row["method"], row["target"]): row
        for row in json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]
        if row["method"].endswith("re-estimated")
    }
    assert len(rows) == 2 * 3
    for (_, target), row in rows.items():
        (made,) = (record for record in estimates if record["weights"] == row["weights"])
        assert made["site"] == target
        assert row["validation_dice"] == pytest.approx(100 * made.get("dice", 0.0), abs=1e-4)


@pytest.mark.slow
def test_a_round_is_the_same_for_every_order_of_replies(rounds: tuple[Study, Path]) -> None:
    study, out = rounds
    start = digest(PlainLoop(study, {}).start())
    records = [json.loads(path.read_text()) for path in (out / "ledger").glob("*.json")]
    trained = {record["site"]: record for record in records if record.get("parents") == [start]}
    given = {
        site: Contribution(out / "weights" / f"{record['weights']}.safetensors", record["train_slices"])
        for site, record in trained.items()
        if record["kind"] == "fine-tune"
    }
    made = {
        digest(
            aggregate(
                "fedavg",
                {site: given[site] for site in order},
                expected=frozenset(given),
                parent=out / "weights" / f"{start}.safetensors",
            )
        )
        for order in itertools.permutations(given)
    }
    assert len(given) == 3
    assert len(made) == 1


def test_the_proximal_term_is_the_plain_loops(rounds: tuple[Study, Path], hospitals: dict[str, Path]) -> None:
    study, out = rounds
    loop = PlainLoop(study, hospitals)
    start = loop.start()
    found = {record["weights"]: record for record in all_records(out)}
    for site in ("A", "B"):
        plain = loop.fine_tune(site, 0, start, keep="last", mu=0.5)
        assert found[digest(plain.weights)]["site"] == site
        assert found[digest(plain.weights)]["losses"] == pytest.approx(plain.losses, rel=1e-5)
    without = loop.fine_tune("B", 0, start, keep="last")
    assert digest(without.weights) not in found


def test_fedavgs_rounds_are_slices_of_one_cosine(rounds: tuple[Study, Path], hospitals: dict[str, Path]) -> None:
    study, out = rounds
    loop = PlainLoop(study, hospitals)
    found = {record["weights"]: record for record in all_records(out)}
    plain = loop.fine_tune("C", 0, loop.start(), epochs=range(1), total=2, keep="last")
    first = found[digest(plain.weights)]
    average = next(record for record in all_records(out) if first["weights"] in record.get("parents", ()))
    assert average["kind"] == "average"
    second = loop.fine_tune("C", 0, read(out, average["weights"]), epochs=range(1, 2), total=2, keep="last")
    assert found[digest(second.weights)]["parents"] == [average["weights"]]
    assert first["learning_rates"] == pytest.approx([3e-3])
    assert found[digest(second.weights)]["learning_rates"] == pytest.approx([1.5e-3])


class ShareLoop(PlainLoop):
    """A plain loop whose trainings have half of their patients: those with the least sha256 by HMAC."""

    def members(self, site: str, fold: int) -> tuple[list[Patient], list[Patient]]:
        part, here = self.study.split, self.patients[site]
        made = split(here, part, site=site)
        names = [name for k, group in enumerate(made.validation) if k != fold for name in group]
        names.sort(key=lambda name: hmac.new(b"", f"share\n{part.seed}\n{site}\n{name}".encode(), "sha256").digest())
        half = sorted(names[: max(1, (len(names) + 1) // 2)])
        return [here[name] for name in half], [here[name] for name in made.validation[fold]]


@pytest.mark.slow
def test_a_share_of_the_targets_patients_trains_the_last_stage_alone(
    hospitals: dict[str, Path], tmp_path: Path
) -> None:
    study = small_study(
        sites=("A", "B"),
        split={"use_folds": 1},
        training={"epochs": 1, "precision": "float32"},
        methods={"baseline": True, "sequential": {"routes": (("B", "A"),)}, "train_fraction": (0.5, 1.0)},
    )
    sites = {name: hospitals[name] for name in study.sites}
    results, _ = run_on_grid(study, sites, tmp_path)
    made = {(row["method"], row["target"], row["share"]): row for row in results["rows"]}
    whole, half = PlainLoop(study, sites), ShareLoop(study, sites)
    start = whole.start()
    alone, source = half.fine_tune("A", 0, start), whole.fine_tune("B", 0, start)
    assert made["baseline-share", "A", 0.5]["weights"] == digest(alone.weights)
    handed_on = half.fine_tune("A", 0, source.weights)
    row = made["sequential-share", "A", 0.5]
    assert row["weights"] == digest(handed_on.weights)
    assert row["validation_dice"] == pytest.approx(100 * handed_on.native_dice, abs=0.01)
    assert made["sequential", "A", None]["weights"] == digest(whole.fine_tune("A", 0, source.weights).weights)
    assert row["weights"] != made["sequential", "A", None]["weights"], "or nothing is shown"
    assert row["patients"] == made["sequential", "A", None]["patients"], "test patients are the same"
    assert made["baseline-share", "B", 0.5]["weights"] == digest(half.fine_tune("B", 0, start).weights)


def all_records(out: Path) -> list[dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in (out / "ledger").glob("*.json")]
    return [record for record in records if record.get("weights")]


def read(out: Path, name: str) -> Tensors:
    return safetensors.torch.load_file(out / "weights" / f"{name}.safetensors")


@pytest.mark.slow
def test_a_later_visit_draws_batches_and_augmentation_of_its_own(hospitals: dict[str, Path], tmp_path: Path) -> None:
    """A → A, and B → A → B → A: the second visit to a site repeats nothing of the first."""
    study = small_study(
        split={"use_folds": 1},
        training={"epochs": 2, "precision": "float32"},
        methods={"more": ("restarts",), "cyclic": {"laps": 2, "epochs": 1}, "sequential": {"routes": (("B", "A"),)}},
        sites=("A", "B"),
    )
    sites = {name: hospitals[name] for name in study.sites}
    results, _ = run_on_grid(study, sites, tmp_path)
    made = {(row["method"], row["target"]): row["weights"] for row in results["rows"]}
    loop = PlainLoop(study, sites)
    start = loop.start()
    once = loop.fine_tune("A", 0, start)
    assert made["restarts", "A"] == digest(loop.fine_tune("A", 0, once.weights, visit=1).weights)
    assert made["restarts", "A"] != digest(loop.fine_tune("A", 0, once.weights).weights), "or nothing is shown"
    weights = start
    for visit, site in ((0, "B"), (0, "A"), (1, "B"), (1, "A")):
        weights = loop.fine_tune(site, 0, weights, epochs=range(1), total=1, visit=visit).weights
    assert made["cyclic", "A"] == digest(weights)
