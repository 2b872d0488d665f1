"""Count a study's cost before the study runs: `relay study plan`."""

from __future__ import annotations

import functools
import heapq
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from client.data.survey import Survey, survey
from client.site_config import SiteConfig, load_site
from common.config.study import Study
from common.config.values import POOLED
from common.errors import RelayError
from common.fingerprint import format_fingerprint
from common.model.network import check_network, declared_bytes, staying_bytes
from common.plan import Census, Choices, Plan, growing_method, grown, method_of, plan, search_of, steps_to
from common.plan.cost import all_behind, cost_of, depths, planned_steps, steps_of_all_routes
from common.plan.graph import Evaluate, FineTune, Node, way_of
from common.plan.methods.cyclic import epochs_of_laps
from common.plan.methods.method import Given
from common.plan.rounds import COUNTED, batches_per_epoch, longest_in_steps
from common.plan.routes import settings_of
from common.statistics.paired import LEVEL
from common.statistics.power import POWER
from common.text import between, count, duration, listed, short_bytes, whole
from deploy.console import bar, terminal
from deploy.planning.durations import durations
from deploy.planning.federation import load_federation, numbers, sites_of
from deploy.planning.federation_plan import as_values, outlook, outlook_lines
from deploy.planning.power_plan import (
    DEVIATION,
    Patients,
    TargetPower,
    measured_in,
    patients_elsewhere,
    power_lines,
    power_text,
)
from deploy.planning.trial import Speed, measure, measure_n4
from deploy.simulation.simulate import cores

PAPER = {"A": (30, 396), "B": (30, 384), "C": (19, 468)}
"""Patients and slices of each site, from Table I of the paper."""
ALL, TOGETHER = "all", "Together"
"""The names, in JSON and in the printed table, of the line for all methods together, with each stage counted once."""


@dataclass(frozen=True)
class Line:
    """Count the needs of a method's rows; `alone` is the number of trainings if no stage were shared."""

    method: str
    rows: int
    trainings: int
    alone: int
    scorings: int
    gradient_steps: int
    bytes_moved: int
    sequential_steps: int
    """The most gradient steps that follow one another on the way to a row's model."""


@dataclass(frozen=True)
class Estimate:
    """Hold seconds on this machine: in all for training and preparing, and for a step and a prediction; and memory."""

    training: float
    preparing: float
    at_once: int
    step: float
    predict: float
    memory: int
    """Bytes of memory of the largest network's stage."""
    wanted: int
    """The number of stages at once that was asked for; more than `at_once` where the memory does not suffice."""


