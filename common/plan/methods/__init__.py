"""The methods available to studies: a file for each method, and its line in `METHODS`."""

from __future__ import annotations

from dataclasses import replace

from common import plugins
from common.config.methods import AbsenceRule, Budget
from common.config.study import Study
from common.errors import RelayError
from common.plan.methods import (
    baseline,
    consensus,
    cyclic,
    folds,
    greedy,
    halving,
    l2_sp,
    local_route,
    longer,
    longest,
    lwf,
    pooled,
    pooled_subsets,
    pooled_then_target,
    restarts,
    sequential,
    share,
    soup,
    unadapted,
    unseen,
)
from common.plan.methods.ditto import personal
from common.plan.methods.federated import averaged, re_estimated, then_target
from common.plan.methods.local_norm import local
from common.plan.methods.method import Given, Method, Section
from common.plan.values import PlannedRow
from common.strategies import STRATEGIES

__all__ = [
    "METHODS",
    "Given",
    "Method",
    "Section",
    "absence_rule",
    "asked_for",
    "growing_method",
    "method_of",
    "name_of",
    "place_of",
    "route_method",
    "with_share",
]

_of_packages: dict[str, Method] = {}
"""The methods of installed packages that studies of this process name, by key."""

BUDGETS: tuple[Budget, ...] = ("steps", "depth")
MATCHED = tuple(
    (strategy, budget) for strategy in STRATEGIES.values() for budget in BUDGETS[: 1 if strategy.laps_first else 2]
)
"""Every strategy with every budget of its rounds."""

METHODS: tuple[Method, ...] = (
    baseline.METHOD,
    longer.METHOD,
    longest.METHOD,
    restarts.METHOD,
    share.ALONE,
    folds.OF_TARGET,
    sequential.METHOD,
    greedy.METHOD,
    halving.METHOD,
    lwf.METHOD,
    l2_sp.METHOD,
    local_route.OF_ROUTES,
    soup.METHOD,
    share.HANDED_ON,
    cyclic.METHOD,
    local_route.OF_LAPS,
    unadapted.METHOD,
    *(averaged(strategy, budget) for strategy, budget in MATCHED),
    *(re_estimated(strategy, budget) for strategy, budget in MATCHED),
    *(local(strategy, budget) for strategy, budget in MATCHED if strategy.plain_rounds),
    *(then_target(strategy) for strategy in STRATEGIES.values()),
    *(personal(strategy, budget) for strategy, budget in MATCHED if strategy.plain_rounds),
    folds.OF_ROUTE,
    consensus.METHOD,
    pooled.METHOD,
    pooled_then_target.METHOD,
    pooled_subsets.SEEN,
    unseen.OF_ROUTES,
    unseen.OF_ENSEMBLE,
    unseen.OF_DATA,
    pooled_subsets.UNSEEN,
    *(unseen.averaged(strategy) for strategy in STRATEGIES.values()),
)
"""All methods, in the order of a table's lines."""


def growing_method(study: Study) -> Method | None:
    """Return the method of the routes in `Plan.growing` and `Plan.tried`; None where routes are known beforehand."""
    return next((method for method in METHODS if method.grows and method.key == study.methods.sequential.routes), None)


def route_method(study: Study) -> Method:
    """Return the method of a study's routes: that of its search, or that of routes known beforehand."""
    return growing_method(study) or sequential.METHOD


def method_of(key: str) -> Method:
    """Return the method with a key; for an unknown key, of another version's results, a method titled by the key."""
    return next((method for method in METHODS if method.key == key), None) or _of_packages.get(key) or _unknown(key)


def name_of(row: PlannedRow) -> str:
    """Return a row's name for readers: "B → C → A", "A alone"."""
    return with_share(method_of(row.method).name(row.route, row.target), row.share)


def with_share(name: str, share: float | None) -> str:
    """Return a row's name with the share of the target's patients, where it is not all of them."""
    return name if share is None else name.replace("a share of", f"{100 * share:g} % of")


def place_of(method: Method) -> int:
    """Return a method's place in a table; unknown methods come last."""
    known = (*METHODS, *_of_packages.values())
    return next((place for place, one in enumerate(known) if one.key == method.key), len(known))


def asked_for(study: Study) -> list[Method]:
    """Return the methods that a study may have rows of, in the order of rows: strategies in the study's order.

    Raises:
        RelayError: the study names a method unknown to this version, or one of a package that is not installed here or
            is another one than the study names.
    """
    optional = {method.key for method in METHODS if method.optional}
    brought = [key for key in study.methods.more if key not in optional and key in plugins.names(plugins.METHOD)]
    for key in study.methods.more:
        if key not in optional and key not in brought:
            known = f"it knows {', '.join(sorted(optional))}" if optional else "it knows none"
            raise RelayError(
                f'"methods.more" of the study names {key}, which this relay lacks ({known});'
                " leave it out, or install a version that has it."
            )
    listed = [part.strategy for part in study.methods.federated]

    def order(method: Method) -> tuple[int, int]:
        return method.section, listed.index(method.strategy) if method.strategy in listed else 0

    methods = [method for method in METHODS if not method.optional or method.key in study.methods.more]
    methods += [_of_package(key, study.methods.packages.get(key, "")) for key in brought]
    return sorted(methods, key=order)


def _of_package(key: str, package: str) -> Method:
    """Return the method of an installed package, after its package's hash was compared.

    Its rows stand in the table beside the others. Validation selects none of them for a hospital, which could not read
    its card later without the package.
    """
    found = plugins.load(plugins.METHOD, key, package)
    if not isinstance(found, Method) or found.key != key or any(method.key == key for method in METHODS):
        raise plugins.not_of_its_kind(plugins.METHOD, key)
    _of_packages[key] = replace(found, optional=True, routed=False, deliverable=False, grows=False)
    return _of_packages[key]


def absence_rule(study: Study, method: Method) -> AbsenceRule:
    """Return the rule for a method's stages while a site is away."""
    rule = study.absence.rule_of(method.absence or method.key)
    return rule if method.skippable else AbsenceRule(wait_hours=rule.wait_hours)


def _unknown(key: str) -> Method:
    return Method(
        key=key,
        title=key,
        name=lambda _, __: key,
        section=Section.AVERAGES,
        rows=lambda _, __: (),
        everybody=True,
    )
