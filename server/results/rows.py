"""Conversion of the ledger's records to results.json: a row for each method, route, target and fold."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from common.config.study import Study
from common.model.network import declared_bytes, staying_bytes
from common.plan import (
    PlannedRow,
    growing_method,
    method_of,
    name_of,
    route_found,
    search_of,
    steps_to,
)
from common.plan.cost import Cost, all_behind, behind, cost_of, depths, steps_of_all_routes
from common.plan.graph import (
    Average,
    Best,
    Completed,
    Evaluate,
    FineTune,
    Node,
    Refilled,
    as_scored_at,
    ensemble_in,
    rounds_tried,
    training_in,
    travelled,
    way_of,
)
from common.plan.methods.local_norm import completed_at
from common.plan.planning import candidates_of
from common.plan.routes import every_route, settings_of
from common.plan.selection import Group, group_of, means
from common.plan.values import Step
from common.protocol.messages import Description
from common.scores import COUNTED, OVERLAPS, SCORES, VALIDATED, ZONES_PATIENTS, Score, deciding
from common.statistics.intervals import Repeat, case_interval
from common.statistics.optimism import choice
from server.ledger.ledger import StageRecord
from server.results import schema
from server.results.choices import open_choices
from server.results.handling import handling
from server.results.predictions import predictions_of
from server.results.rotations import chosen, pool
from server.results.schema import Results
from server.results.transfer import backward_transfer, forward_transfer
from server.scheduling.absence import absence_text, absent_from, trained_for, why_not_counted
from server.scheduling.retention import inputs
from server.scheduling.state import RunState, census_of


def results_of(study: Study, runs: Sequence[RunState]) -> Results:
    """Return the results of a study; undisturbed and resumed runs give the same results.

    Dice and IoU are in per cent. Every row lists the sites with a training for this row ("contributed") and the sites
    whose training was skipped ("absent"): a row with absent sites is no headline and enters no mean. A row whose stages
    could not be finished stands under "parked" instead, with the reason.

    Args:
        study: the study with all repeats and networks.
        runs: the run of each variant of the study, in their order.
    """
    parts = [_Part(run, number, name) for number, (run, name) in enumerate(zip(runs, _names(runs), strict=True))]
    rows = [row for part in parts for row in part.rows()]
    turns, score = len(study.split.turns), deciding(study.training.slices)
    return Results(
        relay=importlib.metadata.version("prostate-relay"),
        study=study.model_dump(mode="json"),
        synthetic=study.synthetic,
        versions={
            "flwr": importlib.metadata.version("flwr"),
            "torch": importlib.metadata.version("torch"),
            "segmentation-models-pytorch": importlib.metadata.version("segmentation-models-pytorch"),
            "Python": platform.python_version(),
        },
        sites=tuple(_site(name, runs[0].descriptions[name]) for name in study.sites),
        choices=tuple(open_choices(study, runs[0].plan)),
        handling=tuple(handling(runs[0].study, runs[0].plan)),
        rows=tuple(pool(rows, rotations=turns, score=score) if turns > 1 else rows),
        chosen=tuple(chosen(rows, rotations=turns, score=score) if turns > 1 else ()),
        rotation_rows=tuple(rows if turns > 1 else ()),
        route_choices=tuple(_choices(rows, score)),
        spread=tuple(_spread(rows)),
        budgets=tuple(_budgets(parts)),
        forgetting=tuple(entry for part in parts for entry in part.forgetting()),
        grown=tuple(entry for part in parts for entry in part.grown()),
        predictions=tuple(entry for part in parts for entry in predictions_of(part.run, part.labels)),
        stages=tuple(stage for part in parts for stage in part.stages()),
        parked=tuple(entry for part in parts for entry in part.parked()),
    )


def write_json(value: Any) -> bytes:
    """Return a value as JSON; equal values give equal bytes."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _names(runs: Sequence[RunState]) -> list[str]:
    """Return the name of each run's network: "Unet resnet18"; with its start where the study compares starts."""
    models = [run.study.model for run in runs]
    several = len({model.encoder_weights for model in models if model.encoder}) > 1
    starts = [f" from {model.encoder_weights}" if several and model.encoder else "" for model in models]
    names = [f"{model.architecture} {model.encoder}{start}" for model, start in zip(models, starts, strict=True)]
    return [name.strip() for name in names]


