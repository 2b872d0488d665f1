"""Routes and laps whose batch-norm tensors stay at the sites, and are put back there at a second visit.

Scale, shift, statistics and count of batches of every batch-norm layer never leave a site: a hop's weights travel
without them. At a site's first visit they are those of the study's first weights, which the coordinator adds. The
target scores the last hop's weights with its own tensors of that hop.

Sources: MS-Net's domain-specific batch normalisation (Liu et al., IEEE TMI 2020); FedBN (Li et al., ICLR 2021).
"""

from collections.abc import Iterator

from common.plan.methods.cyclic import line_of_laps, rows_of_laps
from common.plan.methods.method import Given, Method, Section
from common.plan.methods.route_variant import route_variant
from common.plan.routes import local_settings_of
from common.plan.values import PlannedRow

SHORT = "own batch norm"

OF_ROUTES = route_variant(key="sequential-local", title=SHORT, short=SHORT, settings=local_settings_of)


def _of_laps(given: Given, target: str) -> Iterator[PlannedRow]:
    yield from rows_of_laps(given, OF_LAPS.key, target, local_settings_of(given.study))


OF_LAPS = Method(
    key="cyclic-local",
    title=f"Laps, {SHORT}",
    name=lambda route, target: f"{line_of_laps(route, target)} to {target}, {SHORT}",
    line=lambda route, target: f"{line_of_laps(route, target)}, {SHORT}",
    section=Section.LAPS,
    rows=_of_laps,
    travelling=True,
    skippable=True,
    absence="cyclic",
)
