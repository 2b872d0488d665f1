"""Files of tensors, read and put together piece by piece, so that memory holds a fixed budget of them at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from safetensors import safe_open

Piece = tuple[str, slice | None]
"""A tensor's name, and a range of its rows (first axis); None for all rows."""

WIDEST = 4
"""The most bytes of a weight; in the networks here only counters are wider."""


def chunks(file: safe_open, names: list[str], budget: int | None) -> Iterator[list[Piece]]:
    """Yield pieces of all tensors in order, grouped to fit into a budget.

    Args:
        file: the file with the tensors' shapes.
        names: the tensors, in order.
        budget: bytes of a group; None: a single group of whole tensors.
    """
    chunk: list[Piece] = []
    size = 0
    for name in names:
        shape = file.get_slice(name).get_shape()
        row = WIDEST * math.prod(shape[1:])
        rows = shape[0] if shape else 1
        step = rows if budget is None or not shape else max(1, budget // max(row, 1))
        for start in range(0, rows, step) if rows and shape else (0,):
            whole = step >= rows
            chunk.append((name, None if whole else slice(start, min(start + step, rows))))
            size += row * min(step, rows - start)
            if budget is not None and size >= budget:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def part_of(file: safe_open, piece: Piece) -> torch.Tensor:
    """Return the rows of a tensor that a piece names."""
    name, rows = piece
    return file.get_tensor(name) if rows is None else file.get_slice(name)[rows]


def joined(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a tensor from its pieces, in the order of their rows."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
