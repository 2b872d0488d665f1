"""The comparison of networks: encoders, and their first weights, by architectures, as in the paper's Table II."""

from __future__ import annotations

from dataclasses import dataclass

from common.plan import method_of
from common.scores import Score
from server.report.paper import ENCODERS, TABLE_2, paper_of
from server.report.wording import ARCHITECTURES, encoder_name, targets
from server.results.schema import Results, Spread


@dataclass(frozen=True)
class NetworkCell:
    """A network's validation Dice, in per cent."""

    mean: float
    """The mean over all folds and repeats."""
    std: float | None
    """The standard deviation over all folds and repeats; None for a single run."""
    runs: int
    """The number of finished folds, over all repeats."""
    paper: tuple[float, float] | None
    """The paper's mean and standard deviation, per cent."""
    best: bool
    """Whether this is the best network of the table."""
    place: float
    """The position of the mean between the table's lowest (0) and highest (1)."""


@dataclass(frozen=True)
class NetworkLine:
    """The networks with the same encoder and first weights."""

    encoder: str
    cells: tuple[NetworkCell | None, ...]


@dataclass(frozen=True)
class Networks:
    """The table of a method at a target."""

    target: str
    method: str
    architectures: tuple[str, ...]
    lines: tuple[NetworkLine, ...]
    paper: bool
    """Whether the table shows the paper's values beside this study's."""
    best: str
    """The network with the best mean, under its name in results.json."""

    @property
    def cells(self) -> list[NetworkCell]:
        """All cells, line by line."""
        return [cell for line in self.lines for cell in line.cells if cell]


def networks(results: Results) -> list[Networks]:
    """Return a table of validation Dice for each target; none for a study of a single network.

    The method is the baseline if the study has the baseline, else the study's first method.
    """
    if len(results.models) < 2:
        return []
    methods = dict.fromkeys(entry.method for entry in results.spread)
    method = next((key for key in methods if method_of(key).baseline), next(iter(methods), ""))
    found = []
    for target in targets(results):
        entries: dict[str, Spread] = {}
        for entry in results.spread:
            if (entry.method, entry.target) == (method, target) and _mean(entry, results.score) is not None:
                entries.setdefault(entry.model, entry)
        if entries:
            found.append(
                _table(entries, target, method, results.score, paper_of(results) == "table-2" and target == "A")
            )
    return found


def best_network(results: Results) -> str:
    """Return the network with the best validation Dice in the mean over the targets, the first among equals."""
    found: dict[str, list[float]] = {model: [] for model in results.models}
    for table in networks(results):
        for line in table.lines:
            for architecture, cell in zip(table.architectures, line.cells, strict=True):
                if cell:
                    found[f"{architecture} {line.encoder}".strip()].append(cell.mean)
    most = max((len(means) for means in found.values()), default=0)
    complete = {model: sum(means) for model, means in found.items() if len(means) == most}
    return max(complete, key=complete.__getitem__, default="")


def judged(results: Results) -> Results:
    """Return the results that the verdicts are about: those of the network that validation selected.

    A study that compares networks by a single method hands nothing on, and is judged as a whole.
    """
    if len(results.models) < 2 or len({row.method for row in results.rows}) < 2:
        return results
    return results.of_model(best_network(results))


def _mean(entry: Spread, score: Score) -> float | None:
    """Return the mean validation Dice, in per cent, by which the study selects."""
    value: float | None = getattr(entry, f"validation_{score.key}_mean")
    return value


def _table(entries: dict[str, Spread], target: str, method: str, score: Score, paper: bool) -> Networks:
    pairs = {model.partition(" ")[::2]: entry for model, entry in entries.items()}
    architectures = sorted({pair[0] for pair in pairs}, key=lambda name: _place(name, tuple(ARCHITECTURES)))
    encoders = sorted({pair[-1] for pair in pairs}, key=lambda name: _place(name, ENCODERS))
    means = {pair: _mean(entry, score) or 0.0 for pair, entry in pairs.items()}
    low, high = min(means.values()), max(means.values())
    best = max(means, key=means.__getitem__)

    def cell(encoder: str, architecture: str) -> NetworkCell | None:
        entry = pairs.get((architecture, encoder))
        if entry is None:
            return None
        mean = means[architecture, encoder]
        return NetworkCell(
            mean=mean,
            std=getattr(entry, f"validation_{score.key}_std"),
            runs=entry.runs,
            paper=TABLE_2.get((encoder.removesuffix(" from imagenet"), architecture)) if paper else None,
            best=(architecture, encoder) == best,
            place=(mean - low) / (high - low) if high > low else 0.5,
        )

    lines = tuple(
        NetworkLine(name, tuple(cell(name, architecture) for architecture in architectures)) for name in encoders
    )
    return Networks(target, method, tuple(architectures), lines, paper, " ".join(best).strip())


def _place(name: str, order: tuple[str, ...]) -> tuple[int, str]:
    """Return the sort key of an architecture or encoder: the paper's order first, then by name."""
    known = name.partition(" from ")[0]
    return (order.index(known) if known in order else len(order)), encoder_name(name)