def study_plan(
    study: Study,
    files: Mapping[str, Path],
    slices: Mapping[str, int],
    *,
    at_once: int,
    trial: bool,
    as_json: bool,
    patients: Mapping[str, int] | None = None,
    sd: float = DEVIATION,
    earlier: Path | None = None,
    federation: Path | None = None,
) -> int:
    """Print the cost of the stages in a study's graph, and the gains that the study could show.

    Args:
        study: the study.
        files: the site files of sites on this machine, whose patients are counted.
        slices: for sites elsewhere, how many slices of all their patients an epoch would train on.
        at_once: the number of stages run at the same time.
        trial: measure this machine, and estimate the hours.
        as_json: print JSON.
        patients: for sites elsewhere, the number of all their usable patients, where known.
        sd: the standard deviation of paired differences where none was measured, in Dice points.
        earlier: the result folder of an earlier study, whose standard deviations are used.
        federation: a file that describes a federation, on which the study is run on paper; the sites' patients and
            slices, and the time, come from this file.

    Returns:
        The exit code, 0.

    Raises:
        RelayError: a site has neither a file nor a number of slices, the earlier results cannot be read, or the
            federation does not fit the study.
    """
    if federation and (files or slices or patients):
        raise RelayError(f"{federation} describes the sites; leave out --site, --slices and --patients.")
    if federation and study.methods.pooled:
        raise RelayError("All data together (methods.pooled) exist in simulation alone; set pooled = false.")
    described = load_federation(federation) if federation else None
    virtual = sites_of(described, study, federation) if described and federation else {}
    if described:
        slices, patients, trial = numbers(virtual, "slices"), numbers(virtual, "patients"), False
    for model in study.networks:
        check_network(model, study.preprocessing.pixels)
    variant = study.variants[0]
    measured = measured_in(earlier)
    sites = {name: load_site(path) for name, path in files.items()}
    surveys = {name: _surveyed(site, variant) for name, site in sites.items()}
    census, assumed = _census(variant, surveys, slices)
    found, choices = _to_the_end(variant, census)
    search = _search(variant, census, choices)
    lines, together = _lines(study, variant, found, census)
    counted = _patients(variant, surveys, patients or {})
    targets = [site for site in study.sites if any(row.target == site for row in found.rows)]
    powers = power_lines(study, targets, counted, sd=sd, measured=measured)
    estimate = _estimate(study, found, census, surveys, sites, files, at_once) if trial else None
    measured_here = functools.cache(lambda network: measure(network, device="auto", at_once=1))
    ahead = outlook(study, census, described, virtual, measured_here) if described else None
    if as_json:
        values = _as_values(study, census, lines, together, estimate, powers, search)
        if described and ahead:
            values["federation"] = as_values(ahead, described)
        print(json.dumps(values, indent=1))
    else:
        _print(study, census, assumed, lines, together, estimate, search)
        print(*power_text(study, powers), sep="\n")
        if described and ahead:
            print(*outlook_lines(ahead, described, adaptive=search is not None), sep="\n")
    return 0


def numbers_of(option: str, given: Sequence[str]) -> dict[str, int]:
    """Read the values of an option that names sites, each "NAME=N".

    Args:
        option: the option, such as --slices.
        given: the values.

    Returns:
        Site name to number.

    Raises:
        RelayError: a value has another form, or a name is given twice.
    """
    numbers: dict[str, int] = {}
    for entry in given:
        name, _, number = entry.partition("=")
        if not name or not number.isdecimal() or not int(number):
            raise RelayError(f'{option} wants NAME=N, such as A=30, and got "{entry}".')
        if name in numbers:
            raise RelayError(f"{option} names {name} twice ({numbers[name]} and {number}); give each site one number.")
        numbers[name] = int(number)
    return numbers


def _surveyed(site: SiteConfig, study: Study) -> Survey:
    with bar(f"Counting the slices of site {site.name}", unit="patients", stream=sys.stderr) as progress:
        return survey(site, study, progress=progress)


def _census(study: Study, surveys: Mapping[str, Survey], slices: Mapping[str, int]) -> tuple[Census, list[str]]:
    """Return the training slices of each site in each fold, and the sites for which the numbers are assumed."""
    census: dict[str, tuple[int, ...]] = {}
    assumed = []
    part = study.split
    for site in study.sites:
        if site in surveys:
            census[site] = surveys[site].train_slices
            continue
        total = slices.get(site) or (PAPER[site][1] if study.paper else 0)
        if not total:
            raise RelayError(
                f"Nothing is known of site {site}; add --site {site}=PATH,"
                f" or --slices {site}=N where its data lie elsewhere."
            )
        assumed.append(site)
        census[site] = (round(total * (1 - part.test_fraction) * (1 - 1 / part.folds)),) * part.folds
    if study.methods.pooled:
        census[POOLED] = tuple(sum(counts) for counts in zip(*census.values(), strict=True))
    return census, assumed


def _search(study: Study, census: Census, choices: Choices) -> dict[str, Any] | None:
    """Return the steps of a study's search for routes, the same for every target but for the names of the sites."""
    search = search_of(study)
    if search is None:
        return None
    steps = steps_to(study, study.sites[0], choices)
    return {
        "hop_by_hop": search.hop_by_hop,
        "steps": [{"routes": len(step.routes), "epochs": step.epochs} for step in steps],
        "gradient_steps_of_all_routes": steps_of_all_routes(study, census),
    }


