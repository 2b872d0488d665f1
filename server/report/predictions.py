"""How well free scores predicted the routes, for the page."""

from __future__ import annotations

from dataclasses import dataclass

from server.results.schema import Agreement, PredictedRoute, Prediction, Results

NAMES = {"unadapted": "as it arrives", "re_estimated": "batch norm re-estimated"}
"""The names of the predictors."""


@dataclass(frozen=True)
class Forecast:
    """The routes to a target with the same epochs, and how well each predictor ordered them."""

    target: str
    heading: str
    """The target; with its repeat and the epochs of a stage, where there are several."""
    routes: tuple[PredictedRoute, ...]
    """The routes, from the best to the worst by validation after training."""
    lines: tuple[str, ...]
    """Kendall's τ of each predictor, a sentence each."""


def forecasts(results: Results) -> list[Forecast]:
    """Return an entry for each target, repeat and number of epochs."""
    repeats = results.repeats
    several = len({one.epochs for one in results.predictions}) > 1
    return [
        Forecast(
            one.target,
            "".join(
                (
                    f"→ {one.target}",
                    f", repeat {repeats.index(one.repeat) + 1}" if len(repeats) > 1 and one.repeat in repeats else "",
                    f", {one.epochs} epochs a stage" if several else "",
                )
            ),
            tuple(sorted(one.routes, key=lambda route: -(route.validation or 0.0))),
            tuple(_lines(one)),
        )
        for one in results.predictions
    ]


def _lines(one: Prediction) -> list[str]:
    return [
        f"{NAMES.get(predictor, predictor)}: {', '.join(map(_tau, found))}"
        for predictor in dict.fromkeys(entry.predictor for entry in one.agreement)
        if (found := [entry for entry in one.agreement if entry.predictor == predictor])
    ]


def _tau(entry: Agreement) -> str:
    """Return τ in words: "τ 0.67 with validation (4 routes)"."""
    value = "no τ" if entry.tau is None else f"τ {entry.tau:.2f}".replace("-", "−")
    return f"{value} with {entry.outcome} ({entry.routes} {'route' if entry.routes == 1 else 'routes'})"
