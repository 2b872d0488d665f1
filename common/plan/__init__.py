"""The plan of a study: its methods as a graph of stages, identical at the coordinator and at every site."""

from common.plan.methods import GROWING, Method, Section, absence_rule, asked_for, method_of, name_of, place_of
from common.plan.planning import plan
from common.plan.rounds import batches_per_epoch, most_rounds, rounds_of
from common.plan.routes import grown, routes_to
from common.plan.values import Candidate, Census, Choices, Plan, PlannedRow, Rounds

__all__ = [
    "GROWING",
    "Candidate",
    "Census",
    "Choices",
    "Method",
    "Plan",
    "Rounds",
    "PlannedRow",
    "Section",
    "absence_rule",
    "asked_for",
    "batches_per_epoch",
    "grown",
    "method_of",
    "most_rounds",
    "name_of",
    "place_of",
    "plan",
    "routes_to",
    "rounds_of",
]