def _patients(study: Study, surveys: Mapping[str, Survey], elsewhere: Mapping[str, int]) -> dict[str, Patients]:
    """Return the patients of each site where they are known."""
    known = {site: patients for site, (patients, _) in PAPER.items()} if study.paper else {}
    found = {}
    for site in study.sites:
        if site in surveys:
            found[site] = Patients(surveys[site].patients, surveys[site].test_patients)
        elif site in elsewhere or site in known:
            found[site] = patients_elsewhere(elsewhere.get(site) or known[site], study, site)
    return found


def _to_the_end(study: Study, census: Census) -> tuple[Plan, Choices]:
    """Return the plan in which the longest routes are found, where routes are found while the study runs."""
    choices: Choices = {}
    while True:
        found = plan(study, census, choices)
        if not found.growing:
            return found, choices
        choices = grown(study, found.growing, choices, lambda node: float(way_of(node).count("→")))


def _lines(study: Study, variant: Study, found: Plan, census: Census) -> tuple[list[Line], Line]:
    """Return a line for each method and a line for all methods together, counted over all variants."""
    steps = planned_steps(variant, census)
    weight_bytes = sum(declared_bytes(one.model) for one in study.variants)
    norm_bytes = sum(staying_bytes(one.model, "batch-norm") for one in study.variants)
    times = len(study.variants)
    deep = depths(found.nodes, steps=steps)

    def line(method: str, wanted: Sequence[Node], rows: int, alone: int) -> Line:
        cost = cost_of(all_behind(wanted), steps=steps, weight_bytes=weight_bytes, norm_bytes=norm_bytes)
        return Line(
            method=method,
            rows=rows * times,
            trainings=cost.trainings * times,
            alone=alone * times,
            scorings=cost.scorings * times,
            gradient_steps=cost.gradient_steps * times,
            bytes_moved=cost.bytes,
            sequential_steps=max((deep[node] for node in wanted), default=0),
        )

    ends: dict[str, list[list[Node]]] = defaultdict(list)
    for row in found.rows:
        ends[row.method].append([row.test or row.model, row.validation])
    if searched := growing_method(variant):
        ends[searched.key] += [[node] for node in found.tried]
    lines = [
        line(method, [node for end in of_method for node in end], len(of_method), _alone(of_method))
        for method, of_method in ends.items()
    ]
    together = line(ALL, found.nodes, len(found.rows), sum(_alone(of_method) for of_method in ends.values()))
    return lines, together


def _alone(ends: Sequence[Sequence[Node]]) -> int:
    """Return the number of trainings if every row were computed by itself."""
    return sum(isinstance(node, FineTune) and node.trains for end in ends for node in all_behind(end))


def _estimate(
    study: Study,
    found: Plan,
    census: Census,
    surveys: Mapping[str, Survey],
    sites: Mapping[str, SiteConfig],
    files: Mapping[str, Path],
    at_once: int,
) -> Estimate:
    device = next((site.device for site in sites.values()), "auto")
    of_model = {(one.model.architecture, one.model.encoder): one for one in study.variants}
    speeds: list[Speed] = []
    training = 0.0
    with bar("Measuring this machine", unit="networks", stream=sys.stderr) as progress:
        for one in of_model.values():
            speeds.append(measure(one, device=device, at_once=at_once))
            progress(len(speeds), len(of_model))
            training += makespan(
                found,
                durations(one, census, surveys, dict.fromkeys(census, speeds[-1]).__getitem__),
                at_once=speeds[-1].at_once,
            )
    training *= len(study.variants) / len(of_model)
    preparing = 0.0
    for name, path in files.items():
        preparing += measure_n4(path, study.variants[0]) * surveys[name].patients / cores()
    memory, together = max(speed.memory for speed in speeds), min(speed.at_once for speed in speeds)
    return Estimate(training, preparing, together, speeds[0].step, speeds[0].predict, memory, at_once)


