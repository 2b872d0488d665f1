"""FedBN and Ditto: what stays at a site is in no message, and the federation equals a plain loop bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from flwr.app import Message

from client.delivery.model_card import load_card
from client.site_config import load_site
from common.config.study import Study, study_toml
from deploy.simulation.local_grid import LocalGrid
from tests.end_to_end.plain_loop import PlainLoop, Tensors, digest
from tests.support.hospitals import REPO, forget_stages, run_on_grid, small_study, write_hospitals

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDS, PULL = 3, 0.5
Own = dict[str, Tensors]

messages: list[tuple[str, str, bytes]] = []
"""Direction, kind and file of all weights sent in this process's last run."""


class RecordingGrid(LocalGrid):
    """A grid that notes the file of every weights record that passes through it."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        several = list(messages)
        for message in several:
            note("to a site", message)
        return super().push_messages(several)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        several = list(super().pull_messages(message_ids))
        for message in several:
            note("from a site", message)
        return several


def note(direction: str, message: Message) -> None:
    if message.has_error():
        return
    for record in message.content.array_records.values():
        for array in record.values():
            messages.append((direction, message.metadata.message_type, bytes(array.data)))


def study_with(**settings: Any) -> Study:
    part = {"strategy": "fedavg", "rounds": ROUNDS, "local_epochs": 1, "then_target": False}
    return small_study(
        sites=("A", "B"),
        split={"use_folds": 1},
        training={"precision": "float32", "leg_minutes": 0.0},
        methods={"federated": (part | settings,)},
    )


FEDBN = study_with(batch_norm="local")
DITTO = study_with(batch_norm="average", ditto_lambda=PULL)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 6, "B": 7}, slices=7)


def norms(loop: PlainLoop) -> set[str]:
    layers = {name for name, layer in loop.network().named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    return {name for name in loop.network().state_dict() if name.rpartition(".")[0] in layers}


def mean(loop: PlainLoop, made: dict[str, Tensors], names: Iterable[str], counters: Tensors) -> Tensors:
    """Of the sites' weights, each by its share of the training slices, in float64; counters are the parent's."""
    slices = {site: sum(len(patient.image) for patient in loop.members(site, 0)[0]) for site in made}
    total = sum(slices.values())
    result = {}
    for name in names:
        one = made["A"][name]
        if one.is_floating_point():
            result[name] = sum(made[site][name].double() * (slices[site] / total) for site in sorted(made)).float()
        else:
            result[name] = counters[name]
    return result


def part_of(weights: Tensors, names: Iterable[str]) -> Tensors:
    return {name: weights[name] for name in names}


def plain_fedbn(loop: PlainLoop) -> list[tuple[Tensors, Own]]:
    """After each round, what is averaged and what each site has kept."""
    start = loop.start()
    norm = norms(loop)
    others = set(start) - norm
    shared, own = part_of(start, others), dict.fromkeys(("A", "B"), part_of(start, norm))
    found = []
    for k in range(ROUNDS):
        made = {
            site: loop.fine_tune(site, 0, shared | own[site], epochs=range(k, k + 1), total=ROUNDS, keep="last").weights
            for site in ("A", "B")
        }
        own = {site: part_of(weights, norm) for site, weights in made.items()}
        shared = mean(loop, made, others, shared)
        found.append((shared, own))
    return found


def plain_ditto(loop: PlainLoop) -> list[tuple[Tensors, Own]]:
    """After each round, the average and each site's personal model."""
    average = loop.start()
    personal = dict.fromkeys(("A", "B"), average)
    found = []
    for k in range(ROUNDS):
        now: dict[str, Any] = {"epochs": range(k, k + 1), "total": ROUNDS, "keep": "last"}
        made = {site: loop.fine_tune(site, 0, average, **now).weights for site in ("A", "B")}
        personal = {
            site: loop.fine_tune(site, 0, personal[site], mu=PULL, towards=average, **now).weights
            for site in ("A", "B")
        }
        average = mean(loop, made, set(average), average)
        found.append((average, personal))
    return found


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "ledger").glob("*.json")]
    return [record for record in found if record["kind"] == kind]


def kept_at(site: Path) -> dict[str, bytes]:
    folder = load_site(site).private() / "own"
    return {path.stem: path.read_bytes() for path in folder.rglob("*.safetensors")}


def best_round(loop: PlainLoop, site: str, models: list[Tensors]) -> int:
    dices = []
    for weights in models:
        network = loop.network()
        network.load_state_dict(weights)
        network.to(memory_format=torch.channels_last)
        dices.append(loop.native_dice(network, site, 0))
    return max(range(len(dices)), key=dices.__getitem__)


def received(site: Path, study: Study) -> tuple[Tensors, Any]:
    folder = load_site(site).private() / "received" / study.digest
    weights = safetensors.torch.load_file(folder / "selected.safetensors")
    card = load_card(folder / "selected.json")
    assert card.weights == digest(weights)
    return weights, card