class _Part:
    """The findings of a single variant of the study."""

    def __init__(self, run: RunState, number: int, network: str) -> None:
        """Collect the finished rows, and mark the selected rows and the headlines.

        Args:
            run: the run of the variant.
            number: the variant's number, counted from 0.
            network: the name of the variant's network.
        """
        self.run, self.number = run, number
        self.weight_bytes = declared_bytes(run.study.model)
        self.depths = depths(run.plan.nodes, steps=self._steps, winner=run.winner)
        self.norm_bytes = staying_bytes(run.study.model, "batch-norm")
        self.labels: dict[str, Any] = {
            "variant": number,
            "seed": run.study.seed,
            "split_seed": run.study.split.seed,
            "rotation": run.study.split.rotation,
            "model": network,
        }
        done = [row for row in run.plan.rows if {row.test or row.validation, row.validation} <= run.records.keys()]
        self.not_counted = {row: why for row in done if (why := why_not_counted(row, run.study, run))}
        self.finished = [row for row in done if row not in self.not_counted]
        self.absent = {row: absent_from(row.model, run.skipped) for row in self.finished}
        self.selected = set(_selected(run, self.finished))
        self._choices_too()
        self.headline = set(
            _headline(run, [row for row in self.finished if row in self.selected and not self.absent[row]])
        )

    def _choices_too(self) -> None:
        """Add the absent sites of all folds to each selected row, since the selection compared these folds."""
        if not self.run.skipped:
            return
        for selected in self.selected:
            folds = [row for row in self.finished if group_of(row) == group_of(selected)]
            self.absent[selected] = tuple(sorted({site for row in folds for site in self.absent[row]}))

    def rows(self) -> Iterator[schema.Row]:
        """Yield the finished rows."""
        for row in self.finished:
            yield self._row(row)

    def _row(self, row: PlannedRow) -> schema.Row:
        run = self.run
        trained = trained_for(row.model, run)
        cost = self.cost([*trained, *([row.test] if row.test else [])])
        return schema.Row(
            **self.labels,
            method=row.method,
            label=_label(row, run),
            route=row.route,
            target=row.target,
            share=row.share,
            rotations=None,
            fold=row.fold,
            selected=row in self.selected,
            headline=row in self.headline,
            **self._validated(run.records[row.validation]),
            **(self._scores(run.records[row.test]) if row.test else {}),
            gradient_steps=cost.gradient_steps,
            sequential_steps=self.depths[row.model],
            rounds=rounds_tried(row.model) or None,
            bytes_moved=cost.bytes,
            weights=run.records[row.model].weights,
            members=run.records[row.model].parents if ensemble_in(row.model) else (),
            contributed=tuple(sorted({node.site for node in trained if node.trains})),
            absent=self.absent[row],
            stage=None if ensemble_in(row.model) else _stage_id(self.number, _trained_by(run, row.model)),
        )

    def _validated(self, record: StageRecord) -> dict[str, Any]:
        """Return the validation scores of a row, by field."""
        cases = record.cases
        return {
            **{f"validation_{score.key}": _per_cent(record.value(score)) for score in VALIDATED},
            "validation_case_dice": _cases(record, cases.dices) if cases.numbers else None,
            "validation_case_dice_volume": _cases(record, cases.volume_dices) if cases.numbers else None,
            "validation_case_slices": dict(zip(map(str, cases.numbers), cases.slices, strict=True)) or None,
        }

    def _scores(self, test: StageRecord) -> dict[str, Any]:
        """Return the test scores of a row, by field."""
        counted: dict[str, Any] = {}
        for name, scores in COUNTED.items():
            if name == ZONES_PATIENTS and not self.run.study.model.segments.zones:
                continue
            patients: int = getattr(test, name)
            counted |= {score.key: _shown(test, score) if patients else None for score in scores} | {name: patients}
        return {
            **{score.key: _shown(test, score) for score in OVERLAPS},
            **counted,
            "false_slices": test.false_slices,
            "empty_slices": test.empty_slices,
            "cleaned": test.cleaned,
            "below_floor": test.below_floor,
            "ci95": _interval(test, self.run.score),
            "patients": test.patients,
            "slices": test.slices,
            "case_dice": _cases(test, test.cases.dices) if test.cases.numbers else None,
            "case_dice_volume": _cases(test, test.cases.volume_dices) if test.cases.numbers else None,
            "case_slices": dict(zip(map(str, test.cases.numbers), test.cases.slices, strict=True)) or None,
        }

    def _steps(self, node: FineTune) -> int:
        """Return the gradient steps that a training has made so far as the run knows."""
        return self.run.records[node].gradient_steps if node in self.run.records else 0

    def cost(self, nodes: Iterable[Node]) -> Cost:
        """Return the real cost of some nodes."""
        return cost_of(
            nodes,
            steps=lambda node: self.run.records[node].gradient_steps,
            weight_bytes=self.weight_bytes,
            norm_bytes=self.norm_bytes,
        )

    def needed(self, method: str) -> list[Node]:
        """Return every finished stage behind a method's rows: all folds, rounds, routes and candidates."""
        rows = [row for row in self.run.plan.rows if row.method == method]
        wanted: list[Node] = [node for row in rows for node in (row.test or row.model, row.validation)]
        if method_of(method).grows:
            wanted += self.run.plan.tried
        return [node for node in all_behind(wanted) if self._is_done(node)]

    def everything(self) -> list[Node]:
        """Return every finished stage."""
        return [node for node in self.run.plan.nodes if self._is_done(node)]

    def _is_done(self, node: Node) -> bool:
        return node in self.run.records and node not in self.run.skipped

    def forgetting(self) -> Iterator[schema.Forgetting]:
        """Yield, for every selected route, each site's test Dice of the model after every hop."""
        if not self.run.study.methods.forgetting:
            return  # otherwise rows of other methods would fill some cells by chance
        alone = self._alone()
        for row in self.finished:
            if not method_of(row.method).travelling or row not in self.selected or self.absent[row]:
                continue
            way = [node for node in behind(row.model, self.run.winner) if isinstance(node, FineTune)][::-1]
            after = tuple(schema.MeasuredHop(site=node.site, dice=self._everywhere(node)) for node in way)
            if all(hop.dice for hop in after):
                yield schema.Forgetting(
                    **self.labels,
                    method=row.method,
                    route=row.route,
                    target=row.target,
                    fold=row.fold,
                    headline=row in self.headline,
                    after=after,
                    alone={site: alone[site] for site in dict.fromkeys(row.route) if site in alone},
                    backward_transfer=backward_transfer(after),
                    forward_transfer=forward_transfer(after, alone),
                )

    def _alone(self) -> dict[str, float]:
        """Return the test Dice of each site's own model, trained alone for one stage, in per cent."""
        own = (row for row in self.selected if method_of(row.method).baseline and not self.absent[row])
        return {row.target: _per_cent(self.run.records[row.test].value(self.run.score)) for row in own if row.test}

    def _everywhere(self, node: FineTune) -> dict[str, float | None]:
        """Return a model's test Dice by site, in per cent."""
        scores: dict[str, float | None] = {}
        for site in self.run.study.sites:
            record = self.run.records.get(Evaluate(site, node.fold, "test", as_scored_at(site, node)))
            if record is not None:
                scores[site] = _per_cent(record.value(self.run.score))
        return scores

    def grown(self) -> Iterator[schema.Grown]:
        """Yield, for every target, the route found in the course of the study, and what was tried on the way."""
        run, study = self.run, self.run.study
        search = search_of(study)
        for target in study.sites if search else ():
            assert search is not None
            ends = ((node, training_in(node)) for node in run.plan.tried)
            tried = all_behind(node for node, training in ends if training and training.site == target)
            selected = run.choices.get(target, ())
            yield schema.Grown(
                **self.labels,
                target=target,
                # Of a route that grows hop by hop, the sources selected so far are worth telling.
                route=route_found(study, target, run.choices) or (selected if search.hop_by_hop else ()),
                trainings=sum(isinstance(node, FineTune) for node in tried),
                trainings_of_all_routes=_trainings_of(study, target) * len(study.split.run),
                steps=tuple(self._step(step) for step in steps_to(study, target, run.choices)),
            )

    def _step(self, step: Step) -> schema.SearchStep:
        """Return a step of a search, with the mean validation Dice by which it was decided."""
        tried = []
        for candidate in candidates_of(self.run.study, step):
            records = [self.run.records[model] for model in candidate.models if self._is_done(model)]
            dices = [record.value(self.run.score) for record in records]
            complete = len(dices) == len(candidate.models)
            tried.append(
                schema.Tried(
                    route=candidate.route,
                    validation_dice=_per_cent(statistics.fmean(dices)) if complete else None,
                    goes_on=None if step.decided is None else candidate.route in step.decided,
                )
            )
        return schema.SearchStep(epochs=step.epochs, tried=tuple(tried))

    def stages(self) -> Iterator[schema.Stage]:
        """Yield the finished trainings, averages, and re-estimates of averages."""
        for node in self.run.plan.nodes:
            if isinstance(node, FineTune) and self._is_done(node):
                yield self._stage(node)
            elif isinstance(node, Average) and node in self.run.records:
                yield self._round(node)

    def _stage(self, node: FineTune) -> schema.Stage:
        record = self.run.records[node]
        epochs = zip(record.learning_rates, record.losses, record.dices, strict=True)
        first = node.schedule.first + 1
        dice = _per_cent(record.value(self.run.score))
        return schema.Stage(
            id=_stage_id(self.number, node),
            kind="fine-tune" if node.trains else "re-estimate",
            site=node.site,
            fold=node.fold,
            label=way_of(node),
            parent=self._parent(node.parent),
            epochs=tuple(
                schema.Epoch(epoch=epoch, lr=rate, loss=loss, dice=_per_cent(dice))
                for epoch, (rate, loss, dice) in enumerate(epochs, start=first)
            ),
            kept_epoch=first + record.kept_epoch - 1 if node.trains else None,
            gradient_steps=record.gradient_steps,
            bytes_moved=self.cost([node]).bytes,
            validation={} if node.trains else {node.site: dice},
            validation_dice=dice,
            weights=record.weights,
        )

    def _round(self, node: Average) -> schema.Stage:
        """Return an average with its Dice on every site's validation patients, and the mean over sites."""
        scores: dict[str, float] = {}
        for site in self.run.study.sites:
            scored = completed_at(site, node) if node.local else node
            record = self.run.records.get(Evaluate(site, node.fold, "validation", scored))
            if record is not None:
                scores[site] = _per_cent(record.value(self.run.score))
        parts = [part for part in node.parts if self._is_done(part)]
        cost = self.cost(parts)
        return schema.Stage(
            id=_stage_id(self.number, node),
            kind="average",
            site="",
            fold=node.fold,
            label=way_of(node),
            parent=self._parent(node.parts[0].parent),
            epochs=(),
            gradient_steps=cost.gradient_steps,
            bytes_moved=cost.bytes,
            contributed=tuple(sorted(part.site for part in parts)),
            validation={**scores},
            validation_dice=statistics.fmean(scores.values()) if scores else None,
            weights=self.run.records[node].weights,
        )

    def _parent(self, parent: Node) -> str | None:
        """Return the `id` of the stage that made some weights; None for the first weights."""
        while isinstance(parent, Best | Refilled) or parent in self.run.skipped:
            parent = self.run.winner(parent) if isinstance(parent, Best) else inputs(parent)[0]
        return _stage_id(self.number, parent) if isinstance(parent, FineTune | Average) else None

    def parked(self) -> Iterator[schema.ParkedRow]:
        """Yield the unfinished rows, the rows not counted, and the routes that are not found yet."""
        run = self.run
        for row in run.plan.rows:
            reason = (
                run.parked.get(row.test or row.model) or run.parked.get(row.validation) or self.not_counted.get(row)
            )
            if reason:
                yield schema.ParkedRow(
                    **self.labels,
                    method=row.method,
                    label=name_of(row),
                    target=row.target,
                    fold=row.fold,
                    reason=reason,
                )
        searched = growing_method(run.study)
        for target, candidates in run.plan.growing.items() if searched else ():
            assert searched is not None
            models = [node for candidate in candidates for node in candidate.models]
            stuck = [
                why for node in models if (why := run.parked.get(node) or absence_text(absent_from(node, run.skipped)))
            ]
            for fold in run.study.split.run:
                yield schema.ParkedRow(
                    **self.labels,
                    method=searched.key,
                    label=searched.name((), target),
                    target=target,
                    fold=fold,
                    reason=stuck[0] if stuck else "its next step is not decided yet",
                )


