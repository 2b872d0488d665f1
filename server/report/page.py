"""The page: a self-contained `report.html`, made only from the content of a result folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.errors import RelayError
from common.scores import DICE, SCORES
from common.statistics.intervals import METHOD
from common.text import count, duration, moment, points, short_bytes, whole
from server.report import budget_curves, curves, forest, intervals, remarks, wording
from server.report.calibration import of_delivered
from server.report.colours import SITE_COLOURS, shade
from server.report.contrasts import own_interval
from server.report.networks import best_network, judged, networks
from server.report.opening import opening, synthetic_sentence, test_patients
from server.report.paper import AUTHORS
from server.report.run_record import RecordedRun, read_run
from server.report.table import routes_taken, whole_volumes
from server.report.verdicts import verdicts
from server.report.view import NetworkView
from server.report.wording import capital, site_names
from server.results.reading import read_results
from server.results.schema import Results, Row


@dataclass(frozen=True)
class SiteTraffic:
    """The traffic of a site, in bytes."""

    site: str
    sent: int
    received: int


def _traffic(results: Results, run: RecordedRun | None) -> list[SiteTraffic]:
    """Return the traffic of all sites."""
    if run is None:
        return []
    names = dict.fromkeys((*site_names(results), *run.bytes_sent, *run.bytes_received))
    return [
        SiteTraffic(name, run.bytes_sent.get(name, 0), run.bytes_received.get(name, 0))
        for name in names
        if name in run.bytes_sent or name in run.bytes_received
    ]


def _every_row(views: list[NetworkView], results: Results) -> list[Row]:
    """Return the rows of all folds, network by network, in the table's order of methods."""
    order: dict[tuple[str, str, tuple[str, ...], str], int] = {}
    for view in views:
        for cell in view.table.cells:
            for row in cell.rows:
                order.setdefault((row.model, row.method, row.route, row.target), len(order))
    last = len(order)

    def place(row: Row) -> tuple[int, int, int, int]:
        known = order.get((row.model, row.method, row.route, row.target), last)
        return results.models.index(row.model), known, row.variant, -1 if row.fold is None else row.fold

    return sorted(results.fold_rows, key=place)


def _views(results: Results) -> tuple[list[NetworkView], list[NetworkView]]:
    """Return the networks shown in full on the page, and the networks not selected by validation."""
    if len(results.models) < 2:
        return [NetworkView(results)], []
    if len({row.method for row in results.rows}) < 2:
        return [], []  # the table of networks shows everything
    best = best_network(results)
    others = [NetworkView(results.of_model(name), name, main=False) for name in results.models if name != best]
    return [NetworkView(results.of_model(best), best)], others


def _contents(results: Results, view: NetworkView | None, *, several: bool, others: bool) -> Iterator[tuple[str, str]]:
    """Yield the page's sections: the name of the template's file, and the entry in the table of contents."""
    if view and view.in_short.shown:
        yield "short", "In short"
    if results.parked:
        yield "unfinished", "Unfinished"
    if several:
        yield "networks", "Networks"
    if view:
        yield "comparison", "Comparison"
        if view.paper:
            yield "paper", "The paper"
        if view.family.shown:
            yield "contrasts", "Patient by patient"
        yield "intervals", "Intervals"
        if view.variance:
            yield "variance", "Where figures vary"
        if view.gland.shown:
            yield "gland", "Volume and parts"
        if view.calibration:
            yield "calibration", "Probabilities"
        if view.shares:
            yield "own_patients", "Own patients"
        if view.budget:
            yield "budget", "Cost"
        if view.maps:
            yield "routes", "Hops"
        if view.growths:
            yield "growth", "Finding routes"
        if view.forecasts:
            yield "predictions", "Predictors"
        if view.matrices:
            yield "forgetting", "Forgetting"
    if others:
        yield "others", "Other networks"
    yield from (("curves", "Learning curves"), ("wire", "Bytes"), ("study", "The study as run"))
    yield from (("folds", "Every fold"), ("reproduce", "To reproduce"))


def render(results: Results, run: RecordedRun | None, study_toml: str) -> str:
    """Return the page's HTML; equal input gives equal HTML.

    Args:
        results: the study's results.
        run: the record of the study's runs, if known.
        study_toml: the text of study.toml.
    """
    views, others = _views(results)
    view = views[0] if views else None
    # All text is escaped, since names of sites and studies come from other people's files.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("encoder_name", "figure", "full_name", "likely", "network_name", "probability", "signed", "with_code")
    environment.filters.update({name: getattr(wording, name) for name in names})
    environment.filters.update(
        count=count, duration=duration, moment=moment, points=points, short_bytes=short_bytes, whole=whole
    )
    environment.filters.update(routes_taken=routes_taken, shade=shade, whole_volumes=whole_volumes)
    colours = dict(zip(site_names(results), cycle(SITE_COLOURS), strict=False))
    context: dict[str, Any] = {
        "results": results,
        "run": run,
        "study_toml": study_toml,
        "name": str(results.study.get("name") or "Study"),
        "about": str(results.study.get("about") or ""),
        "opening": opening(results),
        "verdicts": verdicts(judged(results)),
        "contents": list(_contents(results, view, several=len(results.models) > 1, others=bool(others))),
        "view": view,
        "others": others,
        "networks": networks(results),
        "starts": any(" from " in model for model in results.models),
        "architectures": wording.ARCHITECTURES,
        "authors": AUTHORS,
        "calibration_of_delivered": of_delivered(results),
        "repeats": len(results.repeats),
        "rotations": results.rotations,
        "what": "test" if results.tested else "validation",
        "remarks": remarks,
        "synthetic": synthetic_sentence(results),
        "scores": SCORES,
        "dice": results.score.title,
        "dice_as_title": capital(results.score.title),
        "by_volume": results.score is not DICE,
        "scale": [shade(step / 10) for step in range(11)],
        "patients": test_patients(results),
        "interval_method": METHOD,
        "interval_of": lambda row: own_interval(results, (row,)),
        "dot": intervals,
        "bars": forest,
        "spent": budget_curves,
        "curves": curves.curve_rows(view.first, view.first_table)
        if view
        else curves.network_curves(results.of_first_rotation()),
        "curve": curves,
        "lowest": curves.lowest_shown(results.stages),
        "colour_of": lambda site: colours.get(site, "#5f5f5f"),
        "colours": colours,
        "traffic": _traffic(results, run),
        "every_row": _every_row([*views, *others], results),
        "versions": results.versions,
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
        os.replace(draft, page)  # a full disk leaves the earlier page
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RelayError(
            f"{page} cannot be written ({error.strerror}): make room or rights there, then run `relay report {folder}`."
        ) from error
    return page
