"""From the ledger's records to results.json: a row a method, route, target and fold."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from common.messages import Description
from common.model import declared_bytes
from common.plan import Average, Best, Evaluate, FineTune, Node, Row, routes_to, way_of
from common.seeds import seed_of
from common.study import POOLED
from server.choices import open_choices
from server.ledger import StageRecord
from server.scheduler import Run
from server.statistics import bootstrap_ci


def results_of(run: Run) -> dict[str, Any]:
    """Everything that was found, as results.json holds it; the same for every undisturbed or resumed run.

    Dice and IoU are in per cent. A row whose stages could not be finished is not among the rows but under
    "parked", with the reason.
    """
    study = run.study
    weight_bytes = declared_bytes(study.model)
    finished = [row for row in run.plan.rows if row.test in run.records and row.validation in run.records]
    chosen = set(_chosen(run, finished))
    headline = set(_headline(run, [row for row in finished if row in chosen]))
    return {
        "relay": importlib.metadata.version("prostate-relay"),
        "study": study.model_dump(mode="json"),
        "synthetic": study.synthetic,
        "versions": {
            "flwr": importlib.metadata.version("flwr"),
            "torch": importlib.metadata.version("torch"),
            "segmentation-models-pytorch": importlib.metadata.version("segmentation-models-pytorch"),
            "Python": platform.python_version(),
        },
        "sites": [_site(name, run.descriptions[name]) for name in study.sites],
        "choices": [list(choice) for choice in open_choices(study)],
        "rows": [
            _row(run, row, weight_bytes=weight_bytes, chosen=row in chosen, headline=row in headline)
            for row in finished
        ],
        "stages": [
            _stage(run, node) if isinstance(node, FineTune) else _round(run, node)
            for node in run.plan.nodes
            if isinstance(node, FineTune | Average) and node in run.records
        ],
        "parked": [
            {"method": row.method, "label": label_of(row), "target": row.target, "fold": row.fold, "reason": reason}
            for row in run.plan.rows
            if (reason := run.parked.get(row.test) or run.parked.get(row.validation))
        ],
    }


def label_of(row: Row) -> str:
    """The row's way in words."""
    if row.method in ("baseline", "longer", "sequential", "unadapted"):
        return " → ".join(row.route)
    return "all data" if row.method == POOLED else row.method


def write_json(value: Any) -> bytes:
    """JSON that is the same for the same value."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _chosen(run: Run, rows: list[Row]) -> Iterator[Row]:
    """Of each method, route and target the fold with the best validation Dice at the target.

    None where a fold could not be finished: the best of some is not the best of all.
    """
    groups: dict[tuple[str, tuple[str, ...], str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.route, row.target].append(row)
    folds = len(run.study.split.run)
    for group in groups.values():
        if len(group) == folds:
            yield max(group, key=lambda row: (run.records[row.validation].dice, -row.fold))


def _headline(run: Run, rows: list[Row]) -> Iterator[Row]:
    """Of each target the route with the best validation Dice; no test score is looked at.

    None where a route could not be finished.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.method == "sequential":
            groups[row.target].append(row)
    for target, group in groups.items():
        if len(group) == len(routes_to(run.study, target)):
            yield max(group, key=lambda row: run.records[row.validation].dice)


def _site(name: str, description: Description) -> dict[str, Any]:
    return {
        "name": name,
        "patients": description.patients,
        "test_patients": description.test_patients,
        "left_out": description.left_out,
        "slices": description.slices,
        "test_slices": description.test_slices,
        "train_slices": list(description.train_slices),
        "train_patients": list(description.train_patients),
        "validation_patients": list(description.validation_patients),
        "torch": description.torch,
        "device": description.device,
        "precision": description.precision,
    }