def _stage_id(variant: int, node: Node) -> str:
    """Return a stage's name in results.json, with the variant's number, since variants have the same nodes."""
    return f"{variant}-{node.id}"


def _label(row: PlannedRow, run: RunState) -> str:
    """Return a row's name for people; of folds together, with the route that was chosen."""
    method = method_of(row.method)
    if not method.of_selected_route:
        return name_of(row)
    model = run.winner(row.model) if isinstance(row.model, Best) else row.model
    return method.name(travelled(model), row.target)


def _selected(run: RunState, rows: list[PlannedRow]) -> Iterator[PlannedRow]:
    """Yield, for each method, route and target, the fold with the best validation Dice at the target.

    Nothing is selected without all folds finished: the best of some folds is not the best of all.
    """
    groups: dict[Group, list[PlannedRow]] = defaultdict(list)
    for row in rows:
        groups[group_of(row)].append(row)
    planned = Counter(map(group_of, run.plan.rows))
    for key, group in groups.items():
        if len(group) == planned[key]:
            yield max(group, key=lambda row: (run.records[row.validation].value(run.score), -row.fold))


def _headline(run: RunState, rows: list[PlannedRow]) -> Iterator[PlannedRow]:
    """Yield, for each target, the route with the best mean validation Dice over its folds; test scores play no part.

    So for each share of the target's patients too. A target with an unfinished route has no headline. A route found in
    the course of the study is the headline.
    """
    groups: dict[tuple[str, float | None], list[PlannedRow]] = defaultdict(list)
    for row in rows:
        if method_of(row.method).routed or method_of(row.method).of_share:
            groups[row.target, row.share].append(row)
    planned = {group_of(row) for row in run.plan.rows if method_of(row.method).routed or method_of(row.method).of_share}
    for (target, share), group in groups.items():
        if len(group) == sum((of, part) == (target, share) for _, _, of, part in planned):
            folds = [row for row in run.plan.rows if row.target == target and row.validation in run.records]
            by_group = means(folds, [run.records[row.validation].value(run.score) for row in folds])
            yield max(group, key=lambda row: by_group[group_of(row)])


