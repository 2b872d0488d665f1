"""The bound on a training's step, against the norm by numpy over all parameters laid end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.model.weights import save
from server.scheduling.largest_step import check_step
from server.transport.outcomes import TrainingFailed


def test_the_norm_of_the_change_of_all_parameters_together_is_bounded(tmp_path: Path) -> None:
    torch.manual_seed(3)
    given = {
        "first": 1e3 * torch.randn(40, 30),
        "second": torch.randn(7),
        "layer.running_mean": torch.zeros(5),
        "layer.num_batches_tracked": torch.tensor(4),
    }
    result = {name: tensor + torch.randn(tensor.shape).to(tensor.dtype) for name, tensor in given.items()}
    result["layer.running_mean"] += 1e6  # statistics do not count
    path = tmp_path / f"{save(given, tmp_path)}.safetensors"
    flat = [np.concatenate([one[name].numpy().ravel().astype(float) for name in ("first", "second")])
            for one in (given, result)]  # fmt: skip
    share = np.linalg.norm(flat[1] - flat[0]) / (1 + np.linalg.norm(flat[0]))
    check_step(result, path, float(share) * 1.000001)
    check_step(result, path, 0.0)
    with pytest.raises(TrainingFailed, match="largest_step"):
        check_step(result, path, float(share) * 0.999999)