def _row(run: Run, row: Row, *, weight_bytes: int, chosen: bool, headline: bool) -> dict[str, Any]:
    test = run.records[row.test]
    chain = _chain(run, row.model)
    trained = [run.records[node] for node in chain]
    return {
        "method": row.method,
        "label": label_of(row),
        "route": list(row.route),
        "target": row.target,
        "fold": row.fold,
        "chosen": chosen,
        "headline": headline,
        "validation_dice": _per_cent(run.records[row.validation].dice),
        "dice": _per_cent(test.dice),
        "iou": _per_cent(test.iou),
        "dice_volume": _per_cent(test.dice_volume),
        "ci95": _interval(run, test),
        "patients": test.patients,
        "slices": test.slices,
        "case_dice": _cases(test, test.cases.dices) if test.cases.numbers else None,
        "case_slices": dict(zip(map(str, test.cases.numbers), test.cases.slices, strict=True)) or None,
        "gradient_steps": sum(record.gradient_steps for record in trained),
        # Each training receives its parent's weights and sends its own; the target receives the last to score.
        "bytes_moved": weight_bytes * (2 * len(chain) + 1),
        "weights": run.digests[row.model],
        "contributed": sorted({node.site for node in chain}),
        "stage": _trained_by(run, row.model),
    }


def _chain(run: Run, model: Node) -> list[FineTune]:
    """Every training behind weights, once; of a choice, the candidate that was chosen."""
    seen: dict[Node, None] = {}
    stack = [model]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen[node] = None
        stack += [run.winner(node)] if isinstance(node, Best) else node.parents
    return [node for node in seen if isinstance(node, FineTune)]


def _trained_by(run: Run, model: Node) -> str:
    while isinstance(model, Best):
        model = run.winner(model)
    return model.id


def _stage(run: Run, node: FineTune) -> dict[str, Any]:
    record = run.records[node]
    epochs = zip(record.learning_rates, record.losses, record.dices, strict=True)
    first = node.schedule.first + 1
    return {
        "id": node.id,
        "kind": "fine-tune",
        "site": node.site,
        "fold": node.fold,
        "label": way_of(node),
        "parent": _parent_stage(run, node.parent),
        "epochs": [
            {"epoch": epoch, "lr": rate, "loss": loss, "dice": _per_cent(dice)}
            for epoch, (rate, loss, dice) in enumerate(epochs, start=first)
        ],
        "kept_epoch": first + record.kept_epoch - 1,
        "gradient_steps": record.gradient_steps,
        "validation_dice": _per_cent(record.dice),
        "weights": record.weights,
    }


def _round(run: Run, node: Average) -> dict[str, Any]:
    """An average, with the mean over the sites of its Dice on their validation patients."""
    scores = [
        run.records[child].dice
        for child in run.plan.nodes
        if isinstance(child, Evaluate)
        and child.weights == node
        and child.split == "validation"
        and child in run.records
    ]
    return {
        "id": node.id,
        "kind": "average",
        "site": "",
        "fold": node.fold,
        "label": way_of(node),
        "parent": _parent_stage(run, node.parts[0].parent),
        "epochs": [],
        "gradient_steps": sum(run.records[part].gradient_steps for part in node.parts),
        "validation_dice": _per_cent(sum(scores) / len(scores)) if scores else None,
        "weights": run.digests[node],
    }


def _parent_stage(run: Run, parent: Node) -> str | None:
    while isinstance(parent, Best):
        parent = run.winner(parent)
    return parent.id if isinstance(parent, FineTune | Average) else None


def _interval(run: Run, record: StageRecord) -> list[float] | None:
    cases = record.cases
    if not cases.numbers:
        return None
    numbers = [str(number) for number in cases.numbers]
    found = bootstrap_ci(
        dict(zip(numbers, cases.dices, strict=True)),
        dict(zip(numbers, cases.slices, strict=True)),
        seed=seed_of(run.study.seed, "interval", record.site),
    )
    return None if found is None else [_per_cent(found[0]), _per_cent(found[1])]


def _cases(record: StageRecord, values: tuple[float, ...]) -> dict[str, float]:
    return {str(number): _per_cent(value) for number, value in zip(record.cases.numbers, values, strict=True)}


def _per_cent(share: float) -> float:
    return round(100 * share, 6)
