"""Weights on their way: exact, named by what `sha256sum` says, whole or not there."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest
import torch

from common.config.model import ModelConfig
from common.digest import digest_of
from common.model.network import build
from common.model.weights import (
    UnfitWeights,
    Weights,
    check_fit,
    from_arrays,
    load,
    mapped,
    save,
    serialised,
    size_in_bytes,
    to_arrays,
)

MODEL = ModelConfig(architecture="Unet", encoder="mobilenet_v2")


@pytest.fixture(scope="module")
def network() -> Weights:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in build(MODEL).state_dict().items()}


def odd_ones() -> Weights:
    layer = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return {
        "z": torch.tensor(7, dtype=torch.int64),
        "scalar": torch.tensor(-(2**62) - 1),
        "half": torch.tensor([1.0, 65504.0, 6e-8], dtype=torch.float16),
        "empty": torch.empty(0, 5),
        "rows": torch.arange(12.0).reshape(3, 4).t(),
        "every other": torch.arange(9.0)[::2],
        "last": layer.to(memory_format=torch.channels_last),
        "needs grad": torch.ones(2, requires_grad=True),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "edge": torch.tensor([-0.0, 1e-45, float("inf")]),
    }


def same(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name in one:
        a, b = one[name].detach().contiguous(), other[name].detach().contiguous()
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert a.numpy().tobytes() == b.numpy().tobytes(), name


def test_a_file_holds_the_tensors_to_the_bit(tmp_path: Path) -> None:
    digest = save(odd_ones(), tmp_path)
    same(load(tmp_path / f"{digest}.safetensors"), odd_ones())


def test_flowers_record_holds_the_tensors_to_the_bit() -> None:
    half = {"brain float": torch.tensor([1.0, 3e38], dtype=torch.bfloat16)}
    arrived = from_arrays(to_arrays(serialised(odd_ones() | half)))
    assert torch.equal(arrived.pop("brain float"), half["brain float"])
    same(arrived, odd_ones())


def test_flower_carries_weights_as_one_object_however_many_tensors_they_are(network: Weights) -> None:
    """It takes several requests for each: see `to_arrays`."""
    assert len(network) > 200
    assert len(to_arrays(serialised(network))) == 1


def test_weights_that_are_sent_or_arrive_are_not_copied(tmp_path: Path, network: Weights) -> None:
    path = tmp_path / f"{save(network, tmp_path)}.safetensors"
    with path.open("rb") as opened:
        file = mapped(opened)
    record = to_arrays(file)
    assert record["safetensors"].data is file
    begin = torch.frombuffer(file, dtype=torch.uint8).data_ptr()
    arrived = from_arrays(record)
    same(arrived, network)
    assert all(begin < tensor.data_ptr() < begin + len(file) for tensor in arrived.values())


def test_what_is_done_to_weights_that_were_mapped_is_not_done_to_their_file(tmp_path: Path) -> None:
    path = tmp_path / f"{save(odd_ones(), tmp_path)}.safetensors"
    before = path.read_bytes()
    with path.open("rb") as opened:
        arrived = from_arrays(to_arrays(mapped(opened)))
    arrived["z"].add_(1)
    assert path.read_bytes() == before


def test_the_digest_is_what_sha256sum_says_of_the_file(tmp_path: Path) -> None:
    digest = save(odd_ones(), tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"{digest}.safetensors"
    assert subprocess.run(["sha256sum", path], capture_output=True, encoding="utf-8").stdout.split()[0] == digest


def test_the_digest_does_not_depend_on_order_or_layout_in_memory() -> None:
    names = list(odd_ones())
    random.Random(1).shuffle(names)
    shuffled = {name: odd_ones()[name] for name in names}
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in odd_ones().items()}
    assert digest_of(serialised(shuffled)) == digest_of(serialised(odd_ones())) == digest_of(serialised(plain))


def test_one_bit_gives_another_digest() -> None:
    changed = odd_ones() | {"edge": torch.tensor([0.0, 1e-45, float("inf")])}
    assert digest_of(serialised(changed)) != digest_of(serialised(odd_ones()))


def test_weights_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    digest = save(odd_ones(), tmp_path)
    before = (tmp_path / f"{digest}.safetensors").stat()
    assert save(odd_ones(), tmp_path) == digest
    assert (tmp_path / f"{digest}.safetensors").stat() == before


@pytest.mark.parametrize("keep", [0, 3, 8, 200, -1])
def test_a_file_that_is_cut_off_is_known_as_damaged(tmp_path: Path, keep: int) -> None:
    content = serialised(odd_ones())
    (tmp_path / "torn.safetensors").write_bytes(content[:keep])
    with pytest.raises(UnfitWeights):
        load(tmp_path / "torn.safetensors")


def test_a_file_of_another_kind_is_known_as_damaged(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UnfitWeights):
        load(tmp_path / "x.safetensors")


def test_the_declared_network_fits(network: Weights) -> None:
    check_fit(network, MODEL)
    check_fit({name: network[name] for name in reversed(network)}, MODEL)


def first(network: Weights, *, floating: bool) -> str:
    return next(name for name, tensor in network.items() if tensor.is_floating_point() == floating)


def test_what_is_not_exactly_the_declared_network_is_refused(network: Weights) -> None:
    name, count = first(network, floating=True), first(network, floating=False)
    tensor = network[name]
    assert torch.isfinite(tensor).all()
    spoilt = tensor.clone()
    spoilt.view(-1)[3] = float("nan")
    endless = tensor.clone()
    endless.view(-1)[-1] = float("-inf")
    wrong: list[Weights] = [
        {},
        network | {"patient": torch.ones(1)},
        {other: value for other, value in network.items() if other != name},
        {(f"{other}x" if other == name else other): value for other, value in network.items()},
        network | {name: tensor[:1]},
        network | {name: tensor.flatten()},
        network | {name: tensor.unsqueeze(0)},
        network | {name: tensor.half()},
        network | {name: tensor.double()},
        network | {count: network[count].to(torch.int32)},
        network | {count: network[count].to(torch.float32)},
        network | {name: spoilt},
        network | {name: endless},
    ]
    for weights in wrong:
        with pytest.raises(UnfitWeights) as error:
            check_fit(weights, MODEL)
        assert "patient" not in str(error.value)


@pytest.mark.parametrize(
    ("ending", "value", "sentence"),
    [
        ("weight", 1e20, "beyond ±1e+08"),
        ("weight", -3e38, "beyond ±1e+08"),
        ("running_mean", 1e9, "beyond ±1e+08"),
        ("running_var", -1e-3, "is negative"),
        ("num_batches_tracked", -1, "is negative"),
        ("num_batches_tracked", 2**62, "beyond ±1e+08"),
    ],
)
def test_poisoned_values_are_refused_where_they_come_from(
    network: Weights, ending: str, value: float, sentence: str
) -> None:
    """They pass as finite, and the next hospital's training fails in their place."""
    name = next(name for name in network if name.endswith(ending))
    poisoned = network[name].clone()
    poisoned.view(-1)[-1] = value
    with pytest.raises(UnfitWeights, match=re.escape(sentence)):
        check_fit(network | {name: poisoned}, MODEL)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e8, 1e8, 12.5])
def test_any_value_that_a_training_comes_to_is_taken(network: Weights, value: float) -> None:
    name = first(network, floating=True)
    changed = network[name].clone()
    changed.view(-1)[0] = value
    check_fit(network | {name: changed}, MODEL)


def test_weights_of_another_network_are_refused(network: Weights) -> None:
    with pytest.raises(UnfitWeights):
        check_fit(network, ModelConfig(architecture="MAnet", encoder="mobilenet_v2"))


def test_the_size_counts_the_tensors_alone() -> None:
    assert size_in_bytes({"a": torch.ones(3, 4), "b": torch.tensor(1), "c": torch.empty(0)}) == 48 + 8
