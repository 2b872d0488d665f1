"""Killed at any moment and started again, a study runs what is missing and ends as if nothing had been."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.site_config import load_site
from common.config.study import Study, study_toml
from common.errors import RelayError
from server.progress.wording import line_of
from tests.support.hospitals import REPO, forget_stages, run_on_grid, small_study, write_hospitals

pytestmark = pytest.mark.slow

STAGES, LEGS = 13, 8
"""Training at B and A by a route and at both in a round, two legs each; two validations and three tests; at both, the
average's statistics are estimated and the result is tested."""


@dataclass(frozen=True)
class Bench:
    """Two hospitals, a study of theirs, and what a run that nothing disturbed left behind."""

    folder: Path
    sites: dict[str, Path]
    study: Study

    @property
    def undisturbed(self) -> Path:
        return self.folder / "undisturbed"

    def run(self, out: Path) -> list[tuple[str, str]]:
        """Run the study, or what is missing of it; returns each event's kind and line."""
        _, events = run_on_grid(self.study, self.sites, out)
        return [(event.kind, line_of(event)) for event in events]

    def start(self, out: Path, when: str) -> subprocess.Popen[str]:
        named = [f"{name}={path}" for name, path in self.sites.items()]
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.study_process",
                str(self.folder / "study.toml"),
                str(out),
                when,
                *named,
            ],
            cwd=REPO,
            encoding="utf-8",  # the locale is no guide: imaging libraries change it
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a group of its own: it is killed with all its workers, and nothing else is
        )

    def run_in_process(self, out: Path, when: str) -> tuple[int, list[tuple[str, str]], str]:
        process = self.start(out, when)
        told, errors = process.communicate(timeout=600)
        events = [(kind, text) for kind, _, text in (line.partition("\t") for line in told.splitlines())]
        return process.returncode, events, errors


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("hospitals")
    sites = write_hospitals(folder, {"A": 6, "B": 6}, slices=7)
    study = small_study(
        sites=("A", "B"),
        split={"use_folds": 1},
        training={"epochs": 2, "leg_minutes": 0.0},
        methods={
            "sequential": {"routes": (("B", "A"),)},
            "federated": ({"strategy": "fedavg", "rounds": 1, "local_epochs": 2, "then_target": False},),
        },
    )
    (folder / "study.toml").write_text(study_toml(study), encoding="utf-8")
    made = Bench(folder, sites, study)
    events = made.run(made.undisturbed)
    assert kinds(events)["done"] == STAGES
    assert sum(answers(events).values()) == LEGS
    return made


@pytest.fixture(autouse=True)
def fresh(bench: Bench) -> None:
    """The hospitals keep their patients, keys and records of scores, and have no stage's weights."""
    forget_stages(bench.sites, scores=False)


def kinds(events: list[tuple[str, str]]) -> Counter[str]:
    return Counter(kind for kind, _ in events)


def answers(events: list[tuple[str, str]]) -> Counter[str]:
    """How often each epoch of each training was answered. A route and a round may have a stage of one name."""
    return Counter(text.partition("] ")[2] for kind, text in events if kind == "running" and ", epoch " in text)


def ledger(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "ledger").glob("*.json")}


def assert_as_if_nothing_had_been(bench: Bench, out: Path) -> None:
    assert (out / "results.json").read_bytes() == (bench.undisturbed / "results.json").read_bytes()
    assert ledger(out).keys() == ledger(bench.undisturbed).keys()
    weights = {path.name for path in (out / "weights").iterdir()}
    assert weights == {path.name for path in (bench.undisturbed / "weights").iterdir()}


def kill_and_start_again(bench: Bench, out: Path, when: str) -> tuple[Counter[str], Counter[str]]:
    code, first, errors = bench.run_in_process(out, when)
    assert code == -9, errors
    assert not (out / "results.json").exists()
    before = ledger(out)
    second = bench.run(out)
    assert_as_if_nothing_had_been(bench, out)
    after = ledger(out)
    assert before == {name: after[name] for name in before}, "a stage was done twice"
    # The hospitals train no epoch twice either, but for the one that was cut off or not yet told.
    assert sum((answers(first) + answers(second)).values()) <= LEGS + 1
    return kinds(first), kinds(second)


def quick_or_slow(points: list[str], quick: int, seed: int) -> list[object]:
    selected = set(random.Random(seed).sample(points, quick))
    return [pytest.param(point, marks=[] if point in selected else pytest.mark.nightly) for point in points]


def test_a_finished_study_started_again_does_nothing(bench: Bench) -> None:
    before = ledger(bench.undisturbed), (bench.undisturbed / "results.json").read_bytes()
    again = kinds(bench.run(bench.undisturbed))
    assert again["known"] == STAGES
    assert not again["running"] and not again["done"]
    assert (ledger(bench.undisturbed), (bench.undisturbed / "results.json").read_bytes()) == before


@pytest.mark.parametrize("when", quick_or_slow([f"done:{k}" for k in range(1, STAGES + 1)], 1, seed=1))
def test_killed_after_a_stage(bench: Bench, tmp_path: Path, when: str) -> None:
    first, second = kill_and_start_again(bench, tmp_path, when)
    assert first["done"] == int(when[5:])
    assert second["known"] == first["done"]
    assert second["done"] == STAGES - first["done"]


