"""The page: one self-contained `report.html`, made from what a result folder says and from nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.errors import RelayError
from server.report import curves, intervals, routes
from server.report.results import Results, Row, Run, read_results, read_run
from server.report.table import Comparison, comparison, notes
from server.report.wording import (
    ROUTED,
    count,
    duration,
    figure,
    full_name,
    moment,
    opening,
    signed,
    site_names,
    test_patients,
)
from server.statistics import RESAMPLES

SITE_COLOURS = ("#0b6e8f", "#b4501e", "#54731f", "#7b4a9c", "#8a6500", "#a43a62", "#39619c", "#5f5f5f")
"""Dark enough for text on white (4.5 : 1), and apart for colour-blind eyes by lightness and hue."""
SCALE = ((255, 251, 214), (210, 237, 190), (141, 211, 196), (103, 184, 212))
"""The table's colours, from the lowest to the highest Dice of a column; dark text is readable on all."""


@dataclass(frozen=True)
class Traffic:
    """What one site's messages carried, in bytes."""

    site: str
    sent: int
    received: int


def shade(share: float) -> str:
    """The colour at a share of the scale, 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(SCALE) - 1)
    left = min(int(place), len(SCALE) - 2)
    mixed = (round(a + (b - a) * (place - left)) for a, b in zip(SCALE[left], SCALE[left + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _shades(table: Comparison) -> list[list[str]]:
    """A colour a cell; empty where there is nothing to colour."""
    columns = []
    for column in range(len(table.targets)):
        rows = [cell.row if (cell := line.cells[column]) else None for line in table.lines]
        # a model that never saw the target may score far lower, and would leave one colour for all others
        values = [row.dice for row in rows if row and row.dice is not None and row.method != "unadapted"]
        low, high = min(values, default=0.0), max(values, default=0.0)
        columns.append(
            [
                shade((row.dice - low) / (high - low) if high > low else 0.5) if row and row.dice is not None else ""
                for row in rows
            ]
        )
    return [list(line) for line in zip(*columns, strict=True)]


def in_short(table: Comparison) -> list[str]:
    """A sentence a target: what validation chose, and what the other methods reached on the same patients."""
    sentences = []
    for column, target in enumerate(table.targets):
        rows = [cell.row for line in table.lines if (cell := line.cells[column]) and cell.row.dice is not None]
        chosen = next((row for row in rows if row.headline), None)
        if chosen is None:
            continue
        others = [f"{full_name(row)} {figure(row.dice)}" for row in rows if row.method not in (*ROUTED, "unadapted")]
        interval = f" ({figure(chosen.ci95[0])} to {figure(chosen.ci95[1])})" if chosen.ci95 else ""
        sentences.append(
            f"At {target}, validation chose {full_name(chosen)},"
            f" with a test Dice of {figure(chosen.dice)} %{interval}."
            + (f" On the same patients: {'; '.join(others)}." if others else "")
        )
    return sentences


def _traffic(results: Results, run: Run | None) -> list[Traffic]:
    if run is None:
        return []
    names = dict.fromkeys((*site_names(results), *run.bytes_sent, *run.bytes_received))
    return [
        Traffic(name, run.bytes_sent.get(name, 0), run.bytes_received.get(name, 0))
        for name in names
        if name in run.bytes_sent or name in run.bytes_received
    ]


def _every_row(results: Results, table: Comparison) -> list[Row]:
    """All folds, in the table's order of methods."""
    order: dict[tuple[str, tuple[str, ...], str], int] = {}
    for cell in table.cells:
        order.setdefault((cell.row.method, cell.row.route, cell.row.target), len(order))
    last = len(order)
    return sorted(
        results.rows,
        key=lambda row: (
            order.get((row.method, row.route, row.target), last),
            -1 if row.fold is None else row.fold,
        ),
    )


def _colours(results: Results) -> dict[str, str]:
    return dict(zip(site_names(results), cycle(SITE_COLOURS), strict=False))


def render(results: Results, run: Run | None, study_toml: str) -> str:
    """The page's HTML. The same input gives the same text."""
    table = comparison(results)
    # everything printed is escaped: names of sites and studies come from files that others wrote
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=figure, signed=signed, duration=duration, count=count, full_name=full_name, moment=moment
    )
    colours = _colours(results)
    context: dict[str, Any] = {
        "results": results,
        "run": run,
        "study_toml": study_toml,
        "name": str(results.study.get("name") or "Study"),
        "about": str(results.study.get("about") or ""),
        "opening": opening(results),
        "in_short": in_short(table),
        "table": table,
        "shades": _shades(table),
        "notes": notes(table),
        "scale": [shade(step / 10) for step in range(11)],
        "patients": test_patients(results),
        "intervals": intervals.interval_panels(results, table),
        "resamples": f"{RESAMPLES:,}".replace(",", "\u202f"),
        "dot": intervals,
        "maps": routes.route_maps(results, table),
        "curves": curves.curve_rows(results, table),
        "curve": curves,
        "lowest": curves.lowest_shown(results.stages),
        "colour_of": lambda site: colours.get(site, "#5f5f5f"),
        "colours": colours,
        "traffic": _traffic(results, run),
        "every_row": _every_row(results, table),
        "versions": {**results.versions, **(run.versions if run else {})},
    }
    return environment.get_template("page.html.j2").render(context)


def write_report(folder: Path) -> Path:
    """Write `report.html` into a result folder and return its path.

    Raises:
        RelayError: results.json is missing or cannot be read, or the page cannot be written.
    """
    results = read_results(folder)
    toml = folder / "study.toml"
    page = folder / "report.html"
    draft = folder / "report.html.part"
    try:
        text = render(results, read_run(folder), toml.read_text(encoding="utf-8") if toml.is_file() else "")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, page)  # a full disk leaves the page of before
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RelayError(
            f"{page} cannot be written ({error.strerror}): make room or rights there, then run `relay report {folder}`."
        ) from error
    return page
