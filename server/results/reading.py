"""Reading of a study's results, with what earlier versions did not write where it can be counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from common.config.study import Study
from common.errors import RelayError
from common.plan import asked_for
from server.results.schema import Results, Row, Stage, read_file

ROUND = re.compile(r", round [0-9]+\b.*$")
"""The end of a round's label, such as "FedAvg, round 4" or "FedAvg, round 1 of 3 epochs"."""


def read_results(folder: Path) -> Results:
    """Read the results of a study from its result folder, of earlier versions too.

    Raises:
        RelayError: the folder holds no results.json, or results.json cannot be read.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise RelayError(f"{folder} holds no results.json: run the study to its end first, or name another folder.")
    results = read_file(path, Results)
    if results.study.get("methods", {}).get("packages"):
        with suppress(RelayError, ValueError):  # a method of a package that is gone is shown by its key
            asked_for(Study.model_validate_json(json.dumps(results.study)))
    return with_rounds(results)


def with_rounds(results: Results) -> Results:
    """Return results whose rows of averages have their number of rounds; of the present version, the results as given.

    A row has the most rounds of all averages of its kind, as a present row has: of all settings that were tried.
    """
    if any(row.rounds is not None for row in (*results.rows, *results.rotation_rows)):
        return results
    stages = {stage.id: stage for stage in results.stages}
    most: dict[str, int] = {}
    for stage in results.stages:
        if kind := _kind(stage):
            most[kind] = max(most.get(kind, 0), sum(_kind(one) == kind for one in _chain(stage.id, stages)))
    if not most:
        return results

    def counted(row: Row) -> Row:
        kinds = [kind for one in _chain(row.stage, stages) if (kind := _kind(one))]
        return row.model_copy(update={"rounds": most[kinds[0]]}) if kinds else row

    return results.model_copy(
        update={name: tuple(map(counted, getattr(results, name))) for name in ("rows", "rotation_rows")}
    )


def _kind(stage: Stage) -> str:
    """Return what a round is an average of: "0 FedAvg" with the number of its variant; empty for another stage."""
    if stage.kind != "average" or not ROUND.search(stage.label):
        return ""
    return f"{stage.id.partition('-')[0]} {ROUND.sub('', stage.label)}"


def _chain(last: str | None, stages: dict[str, Stage]) -> Iterator[Stage]:
    """Yield a stage and those before it, the last first."""
    seen = set()
    while last is not None and last in stages and last not in seen:
        seen.add(last)
        yield stages[last]
        last = stages[last].parent
