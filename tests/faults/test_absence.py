"""A site that leaves in the middle of a study: what the study says is done, and nothing is counted for more than it is.

The oracle of what was skipped is another study, in which the site was never asked for: weights have digests, and what
ran equal is equal.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import client.stages.describe
import client.stages.fine_tune
import server.scheduling.averaging
from client.governance.approval import approve
from common.config.study import Study
from tests.faults.benches import bench
from tests.faults.history import Bench, History, world
from tests.faults.plans import Fault, planned_faults

pytestmark = pytest.mark.usefixtures("tiny")
FEDAVG = ({"rounds": 3, "local_epochs": 1},)
ROUTES = (("B", "C", "A"), ("B", "A"), ("C", "B"))
SKIP, PARK = {"wait_hours": 2.0, "then": "skip"}, {"wait_hours": 2.0}


def leaves(site: str, nth: int) -> Fault:
    """Before its nth message is worked on; the first asks for what it has."""
    return Fault(actor=site, kind="receive", nth=nth, moment="before", harm="leaves for good")


@contextmanager
def in_a(bench: Bench, folder: Path, *faults: Fault, seed: int = 1) -> Iterator[History]:
    folder.mkdir()
    history = History(bench, folder, seed, faults)
    with world(history):
        yield history


def results_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "results.json").read_bytes())
    return found


def rows_of(results: dict[str, Any], **what: Any) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if all(row[name] == value for name, value in what.items())]


def undisturbed(bench: Bench, folder: Path) -> dict[str, Any]:
    with in_a(bench, folder) as history:
        assert history.start() == ""
    return results_in(folder)


def route_bench(absence: dict[str, Any], **methods: Any) -> Bench:
    return bench("left", ("A", "B", "C"), 7.0, 10.0, absence=absence, sequential={"routes": ROUTES}, **methods)


def test_a_route_goes_on_without_a_site_and_is_what_it_would_be_had_it_never_been_there(tmp_path: Path) -> None:
    with in_a(route_bench(SKIP), tmp_path / "cut", leaves("C", 2)) as history:
        said = history.start()
        assert said and "without C, as the study has it, and are marked" in said and "start again" not in said
        assert history.kernel.now > 2 * 3600
    found, whole = results_in(tmp_path / "cut"), undisturbed(route_bench(SKIP), tmp_path / "whole")
    cut = rows_of(found, route=["B", "C", "A"])
    assert len(cut) == 2
    for row in cut:
        assert (row["contributed"], row["absent"]) == (["A", "B"], ["C"])
        (other,) = rows_of(whole, route=["B", "A"], fold=row["fold"])
        assert row["weights"] == other["weights"]
        assert not row["headline"]
    assert [row["weights"] for row in rows_of(found, route=["B", "A"])] == [
        row["weights"] for row in rows_of(whole, route=["B", "A"])
    ]
    assert not any(row["absent"] for row in rows_of(found, route=["B", "A"]))
    # A route is the best of all only if all are there.
    assert not any(row["headline"] for row in rows_of(found, target="A"))
    assert ["B", "C", "A"] not in [entry["route"] for entry in found["spread"]]
    # Of C → B nothing is left but B alone.
    assert not rows_of(found, route=["C", "B"])
    assert {entry["reason"] for entry in found["parked"]} == {
        "site C: it was away, and the study went on without it; nothing is left of the route"
    }


def test_what_was_skipped_stays_skipped_when_the_site_is_back(tmp_path: Path) -> None:
    with in_a(route_bench(SKIP), tmp_path / "cut", leaves("C", 2)) as history:
        history.start()
        before, trained = (history.out / "results.json").read_bytes(), len(history.hospitals.trained)
        history.engine.start(history.engine.nodes["C"])
        history.start()
        assert (history.out / "results.json").read_bytes() == before
        assert len(history.hospitals.trained) == trained


@pytest.mark.parametrize("nth", [2, 3, 5])
def test_what_is_parked_goes_on_when_the_site_is_back(tmp_path: Path, nth: int) -> None:
    whole = undisturbed(route_bench(PARK), tmp_path / "whole")
    with in_a(route_bench(PARK), tmp_path / "parked", leaves("C", nth)) as history:
        said = history.start()
        assert said and "site C: it was away for 2 h" in said and "start again to go on" in said
        found = results_in(tmp_path / "parked")
        for row in found["rows"]:
            assert row["absent"] == [] and row["contributed"] == sorted(row["route"])
            assert nth > 3 or "C" not in row["route"]
        assert ("B", "C", "A") in {tuple(entry["label"].split(" → ")) for entry in found["parked"]}
        # Nobody waits for it at the next start, where all that can be done is done.
        began = history.kernel.now
        assert history.start() == said
        assert history.kernel.now - began < 3 * 3600
        history.engine.start(history.engine.nodes["C"])
        assert history.start() == ""
    assert results_in(tmp_path / "parked") == whole


@pytest.mark.parametrize(
    "part",
    [
        *FEDAVG,
        {"strategy": "fedadam", "rounds": 3, "server_learning_rate": 0.01},
        {"strategy": "cyclicfl", "rounds": 3},
    ],
    ids=["fedavg", "fedadam", "cyclicfl"],
)
def test_rounds_average_who_is_there_and_equal_a_study_of_those_alone(tmp_path: Path, part: dict[str, Any]) -> None:
    three = bench("three", ("A", "B", "C"), 3.0, 10.0, absence=SKIP, federated=(part,))
    two = bench("two", ("A", "B"), 3.0, 10.0, federated=(part,))
    with in_a(three, tmp_path / "three", leaves("C", 2)) as history:
        said = history.start()
        assert said and "without C" in said
    found, alone = results_in(tmp_path / "three"), undisturbed(two, tmp_path / "two")
    for target in ("A", "B"):
        for row, other in zip(rows_of(found, target=target), rows_of(alone, target=target), strict=True):
            assert row["weights"] == other["weights"]
            assert row["contributed"] == ["A", "B"] and row["absent"] == ["C"]
    assert {entry["target"] for entry in found["parked"]} == {"C"}
    assert all("site C: it was away" in entry["reason"] for entry in found["parked"])
    rounds = [stage for stage in found["stages"] if stage["kind"] == "average"]
    assert rounds and all(stage["contributed"] == ["A", "B"] for stage in rounds)


@pytest.mark.slow
def test_a_daisy_chain_waits_for_every_site_whatever_the_rule(tmp_path: Path) -> None:
    """A model whose last site of a chain is away would take with it what its earlier sites have trained."""
    chain = {"strategy": "feddc", "rounds": 4, "average_every": 2}
    part = bench("chain", ("A", "B", "C"), 3.0, 10.0, absence=SKIP, federated=(chain,))
    with in_a(part, tmp_path / "left", leaves("C", 3)) as history:
        said = history.start()
        assert said and "site C: it was away" in said
        found = results_in(tmp_path / "left")
        assert not rows_of(found, method="feddc") and not any(row["absent"] for row in found["rows"])
        assert {entry["method"] for entry in found["parked"]} >= {"feddc", "feddc-then-target"}
        history.engine.start(history.engine.nodes["C"])
        assert history.start() == ""
    assert results_in(tmp_path / "left") == undisturbed(part, tmp_path / "whole")
    assert not found["spread"]


def test_a_site_that_misses_some_rounds_is_averaged_in_the_others(tmp_path: Path) -> None:
    """Recomputed with numpy from what the sites sent."""
    three = bench("three", ("A", "B", "C"), 3.0, 10.0, absence={"methods": {"fedavg": SKIP}}, federated=FEDAVG)
    with in_a(three, tmp_path / "three", leaves("C", 4)) as history:
        history.start(keep_weights=True)
        records = [json.loads(path.read_bytes()) for path in (history.out / "ledger").iterdir()]
        made = {record["weights"]: record for record in records if record["kind"] == "fine-tune"}
        averages = [record for record in records if record["kind"] == "average"]
        sizes = {len(record["parents"]) for record in averages}
        assert sizes == {2, 3}
        for record in averages:
            parts = [load_file(history.out / "weights" / f"{digest}.safetensors") for digest in record["parents"]]
            shares = np.array([made[digest]["train_slices"] for digest in record["parents"]], dtype=float)
            mean = np.einsum(
                "s,sij->ij", shares / shares.sum(), np.array([part["layer"] for part in parts], dtype=float)
            )
            found = load_file(history.out / "weights" / f"{record['weights']}.safetensors")["layer"]
            np.testing.assert_allclose(found, mean, atol=1e-6)
        said = {
            stage["id"]: stage["contributed"] for stage in results_in(tmp_path / "three")["stages"] if not stage["site"]
        }
        assert sorted({tuple(sites) for sites in said.values()}) == [("A", "B"), ("A", "B", "C")]


def test_a_round_of_one_site_is_no_round(tmp_path: Path) -> None:
    two = bench("two", ("A", "B"), 3.0, 10.0, absence=SKIP, federated=FEDAVG)
    with in_a(two, tmp_path / "two", leaves("B", 2)) as history:
        said = history.start()
    assert said and "only A was left to average" in said
    assert results_in(tmp_path / "two")["rows"] == []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedtrimmedavg", "krum", "fedmedian"])
def test_a_strategy_that_cannot_do_without_a_site_waits_and_the_others_lose_nothing(
    tmp_path: Path, strategy: str
) -> None:
    """Of two parts a trimmed mean leaves nothing, and Krum has nothing to tell them apart by."""
    three = bench(
        "three",
        ("A", "B", "C"),
        3.0,
        10.0,
        absence=SKIP,
        baseline=True,
        federated=({"strategy": strategy, "rounds": 2, "local_epochs": 1},),
    )
    whole = undisturbed(three, tmp_path / "whole")
    with in_a(three, tmp_path / "cut", leaves("C", 2)) as history:
        said = history.start()
        assert said and "the coordinator failed" not in said
        found = results_in(tmp_path / "cut")
        assert {row["target"] for row in rows_of(found, method="baseline")} == {"A", "B"}
        assert bool(rows_of(found, method=strategy)) == (strategy == "fedmedian")
        if strategy == "krum":
            history.engine.start(history.engine.nodes["C"])
            assert history.start() == ""
            assert results_in(tmp_path / "cut") == whole


def test_a_fault_of_the_coordinator_in_one_method_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(server.scheduling.averaging, "aggregate", fails)
    with in_a(bench("two", ("A", "B"), 3.0, 10.0, baseline=True, federated=FEDAVG), tmp_path / "two") as history:
        said = history.start()
    assert said and "the coordinator failed (ZeroDivisionError: a fault of ours)" in said
    assert len(rows_of(results_in(tmp_path / "two"), method="baseline")) == 4


def test_what_was_finished_is_not_left_out_because_its_weights_are_gone(tmp_path: Path) -> None:
    """The weights of B → C are damaged, and C is away when they should be made again: all rows are what they were."""
    routes = bench("lost", ("A", "B", "C"), 7.0, 10.0, absence=SKIP, sequential={"routes": (("B", "C"), ROUTES[0])})
    with in_a(routes, tmp_path / "lost") as history:
        assert history.start() == ""
        whole = results_in(tmp_path / "lost")
        lost = {row["weights"] for row in rows_of(whole, target="C")}
        for digest in lost:
            (history.out / "weights" / f"{digest}.safetensors").write_bytes(b"damaged")
        node = history.engine.nodes["C"]
        history.engine.kill(node, away=math.inf, silently=False)
        said = history.start()
        assert said and "could not be made again – site C: it was away for 2 h" in said
        assert results_in(tmp_path / "lost") == whole
        history.engine.start(node)
        assert history.start() == ""
        assert results_in(tmp_path / "lost") == whole
        assert all((history.out / "weights" / f"{digest}.safetensors").stat().st_size > 7 for digest in lost)


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_route_is_not_selected_by_a_source_that_another_method_left_out(tmp_path: Path, seed: int) -> None:
    """The first stage of a lap is the first stage of a route as well."""
    found = bench(
        "grown",
        ("A", "B", "C"),
        3.0,
        10.0,
        seed=seed,
        absence={"wait_hours": 2.0, "methods": {"cyclic": {"then": "skip"}}},
        baseline=True,
        sequential={"routes": "greedy"},
        cyclic={"laps": 1},
    )
    split = found.study.split.model_copy(update={"source": "same-fold"})
    found = Bench(found.name, found.study.model_copy(update={"split": split}), found.epoch_seconds)
    with in_a(found, tmp_path / "cut", leaves("B", 2)) as history:
        said = history.start()
    assert said
    results = results_in(tmp_path / "cut")
    assert not rows_of(results, method="greedy")
    assert not any(entry["route"] for entry in results["grown"])
    reasons = {entry["target"]: entry["reason"] for entry in results["parked"] if entry["method"] == "greedy"}
    assert reasons.keys() == {"A", "B", "C"} and all("site B: it was away" in why for why in reasons.values())


def test_what_was_skipped_is_asked_for_again_where_other_weights_come_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B has other patients since: its weights are others, and nothing has been decided about them."""
    routes = bench("other", ("A", "B", "C"), 7.0, 10.0, absence=SKIP, sequential={"routes": (("B", "C", "A"),)})
    with in_a(routes, tmp_path / "cut", leaves("C", 2)) as history:
        history.start()
        assert all(row["absent"] == ["C"] for row in rows_of(results_in(tmp_path / "cut")))
        fingerprint, fine_tune = client.stages.describe.fingerprint, history.hospitals.fine_tune

        def other_data(records: Any, key: Any) -> str:
            plain = fingerprint(records, key)
            return hashlib.sha256(plain.encode()).hexdigest() if records[0].site == "B" else plain

        def other_training(*given: Any, seed_names: tuple[str | int, ...], **more: Any) -> Any:
            return fine_tune(*given, seed_names=(*seed_names, "B" in seed_names), **more)

        monkeypatch.setattr(client.stages.describe, "fingerprint", other_data)
        monkeypatch.setattr(client.stages.fine_tune, "fine_tune", other_training)
        history.engine.start(history.engine.nodes["C"])
        for site in history.hospitals.sites.values():
            approve(site, history.bench.study)
        assert history.start() == ""
    whole = rows_of(results_in(tmp_path / "cut"), route=["B", "C", "A"])
    assert len(whole) == 2
    assert all((row["absent"], row["contributed"]) == ([], ["A", "B", "C"]) for row in whole)


