"""Weights as safetensors files and as Flower's records, and their digests.

The digest of weights is the sha256 of their safetensors file, for checks with `sha256sum`.
"""

from __future__ import annotations

import json
import math
import mmap
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
import torch
from flwr.app import Array, ArrayRecord

from common.config.model import ModelConfig
from common.digest import digest_of
from common.files import write_atomically
from common.model.network import declared_shapes

Weights = dict[str, torch.Tensor]
Pieces = list[bytes | memoryview]
"""The content of a file as consecutive pieces."""
File = bytes | memoryview
"""A whole safetensors file."""

STYPE = "safetensors"
"""The name and the format of the only array in Flower's record of weights."""

_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Safetensors' names of the types, in the order in which tensors stand in a file."""

# Received weights are read and copied, never changed in place.
warnings.filterwarnings("ignore", message="The given buffer is not writable")


LARGEST = 1e8
"""The greatest absolute value in a tensor. Weights are of the order of 1, and variances of activations below 1e5."""
NEVER_NEGATIVE = ("running_var", "num_batches_tracked")
"""The ends of the names, in torch, of the buffers of batch normalisation that are never negative."""


class UnfitWeights(Exception):
    """The tensors do not fit the declared network. The error text names the broken rule, never a value."""


def serialize_chunks(weights: Weights) -> Pieces:
    """Return the safetensors file of weights as pieces; equal tensors give equal bytes, whatever their order.

    The bytes equal the output of `safetensors.torch.save`, but no tensor is copied: each hand-off needs the file three
    times.

    Raises:
        UnfitWeights: a tensor's type occurs in no network here.
    """
    header: dict[str, dict[str, object]] = {}
    contents: Pieces = []
    end = 0
    unknown = {tensor.dtype for tensor in weights.values()} - set(_TYPES)
    if unknown:
        raise UnfitWeights(f"a tensor has the type {unknown.pop()}, which no network here has")
    ranks = {dtype: rank for rank, dtype in enumerate(_TYPES)}
    for name in sorted(weights, key=lambda name: (ranks[weights[name].dtype], name)):
        tensor = weights[name].detach().cpu().contiguous()
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        contents.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *contents]


def serialised(weights: Weights) -> bytes:
    """Return the whole safetensors file of weights."""
    return b"".join(serialize_chunks(weights))


def save(weights: Weights, folder: Path) -> str:
    """Write `<folder>/<digest>.safetensors` unless the file exists, and return the digest."""
    file = serialize_chunks(weights)
    digest = digest_of(file)
    path = folder / f"{digest}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, file, durable=True)
    return digest


def mapped(file: BinaryIO) -> memoryview:
    """Return an open file as a memory map, which stays valid after the file is closed.

    The system reads pages on use, and may drop unused pages again.
    """
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def load(path: Path) -> Weights:
    """Read a safetensors file.

    Raises:
        UnfitWeights: the file is cut off, or is no safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UnfitWeights("the weights file is damaged") from error


def to_arrays(file: File) -> ArrayRecord:
    """Return weights as Flower's record: a single array, which holds the safetensors file.

    Flower's own form has an array for each tensor. Flower sends every array as an object of its own, with requests of
    its own: 55 MB in 706 tensors took a minute through SuperLink.
    """
    record = ArrayRecord({STYPE: Array(dtype="uint8", shape=(len(file),), stype=STYPE, data=b"")})
    record[STYPE].data = file  # type: ignore[assignment]  # Flower takes any buffer, if not in a constructor
    return record


def from_arrays(arrays: ArrayRecord) -> Weights:
    """Return the weights in Flower's record; exact and without a copy: the tensors are views of the array's bytes.

    Raises:
        ValueError: the record does not have the declared form, or its content is not byte for byte the file of some
            weights. This check keeps other content from travelling beside the tensors.
        Exception: of any kind, if the content is no safetensors file at all.
    """
    ((name, array),) = arrays.items()
    if (name, array.stype, array.dtype, tuple(array.shape)) != (STYPE, STYPE, "uint8", (len(array.data),)):
        raise ValueError("not the one array that was declared")
    weights = _tensors(array.data)
    head, text, *contents = serialize_chunks(weights)
    if array.data[: len(head) + len(text)] != bytes(head) + bytes(text):
        raise ValueError("the file is not written as it was declared")
    if len(array.data) != len(head) + len(text) + sum(map(len, contents)):
        raise ValueError("more than the tensors is in it")
    return weights


def _tensors(file: File) -> Weights:
    """Return the tensors listed in a file's header, as views of the file: safetensors' own reader copies tensors."""
    end = _header_end(file)
    types = {name: dtype for dtype, name in _TYPES.items()}
    content = torch.frombuffer(file, dtype=torch.uint8)[end:]
    return {
        name: content[slice(*entry["data_offsets"])].view(types[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in json.loads(bytes(file[8:end])).items()
    }


def _header_end(file: File) -> int:
    """Return the position of the first tensor in a file, in bytes."""
    return 8 + int.from_bytes(file[:8], "little")


def check_fit(weights: Weights, model: ModelConfig, *, without: Collection[str] = ()) -> None:
    """Check that weights fit the declared network exactly: names, shapes, types, values that a training can come to.

    Finite values alone are not enough: one site's 1e38 overflows the average of all sites, and a negative variance
    makes the next site's first step infinite, so that the next site seems to have failed.

    Args:
        weights: the tensors.
        model: the declared network.
        without: the names of tensors that stay at a site, which must not be among the tensors.

    Raises:
        UnfitWeights: a rule is broken; the text names the rule.
    """
    declared = {name: kind for name, kind in declared_shapes(model).items() if name not in without}
    if weights.keys() != declared.keys():
        raise UnfitWeights("the names of the tensors are not those of the declared network")
    for name, (shape, dtype) in declared.items():
        tensor = weights[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise UnfitWeights("a tensor's shape or type is not that of the declared network")
        low, high = (bound.item() for bound in tensor.aminmax()) if tensor.numel() else (0, 0)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UnfitWeights("a tensor holds a value that is not finite")
        if max(-low, high) > LARGEST:
            raise UnfitWeights(f"a tensor holds a value beyond ±{LARGEST:.0e}, which no training comes to")
        if low < 0 and name.endswith(NEVER_NEGATIVE):
            raise UnfitWeights("a variance or a count of batch normalisation is negative")


def size_in_bytes(weights: Weights | File) -> int:
    """Return the bytes of the tensors alone, without a file's header."""
    if not isinstance(weights, dict):
        return len(weights) - _header_end(weights)
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
