"""The plan of a study: its methods as a graph of stages, identical at the coordinator and at every site."""

from common.plan.methods import (
    Method,
    Section,
    absence_rule,
    asked_for,
    growing_method,
    method_of,
    name_of,
    place_of,
    route_method,
    with_share,
)
from common.plan.planning import plan
from common.plan.rounds import MOST, batches_per_epoch, longest_has_all, rounds_of
from common.plan.routes import every_route, routes_to
from common.plan.searches import grown, route_found, search_of, steps_to
from common.plan.values import Candidate, Census, Choices, Plan, PlannedRow

__all__ = [
    "Candidate",
    "Census",
    "Choices",
    "Method",
    "Plan",
    "MOST",
    "PlannedRow",
    "Section",
    "absence_rule",
    "asked_for",
    "batches_per_epoch",
    "every_route",
    "grown",
    "growing_method",
    "method_of",
    "longest_has_all",
    "name_of",
    "place_of",
    "with_share",
    "plan",
    "route_found",
    "route_method",
    "routes_to",
    "rounds_of",
    "search_of",
    "steps_to",
]