def _site(name: str, description: Description) -> schema.Site:
    return schema.Site(
        name=name,
        patients=description.patients,
        test_patients=description.test_patients,
        left_out=description.left_out,
        slices=description.slices,
        test_slices=description.test_slices,
        below=description.below,
        cut_patients=description.cut_patients,
        **({} if description.zoned_patients is None else {"zoned_patients": description.zoned_patients}),
        ceiling=_per_cent(description.ceiling),
        train_slices=description.train_slices,
        train_patients=description.train_patients,
        validation_patients=description.validation_patients,
        torch=description.torch,
        device=description.device,
        precision=description.precision,
    )


def _choices(rows: Sequence[schema.Row], score: Score) -> Iterator[schema.RouteChoice]:
    """Yield the choice of each target's route, and what other validation patients would have chosen.

    A target without a headline has no choice; neither has one whose route grew, since its hops were chosen one by one.
    """
    groups: dict[tuple[int, str], dict[tuple[str, tuple[str, ...]], list[schema.Row]]] = defaultdict(dict)
    for row in rows:
        if row.kind.routed and not row.kind.grows:
            groups[row.variant, row.target].setdefault((row.method, row.route), []).append(row)
    for (_, target), routes in groups.items():
        headline = next((row for folds in routes.values() for row in folds if row.headline), None)
        cases = [[row.cases(score, tested=False) for row in folds] for folds in routes.values()]
        if headline is None or any(found is None for folds in cases for found in folds):
            continue
        # Every value is a number: `_cases` writes no other.
        found = choice([[_as_repeat(one) for one in folds if one] for folds in cases])
        if found is not None:
            yield schema.RouteChoice(
                variant=headline.variant,
                seed=headline.seed,
                split_seed=headline.split_seed,
                rotation=headline.rotation,
                model=headline.model,
                target=target,
                route=headline.route,
                patients=found.patients,
                another=_per_cent(1 - found.shares[list(routes).index((headline.method, headline.route))]),
                optimism=round(found.optimism, 6),
                chosen={
                    folds[0].label: _per_cent(share) for folds, share in zip(routes.values(), found.shares, strict=True)
                },
            )


