"""A hospital sends weights that ruin whoever goes on from them, and the next hospital on the route gets the blame.

All values stay within what a tensor may hold. The poisoned result is put in the place of B's on its way, as if B had
made it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config.study import Study
from common.digest import digest_of
from common.errors import Unfinished
from common.model.network import build
from common.model.weights import Weights, check_fit, serialised
from server.transport.site_channel import SiteChannel
from tests.support.hospitals import run_on_grid, small_study, write_hospitals

ROUTE = {"baseline": False, "sequential": {"routes": (("B", "C"),)}}


def poisoned(weights: Weights) -> Weights:
    """Weights a thousand times too large: far from what was given, and of a loss without end."""
    return {
        name: tensor * 1000 if tensor.is_floating_point() and "running" not in name else tensor
        for name, tensor in weights.items()
    }


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), {"B": 5, "C": 5}, slices=6)


@pytest.fixture
def b_poisons(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SiteChannel.fine_tune

    def fine_tune(self: SiteChannel, *given: Any, **more: Any) -> Any:
        reply, weights = honest(self, *given, **more)
        if self.site != "B" or weights is None:
            return reply, weights
        weights = poisoned(weights)
        digest = digest_of(serialised(weights))
        self.held = ""
        return reply.model_copy(update={"weights": digest}), weights

    monkeypatch.setattr(SiteChannel, "fine_tune", fine_tune)


def parked(results: dict[str, Any]) -> list[str]:
    return [entry["reason"] for entry in results["parked"]]


@pytest.mark.slow
@pytest.mark.usefixtures("b_poisons")
def test_weights_far_from_those_given_are_refused_from_who_sent_them(sites: dict[str, Path], tmp_path: Path) -> None:
    study = small_study(sites=("B", "C"), methods=ROUTE)
    reasons = parked(run_and_read(study, sites, tmp_path))
    assert reasons and all("site B: its weights lie" in reason and "largest_step is 20" in reason for reason in reasons)


@pytest.mark.slow
@pytest.mark.usefixtures("b_poisons")
def test_the_next_hospital_names_the_sender_and_does_not_train(sites: dict[str, Path], tmp_path: Path) -> None:
    study = small_study(sites=("B", "C"), methods=ROUTE, largest_step=0.0)
    reasons = parked(run_and_read(study, sites, tmp_path))
    assert reasons
    for reason in reasons:
        assert "the weights that it was given do not work there" in reason
        assert "they came from site B" in reason


def test_the_weight_of_a_part_is_what_its_site_described(
    sites: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B says with its weights that it has trained on 9,999 slices, so that the average would be B's."""
    honest = SiteChannel.fine_tune

    def fine_tune(self: SiteChannel, *given: Any, **more: Any) -> Any:
        reply, weights = honest(self, *given, **more)
        return (reply.model_copy(update={"train_slices": 9_999}) if self.site == "B" else reply), weights

    monkeypatch.setattr(SiteChannel, "fine_tune", fine_tune)
    study = small_study(sites=("B", "C"), methods={"federated": ({"rounds": 1, "then_target": False},)})
    reasons = parked(run_and_read(study, sites, tmp_path))
    assert reasons and all("site B: it trained on another number of slices than it described" in why for why in reasons)


def test_poison_within_the_bounds_of_a_tensor_is_what_this_is_about() -> None:
    study = small_study(sites=("B", "C"))
    torch.manual_seed(0)
    check_fit(poisoned(build(study.model).state_dict()), study.model)


def run_and_read(study: Study, sites: dict[str, Path], folder: Path) -> dict[str, Any]:
    """The results of a study, of which a part could not be finished."""
    with pytest.raises(Unfinished):
        run_on_grid(study, sites, folder / "out")
    results: dict[str, Any] = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    return results
