"""The sentences at the end of a study about missing or incomplete rows, deliveries and weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import GO_ON
from common.plan.methods import Method, method_of
from common.text import listed
from server.deliveries import Deliveries
from server.scheduling.state import RunState

SHOWN = 3
"""How many routes or targets of a method a sentence names; the rest is counted."""


def sentences(runs: Sequence[RunState], results: dict[str, Any], deliveries: Deliveries, folder: Path) -> Iterator[str]:
    """Yield a sentence for each kind of missing or incomplete result; nothing if the study is complete.

    Args:
        runs: the run of each variant.
        results: the content of results.json.
        deliveries: the outcome of the deliveries.
        folder: the result folder.
    """
    reasons = {reason for run in runs for reason in run.parked.values()} | {row["reason"] for row in results["parked"]}
    cut = [row for row in results["rows"] if row["absent"]]
    made = results["rotation_rows"] or results["rows"]
    if parked := len(results["parked"]):
        which = _which(results["parked"])
        yield (f"{parked} of {parked + len(made)} rows could not be finished ({which}) – {'; '.join(sorted(reasons))}.")
    elif reasons:
        yield f"What is measured beside the rows could not be finished – {'; '.join(sorted(reasons))}."
    if cut:
        names = listed(sorted({site for row in cut for site in row["absent"]}))
        which = _which(cut)
        yield f"{len(cut)} rows ({which}) were made without {names}, as the study has it, and are marked."
    if deliveries.failed:
        failed = "; ".join(f"site {site}: {reason}" for site, reason in sorted(deliveries.failed.items()))
        yield f"Not every site has its weights – {failed}."
    if gone := sorted({reason for run in runs for reason in run.not_made_again.values()}):
        yield f"Weights that are gone from {folder} could not be made again – {'; '.join(gone)}."
    if deliveries.failed or gone or any(run.parked for run in runs):
        yield f"What is finished is kept in {folder}; {GO_ON}."


def _which(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the methods of rows of results.json, folds and repeats merged: "Routes: B → C → A; FedAvg at A and B"."""
    places: dict[Method, list[str]] = {}
    for row in rows:
        method = method_of(row["method"])
        places.setdefault(method, []).append(row["label"] if method.own_line else row["target"])
    return "; ".join(
        f"{method.title}{':' if method.own_line else ' at'} {_few(list(dict.fromkeys(found)))}"
        for method, found in places.items()
    )


def _few(names: Sequence[str]) -> str:
    """Return names as a list in words; the names after the first `SHOWN` are only counted."""
    more = len(names) - SHOWN
    return listed(names if more < 1 else [*names[:SHOWN], f"{more} more"])