@pytest.mark.slow
def test_fedbn_is_the_plain_loops_and_its_norms_are_in_no_message(hospitals: dict[str, Path], tmp_path: Path) -> None:
    forget(hospitals)
    messages.clear()
    results, _ = run_on_grid(FEDBN, hospitals, tmp_path, keep_weights=True, grid=RecordingGrid)
    loop = PlainLoop(FEDBN, hospitals)
    rounds, norm = plain_fedbn(loop), norms(loop)
    assert {record["weights"] for record in records(tmp_path, "average")} == {digest(shared) for shared, _ in rounds}
    trained = records(tmp_path, "fine-tune")
    for site, path in hospitals.items():
        own = {record["own"] for record in trained if record["site"] == site}
        assert own == {digest(kept[site]) for _, kept in rounds} == kept_at(path).keys()
        models = [shared | kept[site] for shared, kept in rounds]
        weights, card = received(path, FEDBN)
        assert digest(weights) == digest(models[best_round(loop, site, models)])
        assert (card.method, card.own_tensors) == ("fedavg-local", len(norm))
    assert {row["method"] for row in results["rows"]} == {"fedavg-local"}
    # Two orders carry the first weights, which no site has trained; nothing else has a tensor of batch norm.
    first, others = digest(loop.start()), 0
    kept = [content for path in hospitals.values() for content in kept_at(path).values()]
    pieces = [tensor.numpy().tobytes() for content in kept for tensor in safetensors.torch.load(content).values()]
    for direction, kind, file in messages:
        tensors = safetensors.torch.load(file)
        if digest(tensors) == first:
            assert (direction, kind) == ("to a site", "train.stage")
            continue
        others += 1
        assert not set(tensors) & norm and set(tensors) == set(loop.start()) - norm
        assert not any(piece in file for piece in pieces if len(piece) > 64)
    assert others > 2 * ROUNDS
    sent = sum(row["bytes_moved"] for row in results["rows"])
    assert sent > 0


@pytest.mark.slow
def test_a_personal_model_is_the_plain_loops_and_leaves_in_no_message(
    hospitals: dict[str, Path], tmp_path: Path
) -> None:
    forget(hospitals)
    messages.clear()
    run_on_grid(DITTO, hospitals, tmp_path, keep_weights=True, grid=RecordingGrid)
    loop = PlainLoop(DITTO, hospitals)
    rounds = plain_ditto(loop)
    assert {record["weights"] for record in records(tmp_path, "average")} == {digest(mean) for mean, _ in rounds}
    trained = records(tmp_path, "fine-tune")
    for site, path in hospitals.items():
        own = {record["own"] for record in trained if record["site"] == site and "own" in record}
        assert own == {digest(personal[site]) for _, personal in rounds} == kept_at(path).keys()
    left = {path.stem for path in (tmp_path / "weights").iterdir()}
    for path in hospitals.values():
        assert not left & kept_at(path).keys()
        for content in kept_at(path).values():
            # Biases and statistics may be equal by chance or by zeros; a large tensor is not.
            large = [t.numpy().tobytes() for t in safetensors.torch.load(content).values() if t.numel() > 1000]
            assert large and not any(piece in file for piece in large for _, _, file in messages)


@pytest.mark.nightly
@pytest.mark.parametrize("study", [FEDBN, DITTO], ids=["fedbn", "ditto"])
@pytest.mark.parametrize("when", ["done:4", "inside:6:0.3"])
def test_killed_and_resumed_it_ends_as_if_nothing_had_been(
    hospitals: dict[str, Path], tmp_path: Path, study: Study, when: str
) -> None:
    forget(hospitals)
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    run_on_grid(study, hospitals, undisturbed)
    kept = {site: kept_at(path) for site, path in hospitals.items()}
    forget(hospitals)
    file = tmp_path / "study.toml"
    file.write_text(study_toml(study), encoding="utf-8")
    named = [f"{name}={path}" for name, path in hospitals.items()]
    command = [sys.executable, "-m", "tests.support.study_process", str(file), str(out), when, *named]
    process = subprocess.run(command, cwd=REPO, capture_output=True, timeout=600, start_new_session=True, check=False)
    assert process.returncode == -9 and not (out / "results.json").exists()
    run_on_grid(study, hospitals, out)
    assert (out / "results.json").read_bytes() == (undisturbed / "results.json").read_bytes()
    for folder in ("ledger", "weights"):
        assert {path.name for path in (out / folder).iterdir()} == {
            path.name for path in (undisturbed / folder).iterdir()
        }
    assert {site: kept_at(path) for site, path in hospitals.items()} == kept


def forget(hospitals: dict[str, Path]) -> None:
    import shutil

    forget_stages(hospitals)
    for path in hospitals.values():
        for name in ("own", "answered"):
            shutil.rmtree(load_site(path).private() / name, ignore_errors=True)