@pytest.mark.slow
def test_every_method_has_its_own_patience(tmp_path: Path) -> None:
    """The rounds go on after an hour; the routes wait for a day, and lose nothing by it."""
    absence = {"wait_hours": 48.0, "methods": {"fedavg": {"wait_hours": 1.0, "then": "skip"}}}
    mixed = route_bench(absence, federated=FEDAVG)
    whole = undisturbed(mixed, tmp_path / "whole")
    with in_a(mixed, tmp_path / "mixed", leaves("C", 2)) as history:
        node = history.engine.nodes["C"]
        history._later(24 * 3600.0, lambda: history.engine.start(node))
        said = history.start()
        assert said and "without C" in said
    found = results_in(tmp_path / "mixed")
    assert rows_of(found, method="sequential") == rows_of(whole, method="sequential")
    # What only the rounds need of C itself has waited for an hour as well.
    assert {entry["target"] for entry in found["parked"]} == {"C"}
    assert {entry["reason"] for entry in found["parked"]} == {"site C: it was away for 1 h"}
    assert {tuple(row["absent"]) for row in rows_of(found, method="fedavg")} == {("C",)}


def test_a_site_that_takes_its_approval_back_has_left(tmp_path: Path) -> None:
    study: Study = route_bench(SKIP).study
    with in_a(route_bench(SKIP), tmp_path / "left") as history:
        site = history.hospitals.sites["C"]
        history._later(3.0, lambda: [path.unlink() for path in (site.folder / "approved").iterdir()])
        said = history.start()
        assert said and "without C" in said
        assert history.kernel.now < 3600, "nobody waits for a site that has left"
        approve(site, study)
    assert all(row["absent"] == ["C"] for row in rows_of(results_in(tmp_path / "left"), route=["B", "C", "A"]))


