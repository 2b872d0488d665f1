"""Named tensors on their way: to and from Flower's records and safetensors files, and their digest.

A digest is the sha256 of the safetensors file, so that `sha256sum` checks it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from flwr.app import ArrayRecord

from common.model import declared_shapes
from common.study import ModelPart

Weights = dict[str, torch.Tensor]


class UnfitWeights(Exception):
    """The tensors are not those of the declared network. The text names a rule, never a value."""


def serialised(weights: Weights) -> bytes:
    """The safetensors file of weights; equal tensors give equal bytes, in whatever order they stand."""
    ordered = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
    return safetensors.torch.save(ordered)


def digest_of(file: bytes) -> str:
    """The digest of a serialised file."""
    return hashlib.sha256(file).hexdigest()


def write_atomically(path: Path, content: bytes, *, durable: bool = False, mode: int = 0o666) -> None:
    """Write a file so that it is there whole or not at all; `durable` also survives a loss of power.

    `mode` is further narrowed by the process's umask.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(weights: Weights, folder: Path) -> str:
    """Write `<folder>/<digest>.safetensors` unless it is there; returns the digest."""
    file = serialised(weights)
    digest = digest_of(file)
    path = folder / f"{digest}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, file, durable=True)
    return digest


def load(path: Path) -> Weights:
    """Read a safetensors file.

    Raises:
        UnfitWeights: the file is cut off or no safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UnfitWeights("the weights file is damaged") from error


def to_arrays(weights: Weights) -> ArrayRecord:
    """Flower's record of weights."""
    return ArrayRecord({name: weights[name].detach().cpu() for name in sorted(weights)})


def from_arrays(arrays: ArrayRecord) -> Weights:
    """Weights of Flower's record; exact."""
    return dict(arrays.to_torch_state_dict())


def check_fit(weights: Weights, model: ModelPart) -> None:
    """Refuse what is not exactly the declared network: other names, shapes or types, values not finite.

    Raises:
        UnfitWeights: with the rule that was broken.
    """
    declared = declared_shapes(model)
    if weights.keys() != declared.keys():
        raise UnfitWeights("the names of the tensors are not those of the declared network")
    for name, (shape, dtype) in declared.items():
        tensor = weights[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise UnfitWeights("a tensor's shape or type is not that of the declared network")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UnfitWeights("a tensor holds a value that is not finite")


def size_in_bytes(weights: Weights) -> int:
    """Bytes of the tensors alone."""
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
