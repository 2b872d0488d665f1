"""What a study asks for: its methods as one graph of stages, the same wherever it is planned."""

from common.plan.planning import (
    Candidate,
    Census,
    Choices,
    Plan,
    Rounds,
    Row,
    batches_per_epoch,
    grown,
    laps_to,
    most_rounds,
    plan,
    rounds_of,
    routes_to,
)

__all__ = [
    "Candidate",
    "Census",
    "Choices",
    "Plan",
    "Rounds",
    "Row",
    "batches_per_epoch",
    "grown",
    "laps_to",
    "most_rounds",
    "plan",
    "rounds_of",
    "routes_to",
]