@pytest.mark.parametrize("when", quick_or_slow([f"answer:{k}" for k in range(1, LEGS + 1)], 1, seed=4))
def test_killed_between_two_legs(bench: Bench, tmp_path: Path, when: str) -> None:
    """The site goes on from its own checkpoint, or answers from disk what had not been noted."""
    _, second = kill_and_start_again(bench, tmp_path, when)
    assert second["known"] + second["done"] == STAGES


@pytest.mark.parametrize(
    "when",
    quick_or_slow([f"inside:{k}:{seconds}" for k in range(1, STAGES + 1) for seconds in (0.05, 0.4, 0.9)], 1, seed=2),
)
def test_killed_inside_a_stage(bench: Bench, tmp_path: Path, when: str) -> None:
    first, second = kill_and_start_again(bench, tmp_path, when)
    assert second["known"] + second["done"] == STAGES
    assert second["known"] >= first["done"]


@pytest.mark.parametrize(
    "when",
    quick_or_slow([f"worker:{k}:{seconds}" for k in range(1, STAGES + 1) for seconds in (0.05, 0.5)], 1, seed=3),
)
def test_a_worker_killed_alone_is_replaced(bench: Bench, tmp_path: Path, when: str) -> None:
    """The coordinator asks again; nobody need start anything."""
    code, events, errors = bench.run_in_process(tmp_path, when)
    assert code == 0, errors
    assert kinds(events)["killed"] == 1
    assert_as_if_nothing_had_been(bench, tmp_path)


TRAININGS_AGAIN = {"start": 0, "fine-tune": 2, "average": 2}
"""That it takes to have the weights of a row again: of a route's source and of a round's parts nothing is left."""


def of_a_row(out: Path, kind: str) -> tuple[Path, dict[str, str]]:
    """A record of a kind whose weights are still there at the end."""
    kept = {path.stem for path in (out / "weights").iterdir()}
    records = {path: json.loads(path.read_text(encoding="utf-8")) for path in (out / "ledger").glob("*.json")}
    return next(
        (path, record) for path, record in records.items() if record["kind"] == kind and record["weights"] in kept
    )


def damaged(bench: Bench, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    shutil.copytree(bench.undisturbed, out)
    (out / "results.json").unlink()
    return out


@pytest.mark.parametrize("harm", ["cut off", "empty", "no JSON", "another form"])
def test_a_damaged_record_is_made_again(bench: Bench, tmp_path: Path, harm: str) -> None:
    out = damaged(bench, tmp_path)
    path, _ = of_a_row(out, "fine-tune")
    whole = path.read_bytes()
    path.write_bytes({"cut off": whole[: len(whole) // 2], "empty": b"", "no JSON": b"\0" * 99}.get(harm, b"[1, 2]"))
    assert kinds(bench.run(out))["done"] == TRAININGS_AGAIN["fine-tune"]
    assert path.read_bytes() == whole
    assert_as_if_nothing_had_been(bench, out)


@pytest.mark.parametrize("kind", ["start", "fine-tune", "average"])
@pytest.mark.parametrize("harm", ["missing", "cut off", "one byte changed"])
def test_missing_and_damaged_weights_are_made_again(bench: Bench, tmp_path: Path, kind: str, harm: str) -> None:
    out = damaged(bench, tmp_path)
    _, record = of_a_row(out, kind)
    path = out / "weights" / f"{record['weights']}.safetensors"
    whole = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "cut off":
        path.write_bytes(whole[: len(whole) // 3])
    else:
        path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    assert kinds(bench.run(out))["done"] == TRAININGS_AGAIN[kind]
    assert path.read_bytes() == whole
    assert_as_if_nothing_had_been(bench, out)


def test_what_a_site_keeps_may_be_damaged_too(bench: Bench, tmp_path: Path) -> None:
    """Checkpoints, first weights, finished weights and answers cut off: the stage is done again."""
    code, _, errors = bench.run_in_process(tmp_path, "answer:1")
    assert code == -9, errors
    kept = [
        path
        for site in bench.sites.values()
        for path in (load_site(site).private() / "stages").rglob("*")
        if path.is_file()
    ]
    assert {path.name for path in kept} >= {"checkpoint.pt", "start.safetensors"}
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    bench.run(tmp_path)
    assert_as_if_nothing_had_been(bench, tmp_path)


def test_a_second_coordinator_is_refused_in_a_sentence(bench: Bench, tmp_path: Path) -> None:
    first = bench.start(tmp_path, "hold")
    try:
        assert first.stdout is not None
        assert first.stdout.readline(), "it holds the folder once it says anything"
        with pytest.raises(RelayError, match=f"Another study is writing to {tmp_path}; wait for it"):
            bench.run(tmp_path)
    finally:
        first.kill()
        first.communicate()
    bench.run(tmp_path)  # a killed coordinator's lock holds nobody up
    assert_as_if_nothing_had_been(bench, tmp_path)
