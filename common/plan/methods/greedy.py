"""Greedy routes, which grow hop by hop, always by the source with the best validation Dice at the target."""

from common.plan.methods.method import Method, Section, arrows, rows_found

KEY = "greedy"

METHOD = Method(
    key=KEY,
    title="Growing routes",
    name=lambda route, target: arrows(route, target) if route else f"growing route to {target}",
    line=lambda _, __: "Growing route",
    section=Section.ROUTES,
    rows=lambda given, target: rows_found(given, KEY, target),
    travelling=True,
    routed=True,
    grows=True,
    # With an absent source, the candidates of the next hop would be incomplete.
    skippable=False,
    absence="sequential",
)