ALL: dict[str, Any] = {
    "baseline": True,
    "sequential": {"routes": ROUTES},
    "federated": FEDAVG,
    "cyclic": {"laps": 2},
    "unadapted": True,
}
FEW: dict[str, Any] = {
    "sequential": {"routes": ROUTES[:2]},
    "federated": ({"rounds": 2, "local_epochs": 1, "then_target": False},),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "seeds"), [(ALL, range(5)), pytest.param(FEW, range(5, 30), marks=pytest.mark.slow)], ids=["all", "few"]
)
@pytest.mark.parametrize("then", ["park", "skip"])
def test_whoever_leaves_and_whatever_else_happens_no_row_is_counted_for_more_than_it_is(
    tmp_path: Path, then: str, methods: dict[str, Any], seeds: range
) -> None:
    struck = bench("struck", ("A", "B", "C"), 7.0, 10.0, absence={"wait_hours": 1.0, "then": then}, **methods)
    with in_a(struck, tmp_path / "whole") as history:
        assert history.start() == ""
        counts = dict(history.counts)
    whole = {(row["label"], row["target"], row["fold"]): row for row in results_in(tmp_path / "whole")["rows"]}
    for seed in seeds:
        draw = random.Random(f"absence {seed}")
        site = draw.choice("ABC")
        leaver = leaves(site, draw.randrange(2, counts[site, "receive"] + 1))
        faults = (leaver, *planned_faults(seed, counts))
        with in_a(struck, tmp_path / str(seed), *faults, seed=seed) as history:
            for _ in range(12):
                said = history.start()
                if said is not None and not history.struck_since_start:
                    break
                if said:
                    history.react(said)
            else:
                raise AssertionError("\n".join(history.told))
        tale = "\n".join([f"seed {seed}, {then}", *map(str, faults), *history.told])
        found = results_in(tmp_path / str(seed))
        seen = {(row["label"], row["target"], row["fold"]) for row in found["rows"]}
        parked = {(entry["label"], entry["target"], entry["fold"]) for entry in found["parked"]}
        assert seen | parked == whole.keys() and not seen & parked, tale
        assert all(entry["reason"] for entry in found["parked"]), tale
        assert bool(said) == bool(parked or any(row["absent"] for row in found["rows"])), tale
        for row in found["rows"]:
            name = row["label"], row["target"], row["fold"]
            if row["absent"]:
                assert then == "skip" and not row["headline"], tale
            else:
                assert set(row["contributed"]) == set(whole[name]["contributed"]), tale
                assert row["weights"] == whole[name]["weights"], tale
        for entry in found["spread"]:
            group = [row for row in found["rows"] if (row["method"], row["route"]) == (entry["method"], entry["route"])]
            sound = [row for row in group if row["target"] == entry["target"] and not row["absent"]]
            assert entry["runs"] <= len([row for row in group if row["target"] == entry["target"]]), tale
            assert sound, tale
