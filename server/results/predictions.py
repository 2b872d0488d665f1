"""How well free scores predicted the routes: Kendall's τ between scores on arrival and scores after training."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from scipy.stats import kendalltau

from common.plan.graph import Evaluate, Node
from common.plan.values import Predicted
from server.results import schema
from server.scheduling.state import RunState


def predictions_of(run: RunState, labels: dict[str, Any]) -> Iterator[schema.Prediction]:
    """Yield, for each target and number of epochs, the routes with their scores on arrival, and Kendall's τ.

    A route counts once all its folds are finished; where a site's training was skipped, it does not count.

    Args:
        run: the run of a variant.
        labels: the fields of the variant.
    """
    groups: dict[tuple[str, int], list[Predicted]] = {}
    for one in run.plan.predicted:
        groups.setdefault((one.route[-1], one.epochs), []).append(one)
    for (target, epochs), group in groups.items():
        routes = [route for one in group if (route := _route(run, one)) is not None]
        if routes:
            yield schema.Prediction(
                **labels, target=target, epochs=epochs, routes=tuple(routes), agreement=tuple(_agreement(routes))
            )


def _route(run: RunState, one: Predicted) -> schema.PredictedRoute | None:
    """Return a route's scores, means over the folds in per cent; None for a route that does not count."""
    unadapted, re_estimated, validation = (_mean(run, nodes) for nodes in (one.unadapted, one.re_estimated, one.models))
    if unadapted is None or re_estimated is None or validation is None:
        return None
    tests = [
        Evaluate(one.route[-1], fold, "test", model)
        for fold, model in zip(run.study.split.run, one.models, strict=True)
    ]
    return schema.PredictedRoute(
        route=one.route,
        unadapted=unadapted,
        re_estimated=re_estimated,
        validation=validation,
        test=_mean(run, tests),
    )


def _mean(run: RunState, nodes: Sequence[Node]) -> float | None:
    """Return the mean score of some nodes, per cent; None where one is unfinished, or a site was left out."""
    if any(node not in run.records or run.lacks(node) for node in nodes):
        return None
    return round(100 * statistics.fmean(run.records[node].value(run.score) for node in nodes), 6)


def _agreement(routes: Sequence[schema.PredictedRoute]) -> Iterator[schema.Agreement]:
    """Yield Kendall's τ of each predictor with the scores after training, on validation and on test patients."""
    for predictor in ("unadapted", "re_estimated"):
        for outcome in ("validation", "test"):
            pairs = [(getattr(route, predictor), getattr(route, outcome)) for route in routes]
            known = [pair for pair in pairs if None not in pair]
            if known:
                yield schema.Agreement(predictor=predictor, outcome=outcome, tau=_tau(known), routes=len(known))


def _tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Kendall's τ-b (Kendall, Biometrika 33, 1945); None for a single route, and where all scores are equal."""
    if len(pairs) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant input has no τ, which the result says by NaN
        tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return None if math.isnan(tau) else round(tau, 6)