def _as_repeat(cases: dict[str, tuple[float | None, int]]) -> Repeat:
    return {case: (value, weight) for case, (value, weight) in cases.items() if value is not None}


SPREAD = (*(score.key for score in SCORES), *(f"validation_{score.key}" for score in VALIDATED))
"""The keys of a row for which `spread` has mean and standard deviation."""


def _spread(rows: list[schema.Row]) -> Iterator[schema.Spread]:
    """Yield the mean and standard deviation over all folds and repeats of a method, network, route and target.

    Rows with absent sites are left out.
    """
    groups: dict[tuple[str, str, tuple[str, ...], str], list[schema.Row]] = defaultdict(list)
    for row in rows:
        if row.absent or row.share is not None:
            continue
        # A grown route may differ between repeats, so its spread is over all rows of the method.
        route = () if row.kind.grows else row.route
        groups[row.method, row.model, route, row.target].append(row)
    for (method, model, route, target), group in groups.items():
        moments: dict[str, float | None] = {}
        for name in SPREAD:
            values = [value for row in group if (value := getattr(row, name)) is not None]
            if values:
                moments[f"{name}_mean"] = round(statistics.fmean(values), 6)
                moments[f"{name}_std"] = round(statistics.stdev(values), 6) if len(values) > 1 else None
        yield schema.Spread(method=method, model=model, route=route, target=target, runs=len(group), **moments)


