"""Named tensors on their way: to and from Flower's records and safetensors files, and their digest.

A digest is the sha256 of the safetensors file, so that `sha256sum` checks it.
"""

from __future__ import annotations

import json
import math
import mmap
import warnings
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
import torch
from flwr.app import Array, ArrayRecord

from common.config.study import ModelConfig
from common.digest import digest_of
from common.files import write_atomically
from common.model.network import declared_shapes

Weights = dict[str, torch.Tensor]
Pieces = list[bytes | memoryview]
"""A file's content, in order."""
File = bytes | memoryview
"""A safetensors file in one piece."""

STYPE = "safetensors"
"""Names the one array of Flower's record of weights, and its form."""

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
"""Safetensors' names of types, in the order in which they stand in a file."""

# Weights that arrived are looked at and copied, never changed in place.
warnings.filterwarnings("ignore", message="The given buffer is not writable")


class UnfitWeights(Exception):
    """The tensors are not those of the declared network. The text names a rule, never a value."""


def serialize_chunks(weights: Weights) -> Pieces:
    """Return the safetensors file of weights; equal tensors give equal bytes, in whatever order they stand.

    The very bytes of `safetensors.torch.save`, but not copied: each hand-off needs them three times.

    Raises:
        UnfitWeights: a tensor of a type that no network here has.
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
    """Return the safetensors file of weights in one piece."""
    return b"".join(serialize_chunks(weights))


def save(weights: Weights, folder: Path) -> str:
    """Write `<folder>/<digest>.safetensors` unless it is there; returns the digest."""
    file = serialize_chunks(weights)
    digest = digest_of(file)
    path = folder / f"{digest}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, file, durable=True)
    return digest


def mapped(file: BinaryIO) -> memoryview:
    """Return a file that the system reads into memory as far as it is looked at, and may forget again; it may be closed."""
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def load(path: Path) -> Weights:
    """Read a safetensors file.

    Raises:
        UnfitWeights: the file is cut off or no safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UnfitWeights("the weights file is damaged") from error


def to_arrays(file: File) -> ArrayRecord:
    """Flower's record of weights: one array, which is their file.

    An array a tensor is what Flower has by itself. It carries every array as an object of its own, though, with
    requests of its own: 55 MB in 706 tensors took a minute through SuperLink.
    """
    record = ArrayRecord({STYPE: Array(dtype="uint8", shape=(len(file),), stype=STYPE, data=b"")})
    record[STYPE].data = file  # type: ignore[assignment]  # Flower takes any buffer, if not in a constructor
    return record


def from_arrays(arrays: ArrayRecord) -> Weights:
    """Weights of Flower's record; exact, and nothing is copied: the tensors lie in the array's own bytes.

    Raises:
        ValueError: it is another record, or what it holds is not byte for byte the file of some weights, since
            something else is in it: so nothing travels beside the tensors.
        Exception: of any kind, where it is no file of weights at all.
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
    """Return the tensors that a file's header tells of, as views of the file: safetensors' own reader copies them."""
    end = _header_end(file)
    types = {name: dtype for dtype, name in _TYPES.items()}
    content = torch.frombuffer(file, dtype=torch.uint8)[end:]
    return {
        name: content[slice(*entry["data_offsets"])].view(types[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in json.loads(bytes(file[8:end])).items()
    }


def _header_end(file: File) -> int:
    """Where a file's tensors begin."""
    return 8 + int.from_bytes(file[:8], "little")


def check_fit(weights: Weights, model: ModelConfig) -> None:
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
        # A sum is finite only if all its terms are, and quicker to have; it may overflow, though.
        if not tensor.is_floating_point() or math.isfinite(tensor.sum()):
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise UnfitWeights("a tensor holds a value that is not finite")


def size_in_bytes(weights: Weights | File) -> int:
    """Bytes of the tensors alone."""
    if not isinstance(weights, dict):
        return len(weights) - _header_end(weights)
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
