"""The route left by successive halving over all routes to the target; see `common.plan.halving`."""

from common.plan.methods.method import Method, Section, arrows, rows_found

KEY = "halving"

METHOD = Method(
    key=KEY,
    title="Routes by halving",
    name=lambda route, target: arrows(route, target) if route else f"route to {target} by halving",
    line=lambda _, __: "Route by halving",
    section=Section.ROUTES,
    rows=lambda given, target: rows_found(given, KEY, target),
    travelling=True,
    routed=True,
    grows=True,
    # With an absent site, the better half of a rung would be the better half of some routes.
    skippable=False,
    absence="sequential",
)
