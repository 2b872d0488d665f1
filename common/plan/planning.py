"""The plan of a study: its methods as a graph of stages (`common.plan.graph`).

`plan` is a pure function of the study, the census (the number of training slices at each site) and, where routes grow,
the hops selected so far. The coordinator plans in order to run the stages; a site plans in order to check an ordered
stage against its approved study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.config.study import POOLED, Study
from common.errors import RelayError
from common.plan.graph import Best, Evaluate, FineTune, Node, parents_first
from common.plan.methods import Given, Method, asked_for, method_of
from common.plan.rounds import rounds_of
from common.plan.routes import along, check_choices, growing_targets, tried_on_the_way
from common.plan.values import Candidate, Census, Choices, Plan, PlannedRow, Rounds


def plan(
    study: Study,
    census: Census,
    choices: Choices | None = None,
    *,
    rounds: Rounds = rounds_of,
    at: str | None = None,
    methods: Sequence[Method] | None = None,
) -> Plan:
    """Return the rows of a study's methods, and all stages behind the rows, as a graph.

    Args:
        study: a plain study (a single network and pair of seeds).
        census: the number of training slices at each site, by fold.
        choices: where routes grow, the hops selected so far, by target; none unless given.
        rounds: returns the number of rounds of a federated method.
        at: plan for this site only: tried routes whose last two stages lie at other sites are left out, since each
            earlier stage of a route is also the end of a shorter route. Of the ten thousand routes of a hundred sites
            two hundred remain, and a site plans again for every order. Where a route has one cosine, its stages are its
            own, and only routes without the site are left out.
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
    given = Given(study, census, choices, rounds)
    methods = asked_for(study) if methods is None else methods
    rows = tuple(row for target in study.sites for method in methods for row in method.rows(given, target))
    growing = {}
    last = 2 if study.methods.sequential.annealing == "stage" else len(study.sites)
    tried: list[Node] = []
    for target in growing_targets(study):
        selected = choices.get(target, ())
        made = {
            route: tuple(along(study, route, fold) for fold in study.split.run)
            for route in tried_on_the_way(study, target, selected)
            if at is None or at in route[-last:]
        }
        tried += [node for models in made.values() for node in models]
        if selected[-1:] != (target,):
            candidates = [route for route in made if route == (*selected, target) or len(route) == len(selected) + 2]
            growing[target] = tuple(Candidate(route, made[route]) for route in candidates)
    wanted = [node for row in rows for node in (row.test or row.model, row.validation)]
    nodes = tuple(parents_first([*wanted, *tried, *_forgetting(study, rows)]))
    return Plan(rows, nodes, tuple(tried), growing)


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
            yield from (Evaluate(site, node.fold, "test", node) for site in study.sites)
