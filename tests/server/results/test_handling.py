"""How every method was handled, on the page's "study as run": no method is left out, and none is what it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.config.study import Study
from common.plan import plan
from server.report.page import write_report
from server.results.handling import handling
from server.results.rows import results_of, write_json
from server.results.schema import Handling, dump
from tests.common.plan.test_methods import CENSUS, EVERYTHING
from tests.support.fake_sites import FakeGrid, go, quick, study_of

__all__ = ["quick"]

HOPS = {"routes": "all", "batch_norm": ("travel", "local"), "learning_rate": (1e-3, 1e-4)}


def handled(**changes: Any) -> dict[str, Handling]:
    """By the method's name, how it was handled in a study of everything."""
    study = Study.model_validate(EVERYTHING | changes)
    entries = list(handling(study, plan(study, CENSUS)))
    titles = [title for entry in entries for title in entry.methods]
    assert len(set(titles)) == len(titles)
    return {title: entry for entry in entries for title in entry.methods}


def test_every_method_of_the_plan_is_told_in_every_respect() -> None:
    study = Study.model_validate(EVERYTHING)
    methods = {row.method for row in plan(study, CENSUS).rows}
    found = handled()
    assert len(found) == len(methods) > 60
    for entry in found.values():
        assert all((entry.batch_norm, entry.optimizer, entry.average, entry.rates, entry.selection))
        assert entry.optimizer.startswith("Adam's moments begin at zero in every training")


def test_batch_norm_is_told_as_the_targets_patients_meet_it() -> None:
    found = handled()
    expected = {
        "Target alone": "statistics of the target, estimated on its training slices",
        "Routes": "statistics of the target, estimated on its training slices",
        "Source, unadapted": "statistics of the site that trained last, estimated on its training slices",
        "Routes, own batch norm": "all its tensors the target's own, which never leave it",
        "FedBN": "all its tensors the target's own, which never leave it",
        "FedAvg": "averaged as all weights",
        "FedAvg, batch norm re-estimated": "statistics estimated on the target's training slices",
        "Mean of all routes": "statistics estimated on the target's training slices",
        "FedAdam": "statistics the plain mean of the sites'; scale and shift as all weights",
        "FedAvg, then the target": "statistics of the target, estimated on its training slices",
        "Ditto": "the personal model's own",
        "All data": "statistics of all data in one place, estimated on its training slices",
        "Target alone, all folds": "each member has its own: statistics of the target, estimated on its training"
        " slices",
        "All sites' own models": "each member has its own: statistics of the site that trained last, estimated on its"
        " training slices",
    }
    assert {title: found[title].batch_norm for title in expected} == expected
    running = handled(training={"epochs": 2, "batch_norm": "running"})
    assert running["Routes"].batch_norm == "statistics of the target, averaged over its steps"
    none = handled(model={"architecture": "BasicUNet", "encoder": "", "encoder_weights": "none"})
    assert {entry.batch_norm for entry in none.values()} == {"the network has none"}


def test_averages_are_told_with_their_weights_and_what_the_server_keeps() -> None:
    found = handled()
    slices = "each part by its site's training slices"
    expected = {
        "FedAvg": slices,
        "FedProx, then the target": slices,
        "FedAdam": slices,
        "FedMedian": "the median of every weight, sites alike",
        "FedTrimmedAvg": "the mean of every weight without its extremes, sites alike",
        "Krum": "the one part nearest to the others",
        "Mean of all routes": "every model alike",
        "Best route, all folds": "probabilities, every member alike",
        "Routes": "none",
        "All data, then the target": "none",
    }
    assert {title: found[title].average for title in expected} == expected
    for title, entry in found.items():
        serves = any(name in title for name in ("FedAdam", "FedYogi", "FedAdagrad", "FedAvgM"))
        assert ("those of the server go on from round to round" in entry.optimizer) == serves, title
        assert ("the server's" in entry.rates) == serves, title


def test_rates_and_selection_are_those_of_the_stages() -> None:
    methods = EVERYTHING["methods"] | {"sequential": HOPS}
    found = handled(methods=methods)
    later = "a cosine from 0.001 in the first training, from 0.001 or 0.0001 in later ones"
    assert (
        found["Routes"].rates == found["Target alone, restarted"].rates == found["Laps, own batch norm"].rates == later
    )
    assert found["Best route, target unseen"].rates == later
    assert found["Target alone, longer"].rates == "a cosine from 0.001 in a single training"
    assert found["FedAvg"].rates == "a cosine from 0.001 over all rounds"
    assert found["FedAvg, then the target"].rates == (
        "a cosine from 0.001 over all rounds; then a cosine from 0.001 or 0.0001 at the target"
    )
    assert found["FedAdam"].rates == "a cosine from 0.001 over all rounds; the server's 0.001, 0.01 or 0.1"
    assert found["Routes"].selection == (
        "epoch: the site that trains; a source's fold: that site; setting: the target; route: the target;"
        " fold: the target"
    )
    assert found["Target alone"].selection == "epoch: the site that trains; fold: the target"
    assert found["FedMedian"].selection == "a round keeps its last epoch; round: the target; fold: the target"
    assert found["FedAdam"].selection == (
        "a round keeps its last epoch; round and setting: the target; fold: the target"
    )
    unseen = "the mean over the other sites"
    assert found["Best route, target unseen"].selection.endswith(f"route and setting: {unseen}; fold: {unseen}")
    assert found["All data of the other sites, target unseen"].selection.endswith(f"that trains; fold: {unseen}")
    last = handled(training={"epochs": 2, "keep": "last"})
    assert last["Target alone"].selection == "the last epoch is kept; fold: the target"
    one_cosine = handled(methods=methods | {"sequential": {"routes": "all", "annealing": "route"}})
    assert one_cosine["Routes"].rates == "a cosine from 0.001 over all trainings in a row"


@pytest.mark.usefixtures("quick")
def test_the_page_shows_how_every_method_was_handled(tmp_path: Path) -> None:
    methods: dict[str, Any] = {
        "baseline": True,
        "sequential": {"routes": (("B", "A"),)},
        "federated": ({"strategy": "fedmedian", "rounds": 2}, {"strategy": "fedavg", "rounds": 2}),
    }
    run = go(FakeGrid(study_of(**methods)), tmp_path)
    (tmp_path / "results.json").write_bytes(write_json(dump(results_of(run.study, [run]))))
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "How every method was handled" in page and "the median of every weight, sites alike" in page
    assert "FedMedian: the median of every weight, sites alike; FedAvg: each part by its site" in page