def _budgets(parts: list[_Part]) -> Iterator[schema.Budget]:
    """Yield the cost of all rows of each method, and of the whole study, with all folds and discarded routes."""
    methods = dict.fromkeys(row.method for part in parts for row in part.run.plan.rows)
    if parts and (searched := growing_method(parts[0].run.study)):
        methods[searched.key] = None
    for method in (*methods, "all"):
        costs = [part.cost(part.everything() if method == "all" else part.needed(method)) for part in parts]
        yield schema.Budget(
            method=method,
            trainings=sum(cost.trainings for cost in costs),
            scorings=sum(cost.scorings for cost in costs),
            gradient_steps=sum(cost.gradient_steps for cost in costs),
            bytes_moved=sum(cost.bytes for cost in costs),
            **(_of_all_routes(parts) if method_of(method).grows else {}),
        )


def _trainings_of(study: Study, target: str) -> int:
    """Return the number of trainings, for one fold, of all routes to a target, with all settings tried."""
    whole = study.methods.sequential.annealing == "route"
    parts = {
        (route[:length], len(route) if whole else 0)
        for route in every_route(study, target)
        for length in range(1, len(route) + 1)
    }
    return sum(len(settings_of(study)) if len(part) > 1 else 1 for part, _ in parts)


def _of_all_routes(parts: list[_Part]) -> dict[str, int | None]:
    """Return what all routes of the permitted lengths would have taken in all variants, by field."""
    steps = [steps_of_all_routes(part.run.study, census_of(part.run.descriptions)) for part in parts]
    known = [count for count in steps if count is not None]
    return {"gradient_steps_of_all_routes": sum(known) if len(known) == len(steps) else None}


def _trained_by(run: RunState, model: Node) -> Node:
    """Return the training or average that made some weights."""
    while isinstance(model, Best | Completed | Refilled) or model in run.skipped:
        model = run.winner(model) if isinstance(model, Best) else inputs(model)[0]
    return model


def _interval(record: StageRecord, score: Score) -> tuple[float, float] | None:
    """Return the confidence interval of a record's Dice, in per cent; None without scores of single patients."""
    cases = record.cases
    if not cases.numbers:
        return None
    numbers = [str(number) for number in cases.numbers]
    values, weights = (
        (cases.dices, cases.slices) if score.over == "slices" else (cases.volume_dices, (1,) * len(numbers))
    )
    found = case_interval(
        dict(zip(numbers, values, strict=True)), dict(zip(numbers, weights, strict=True)), within=(0.0, 1.0)
    )
    return None if found is None else (_per_cent(found[0]), _per_cent(found[1]))


def _cases(record: StageRecord, values: tuple[float, ...]) -> dict[str, float]:
    """Return the patients' scores in per cent, by case number."""
    return {str(number): _per_cent(value) for number, value in zip(record.cases.numbers, values, strict=True)}


def _shown(record: StageRecord, score: Score) -> float:
    """Return a score in the unit in which it is shown."""
    return round(score.shown(record.value(score)), 6 if score.unit == "%" else 4)


def _per_cent(share: float) -> float:
    return round(100 * share, 6)
