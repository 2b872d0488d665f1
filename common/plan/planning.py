"""The plan of a study: its methods as a graph of stages (`common.plan.graph`).

`plan` is a pure function of the study, the census (the number of training slices at each site) and, where routes are
found while the study runs, the choices made so far. The coordinator plans in order to run the stages; a site plans in
order to check an ordered stage against its approved study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.config.study import Study
from common.config.values import POOLED
from common.errors import RelayError
from common.plan.graph import Best, Evaluate, FineTune, Node, as_scored_at, parents_first
from common.plan.methods import Given, Method, asked_for, method_of
from common.plan.predictors import predicted
from common.plan.rounds import COUNTED
from common.plan.routes import along, routes_to
from common.plan.searches import check_choices, search_of, steps_to
from common.plan.values import Budgets, Candidate, Census, Choices, Plan, PlannedRow, Predicted, Step


def plan(
    study: Study,
    census: Census,
    choices: Choices | None = None,
    *,
    budgets: Budgets = COUNTED,
    at: str | None = None,
    methods: Sequence[Method] | None = None,
) -> Plan:
    """Return the rows of a study's methods, and all stages behind the rows, as a graph.

    Args:
        study: a plain study (a single network and pair of seeds).
        census: the number of training slices at each site, by fold.
        choices: where routes are found while the study runs, what is selected so far, by target; nothing unless given.
        budgets: the lengths of the methods that are as long as the longest route.
        at: plan for this site only: tried routes without a stage at the site are left out; where routes grow hop by
            hop, also routes whose last two stages lie at other sites, since each earlier stage of a route is also the
            end of a shorter route. Of the ten thousand routes of a hundred sites two hundred remain, and a site plans
            again for every order. Where a route has one cosine, its stages are its own, and only routes without the
            site are left out.
        methods: plan the rows of these methods only; by default, of all methods of the study.

    Raises:
        RelayError: the census lacks a site of the study, the study names an unknown method, or the study does not allow
            the choices.
    """
    for site in (*study.sites, *((POOLED,) if study.methods.pooled else ())):
        if site not in census:
            raise RelayError(f"Nothing is known of site {site} yet; every site has to describe its data first.")
    choices = choices or {}
    check_choices(study, choices)
    given = Given(study, census, choices, budgets)
    methods = asked_for(study) if methods is None else methods
    rows = tuple(row for target in study.sites for method in methods for row in method.rows(given, target))
    growing = {}
    tried: dict[Node, None] = {}
    forecast: dict[Predicted, None] = {}
    for target in study.sites:
        steps = steps_to(study, target, choices)
        if study.methods.sequential.predictors:
            listed = [Step(study.training.epochs, tuple(routes_to(study, target)), ())]
            for step in steps or listed:
                forecast |= dict.fromkeys(predicted(step.epochs, candidates_of(study, step, at)))
        for step in steps:
            candidates = list(candidates_of(study, step, at))
            tried |= dict.fromkeys(model for candidate in candidates for model in candidate.models)
            if step.decided is None:
                growing[target] = tuple(candidates)
    wanted = [node for row in rows for node in (row.test or row.model, row.validation)]
    scored = [node for one in forecast for node in (*one.models, *one.unadapted, *one.re_estimated)]
    nodes = tuple(parents_first([*wanted, *tried, *scored, *_forgetting(study, rows)]))
    return Plan(rows, nodes, tuple(tried), growing, tuple(forecast))


def candidates_of(study: Study, step: Step, at: str | None = None) -> Iterator[Candidate]:
    """Yield the routes of a step with their last stages.

    Args:
        study: the study.
        step: a step of the study's search.
        at: leave out routes without work for this site; see `plan`.
    """
    search = search_of(study)
    shared = search and search.hop_by_hop and study.methods.sequential.annealing == "stage"
    last = 2 if shared else len(study.sites)
    training = study.training.model_copy(update={"epochs": step.epochs})
    of_step = study.model_copy(update={"training": training})
    for route in step.routes:
        if at is None or at in route[-last:]:
            models = tuple(along(of_step, route, fold) for fold in study.split.run)
            yield Candidate(route, models, final=step.epochs == study.training.epochs)


def _forgetting(study: Study, rows: tuple[PlannedRow, ...]) -> Iterator[Evaluate]:
    """Yield the scorings of the travelling models on every site's test patients, after every hop.

    The models of all folds are scored, since the fold to hand on is selected only in later stages.
    """
    if not study.methods.forgetting or study.methods.scored_on != "test":
        return
    seen: set[Node] = set()
    stack: list[Node] = [row.model for row in rows if method_of(row.method).travelling]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        stack += node.candidates if isinstance(node, Best) else node.parents
        if isinstance(node, FineTune):
            yield from (Evaluate(site, node.fold, "test", as_scored_at(site, node)) for site in study.sites)
