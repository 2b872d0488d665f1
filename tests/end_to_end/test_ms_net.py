"""MS-Net at three hospitals: the plain loop's bit for bit, and its auxiliary decoders are in no message."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from flwr.app import Message

from common.model.network import build
from deploy.simulation.local_grid import LocalGrid
from tests.end_to_end.plain_loop import PlainLoop, Tensors, dice_and_bce, digest
from tests.end_to_end.test_tensors_that_stay import kept_at, mean, norms, part_of, records
from tests.support.hospitals import run_on_grid, small_study, write_hospitals

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDS = 2
STUDY = small_study(
    model={"architecture": "MSNet", "encoder": "", "neighbours": 1},
    split={"use_folds": 1},
    training={"precision": "float32", "leg_minutes": 0.0, "epochs": 2, "batch": 4},
    methods={
        "federated": ({"strategy": "fedavg", "rounds": ROUNDS, "batch_norm": "local", "then_target": False},),
        "sequential": {"routes": (("A", "B", "A"),)},
        "scored_on": "validation",
    },
)


class MSLoop(PlainLoop):
    """A plain loop over the whole network, with the losses of the paper as they are written there."""

    def network(self) -> torch.nn.Module:
        return build(self.study.model, whole=True)

    def _loss(self, logits: torch.Tensor | list[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
        assert isinstance(logits, list)
        universal, auxiliary = logits
        answers = (auxiliary.detach() > 0).float()
        # without any gland there is no Dice
        of_answers = dice_and_bce if bool(answers.any()) else F.binary_cross_entropy_with_logits
        taught = of_answers(universal, answers)
        return dice_and_bce(auxiliary, y) + 0.5 * dice_and_bce(universal, y) + 0.5 * taught


def auxiliary(weights: Tensors) -> Tensors:
    return {name: tensor for name, tensor in weights.items() if name.startswith("auxiliary.")}


def others(weights: Tensors) -> Tensors:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("auxiliary.")}


def rounds_of(loop: MSLoop, rounds: int) -> list[tuple[Tensors, dict[str, Tensors], dict[str, Tensors]]]:
    """After each round, what is averaged, each site's batch norm, and each site's auxiliary decoder."""
    start = loop.start()
    norm = {name for name in norms(loop) if not name.startswith("auxiliary.")}
    shared = part_of(start, others(start).keys() - norm)
    own, parts = dict.fromkeys("ABC", part_of(start, norm)), dict.fromkeys("ABC", auxiliary(start))
    found = []
    for k in range(rounds):
        now: dict[str, Any] = {"epochs": range(k, k + 1), "total": rounds, "keep": "last"}
        made = {site: loop.fine_tune(site, 0, shared | own[site] | parts[site], **now).weights for site in "ABC"}
        own = {site: part_of(weights, norm) for site, weights in made.items()}
        parts = {site: auxiliary(weights) for site, weights in made.items()}
        shared = mean(loop, made, shared, shared)
        found.append((shared, own, parts))
    return found


class CheckedGrid(LocalGrid):
    """A grid that looks into every weights record that passes through it, and keeps none: a model has 69 MB."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        several = list(messages)
        for message in several:
            check(message)
        return super().push_messages(several)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        several = list(super().pull_messages(message_ids))
        for message in several:
            check(message)
        return several


secret: set[int] = set()
"""Hashes of the tensors of all auxiliary decoders of the run, as a plain loop has them."""
passed: list[int] = []
"""The number of tensors of each weights record that passed."""


def check(message: Message) -> None:
    if message.has_error():
        return
    for record in message.content.array_records.values():
        for array in record.values():
            tensors = safetensors.torch.load(bytes(array.data))
            assert not auxiliary(tensors), "by name"
            assert not secret & hashes(tensors), "by content"
            passed.append(len(tensors))


def hashes(weights: Tensors) -> set[int]:
    """Of all tensors but small ones, which may be equal by chance or by zeros."""
    return {hash(tensor.numpy().tobytes()) for tensor in weights.values() if tensor.numel() > 1000}


@pytest.mark.slow
def test_ms_net_is_the_plain_loops_and_its_auxiliary_decoders_are_in_no_message(tmp_path: Path) -> None:
    hospitals = write_hospitals(tmp_path / "hospitals", {"A": 6, "B": 7, "C": 6}, slices=7)
    loop = MSLoop(STUDY, hospitals)
    rounds = rounds_of(loop, 2)
    # The route A → B → A: at its second visit, A's auxiliary decoder is put back; batch norm travels.
    start = loop.start()
    first = loop.fine_tune("A", 0, start).weights
    second = loop.fine_tune("B", 0, others(first) | auxiliary(start)).weights
    third = loop.fine_tune("A", 0, others(second) | auxiliary(first), visit=1).weights

    kept = [*(parts[site] for _, _, parts in rounds for site in "ABC"), *map(auxiliary, (start, first, second, third))]
    secret.update(*map(hashes, kept))
    assert len(secret) > 100
    results, _ = run_on_grid(STUDY, hospitals, tmp_path / "out", keep_weights=True, grid=CheckedGrid)
    travelling = others(start)
    norm = {name for name in norms(loop) if name in travelling}
    assert len(passed) > 9 and {len(travelling), len(travelling) - len(norm)} == set(passed)

    made = {record["weights"] for record in records(tmp_path / "out", "average")}
    assert made == {digest(shared) for shared, _, _ in rounds}
    (row,) = [row for row in results["rows"] if row["method"] == "sequential"]
    assert row["weights"] == digest(others(third))
    # What each site has kept, and nothing else.
    for site, path in hospitals.items():
        expected = {digest(part[site]) for _, own, parts in rounds for part in (own, parts)}
        expected |= {digest(auxiliary(weights)) for weights in (first, third) if site == "A"}
        expected |= {digest(auxiliary(second))} if site == "B" else set()
        assert kept_at(path).keys() == expected
    assert ("parts of a network that belong to a site", "kept there") in {tuple(one[:2]) for one in results["choices"]}


@pytest.mark.nightly
def test_the_universal_model_is_better_with_a_hospitals_own_statistics_than_with_anothers(tmp_path: Path) -> None:
    """On validation patients, of eight rounds of the plain loop, which the federation equals bit for bit (above)."""
    loop = MSLoop(STUDY, write_hospitals(tmp_path, {"A": 6, "B": 7, "C": 6}, slices=7))
    shared, own, _ = rounds_of(loop, 8)[-1]

    def dice(site: str, whose: str) -> float:
        network = build(STUDY.model)
        network.load_state_dict(shared | own[whose])
        return loop.native_dice(network.to(memory_format=torch.channels_last), site, 0)

    gained = {}
    for site in "ABC":
        of_others = [dice(site, whose) for whose in "ABC" if whose != site]
        gained[site] = dice(site, site) - sum(of_others) / 2
        assert dice(site, site) > 0.8
    assert min(gained.values()) > 0.02, gained