def makespan(found: Plan, duration: Callable[[FineTune | Evaluate], float], *, at_once: int) -> float:
    """Simulate the scheduler, and return the seconds until every stage of a graph is done.

    A site works on one stage at a time, at most `at_once` stages run together, and a stage with the longest remaining
    path to the end of the graph goes first.

    Args:
        found: the plan.
        duration: returns the seconds of a stage.
        at_once: the number of stages run at the same time.
    """
    children: dict[Node, list[Node]] = defaultdict(list)
    missing = {}
    for node in found.nodes:
        parents = set(node.parents)
        missing[node] = len(parents)
        for parent in parents:
            children[parent].append(node)
    way: dict[Node, float] = {}
    for node in reversed(found.nodes):
        own = duration(node) if isinstance(node, FineTune | Evaluate) else 0.0
        way[node] = own + max((way[child] for child in children[node]), default=0.0)
    waiting: dict[str, list[tuple[float, int, Node]]] = defaultdict(list)
    running: list[tuple[float, int, Node]] = []
    busy: set[str] = set()
    now, number = 0.0, 0
    free = [node for node in found.nodes if not missing[node]]
    while True:
        while free:
            node = free.pop()
            number += 1
            if isinstance(node, FineTune | Evaluate):
                heapq.heappush(waiting[node.site], (-way[node], number, node))
                continue
            free += _freed(node, children, missing)
        idle = sorted((queue[0], site) for site, queue in waiting.items() if queue and site not in busy)
        for (_, number_of, node), site in idle[: at_once - len(running)]:
            heapq.heappop(waiting[site])
            busy.add(site)
            assert isinstance(node, FineTune | Evaluate)
            heapq.heappush(running, (now + duration(node), number_of, node))
        if not running:
            return now
        now, _, node = heapq.heappop(running)
        assert isinstance(node, FineTune | Evaluate)
        busy.discard(node.site)
        free = _freed(node, children, missing)


def _freed(node: Node, children: Mapping[Node, list[Node]], missing: dict[Node, int]) -> list[Node]:
    freed = []
    for child in children[node]:
        missing[child] -= 1
        if not missing[child]:
            freed.append(child)
    return freed


def _as_values(
    study: Study,
    census: Census,
    lines: list[Line],
    together: Line,
    estimate: Estimate | None,
    powers: list[TargetPower],
    search: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "study": study.name,
        "digest": study.digest,
        "variants": len(study.variants),
        "train_slices": {site: list(counts) for site, counts in census.items()},
        "methods": [asdict(line) for line in lines],
        "together": asdict(together),
        "search": search,
        "estimate": asdict(estimate) if estimate else None,
        "power": {"power": POWER, "level": LEVEL, "targets": [asdict(one) for one in powers]},
    }


