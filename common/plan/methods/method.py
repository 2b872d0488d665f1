"""What a method is: its key, its name for readers, what others have to know of it, and the rows it yields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from common.config.study import Study
from common.plan.graph import Average
from common.plan.rounds import averages_of
from common.plan.values import Census, Choices, PlannedRow, Rounds

Namer = Callable[[Sequence[str], str], str]
"""A name from a row's route and target."""


class Section(IntEnum):
    """The kinds of method, from the simple to the elaborate: in this order rows are planned and shown."""

    ALONE = 0
    ROUTES = 1
    LAPS = 2
    UNADAPTED = 3
    AVERAGES = 4
    ALL_DATA = 5


@dataclass(frozen=True)
class Given:
    """What rows are made from."""

    study: Study
    census: Census
    choices: Choices
    rounds: Rounds

    @cached_property
    def averages(self) -> Mapping[str, tuple[tuple[Average, ...], ...]]:
        """By strategy the averages of every round and setting, a tuple a fold; all targets choose among the same."""
        return {
            part.strategy: tuple(
                tuple(averages_of(self.study, part, fold, self.census, self.rounds)) for fold in self.study.split.run
            )
            for part in self.study.methods.federated
        }


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to a model for a target.

    What others have to know of a method they ask here; nobody else tests for its key.
    """

    key: str
    """In results, and in `methods.more` of a study."""
    title: str
    """All its rows together: "Target alone", "FedAvg, then the target"."""
    name: Namer
    """One row: "A alone", "B → C → A", "FedAvg, then A". Where the route is not known, it is empty."""
    line: Namer | None = None
    """One line of a table, whatever the target: "B → C →". None: the title."""
    section: Section
    rows: Callable[[Given, str], Iterable[PlannedRow]]
    """Those for a target, all folds; none where the study does not ask for the method."""

    optional: bool = False
    """The study has no settings for it, and names it in `methods.more`."""
    alone: bool = False
    """The target trains alone: a model of the hospital's own."""
    baseline: bool = False
    """The target alone for one stage: what gains are counted from."""
    longer: bool = False
    """The target alone with the gradient steps of its longest route: the control for longer training."""
    travelling: bool = False
    """One model is handed from site to site, so that it may forget."""
    routed: bool = False
    """Validation chooses among a target's rows of such methods, and the best is the target's headline."""
    grows: bool = False
    """The route shows in the course of the study, and may be another one in each repeat."""
    own_line: bool = False
    """Each way to a target is a line of the table."""
    adapted: bool = True
    """The target had a part in the training. What never saw it may score far lower: it sets no scale, and is no
    opponent of the headline."""
    everybody: bool = False
    """It needs every site of the study, not those of its route alone."""
    deliverable: bool = True
    """A hospital may be given its weights."""
    skippable: bool = False
    """It may go on without a site that is away."""
    absence: str = ""
    """The table of [absence.methods] that holds its rule; empty: that of its key."""
    strategy: str = ""
    """A key of `common.strategies`: rows stand in the order in which the study lists its strategies."""
    in_paper: bool = False
    """The paper's Table III has it."""
    style: str = ""
    """The class of the report's style sheet in which its line is drawn strongly."""

    def line_of(self, route: Sequence[str], target: str) -> str:
        """Return the head of a line of a table."""
        return self.line(route, target) if self.line else self.title


def sources(route: Sequence[str], target: str) -> tuple[str, ...]:
    """Return the sites that a model came through before its target."""
    return tuple(route[:-1] if route and route[-1] == target else route)


def arrows(route: Sequence[str], target: str) -> str:
    """ "B → C → A"."""
    return " → ".join((*sources(route, target), target))