def _print(
    study: Study,
    census: Census,
    assumed: list[str],
    lines: list[Line],
    together: Line,
    estimate: Estimate | None,
    search: dict[str, Any] | None,
) -> None:
    head = ("", "rows", "trainings", "if not shared", "scorings", "gradient steps", "in sequence", "to and fro")
    rows = [_cells(line) for line in lines]
    total = _cells(together)
    screen = terminal()
    folds = len(study.split.run)
    networks = len({one.model for one in study.variants})
    print(
        f"{study.name}: sites {', '.join(study.sites)}; {count(folds, 'fold')}, {count(networks, 'network')},"
        f" {count(len(study.pairs_of_seeds), 'repeat')}{_rotations(study)};"
        f" weights of {short_bytes(declared_bytes(study.variants[0].model))}."
    )
    print(f"Hash: {format_fingerprint(study.digest)}.")
    for site, counts in census.items():
        how = " (assumed)" if site in assumed else ""
        slices = between(counts)
        print(f"{'all data' if site == POOLED else site}: {slices} training {study.model.samples} a fold{how}.")
    print()
    if screen is None:
        table = [head, *rows, total]
        widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
        for cells in table:
            first, *rest = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            print("  ".join([cells[0].ljust(len(first)), *rest]))
    else:
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, title in enumerate(head):
            shown.add_column(title, justify="right" if number else "left")
        for row in rows:
            shown.add_row(*row)
        shown.add_section()
        shown.add_row(*total, style="bold")
        screen.print(shown)
    print()
    for text in _lap_text(study, census):
        print(text)
    print(
        f"Equal stages are worked out once: {together.trainings} trainings instead of {together.alone}."
        " What several methods share counts in each of their lines, and once in the last."
    )
    if (turns := len(study.split.turns)) > 1:
        each = count(together.trainings // turns, "training")
        print(
            f"Every patient is tested once: {turns} rotations of {each} each, since other patients train in each. The"
            " rotations share the prepared patients, and the first weights of each training seed; a study that holds"
            f" out one test set takes {each} in all."
        )
    planned = {line.method for line in lines}
    if without := [method_of(key).title for key in study.methods.more if key not in planned]:
        print(f"Without a row in this study, whose sites, folds or routes are too few for it: {listed(without)}.")
    if (settings := len(settings_of(study.variants[0]))) > 1:
        print(
            f"Second and later trainings have {settings} settings; each is trained along the whole way, and each"
            " target's validation patients choose."
        )
    if study.methods.sequential.annealing == "route":
        print(
            "A route has one cosine: its trainings depend on their place and on its length, and are shared with routes"
            " of the same length alone."
        )
    if search:
        print(_search_text(search))
    if estimate:
        print(
            f"About {duration(estimate.training)} of training on this machine, {count(estimate.at_once, 'stage')} at"
            f" once (a step takes {estimate.step:.3g} s, a prediction {1000 * estimate.predict:.3g} ms a"
            f" {'box' if study.model.dimensions == 3 else 'slice'}, measured just now)."
        )
        fewer = (
            f"; {estimate.wanted} at once do not fit into what is free" if estimate.at_once < estimate.wanted else ""
        )
        print(f"A stage takes {short_bytes(estimate.memory)} of memory{fewer}.")
        if estimate.preparing >= 1:
            print(
                f"About {duration(estimate.preparing)} of preparation before it, once for all studies of these"
                " patients."
            )


def _search_text(search: dict[str, Any]) -> str:
    """Return the steps of a search, and what all routes would take, in sentences."""
    if search["hop_by_hop"]:
        text = "Routes grow as long as they gain; counted is the most that they may ask for."
    else:
        first, *others = search["steps"]
        rungs = [f"{count(first['routes'], 'route')} of {count(first['epochs'], 'epoch')} a stage"]
        rungs += [f"{one['routes']} of {one['epochs']}" for one in others]
        text = f"To each target: {', then '.join(rungs)}. Counted are the longest routes of each rung."
    every = search["gradient_steps_of_all_routes"]
    return text if every is None else f"{text} All routes would take {whole(every)} gradient steps."


def _rotations(study: Study) -> str:
    turns = len(study.split.turns)
    return f", {turns} rotations of the test" if turns > 1 else ""


def _lap_text(study: Study, census: Census) -> Iterator[str]:
    """Yield the epochs of the laps to each target, with their gradient steps beside those of its longest route."""
    part = study.methods.cyclic
    if not part.laps or part.epochs:
        return
    fold = study.split.run[0]
    given = Given(study, census, {}, COUNTED)
    an_epoch = sum(batches_per_epoch(census[site][fold], study.training.batch) for site in study.sites)
    for target in study.sites:
        epochs = epochs_of_laps(given, target, fold)
        longest = longest_in_steps(study, census, target, fold)
        yield (
            f"Laps to {target}: {' + '.join(map(str, epochs))} epochs a site, {whole(sum(epochs) * an_epoch)} steps;"
            f" its longest route has {whole(longest)}."
        )


def _cells(line: Line) -> tuple[str, ...]:
    counts = (line.rows, line.trainings, line.alone, line.scorings, line.gradient_steps, line.sequential_steps)
    return (
        TOGETHER if line.method == ALL else method_of(line.method).title,
        *(f"{count:,}".replace(",", "\u202f") for count in counts),
        short_bytes(line.bytes_moved),
    )
