"""A whole study at the coordinator: what can be known to fail is told first, and notes cost little beside the work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import server.disk_space
import server.run_record
import server.study_run
from common.errors import GO_ON, DiskFull, RelayError, Unfinished
from common.protocol.messages import FineTuneOrder, WireMessage
from common.protocol.refusals import Refusal, refusal_error
from server.run_record import RunRecord
from server.study_run import run_study
from tests.support.fake_sites import START, Answer, FakeGrid, quick, study_of

__all__ = ["quick"]


def test_first_weights_that_are_not_to_be_had_are_told_before_a_site_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RelayError("The ImageNet weights cannot be fetched.")

    monkeypatch.setattr(server.study_run, "start_weights", fails)
    monkeypatch.setattr(server.study_run, "find_sites", lambda *_, **__: pytest.fail("a site was looked for"))
    with pytest.raises(RelayError, match="ImageNet"):
        run_study(object(), study_of(), tmp_path / "out", beside=tmp_path)  # type: ignore[arg-type]


def test_a_method_that_is_not_known_is_told_before_a_site_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.study_run, "find_sites", lambda *_, **__: pytest.fail("a site was looked for"))
    with pytest.raises(RelayError, match="swarm"):
        run_study(object(), study_of(more=("swarm",)), tmp_path / "out", beside=tmp_path)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick")
def test_a_disk_too_small_for_the_weights_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = FakeGrid(study_of(baseline=True))
    monkeypatch.setattr(server.disk_space, "declared_bytes", lambda _: 10**6)
    monkeypatch.setattr(server.disk_space, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=10**6)))
    monkeypatch.setattr(server.study_run, "start_weights", lambda *_: START)
    with pytest.raises(DiskFull, match="need 6 MB more in .*, and 1 MB are free"):
        run_study(grid, grid.study, tmp_path / "out", beside=tmp_path)
    assert len(list((tmp_path / "out" / "ledger").iterdir())) == 1, "the first weights alone"
    assert not grid.orders(FineTuneOrder)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("methods", [{"baseline": True}, {"federated": ({"rounds": 3, "local_epochs": 1},)}])
def test_a_full_disk_does_not_refuse_a_study_that_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: dict[str, Any]
) -> None:
    grid = FakeGrid(study_of(**methods))
    monkeypatch.setattr(server.study_run, "start_weights", lambda *_: START)
    once = run_study(grid, grid.study, tmp_path / "out", beside=tmp_path)
    monkeypatch.setattr(server.disk_space, "declared_bytes", lambda _: 10**6)
    monkeypatch.setattr(server.disk_space, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=0)))
    assert run_study(grid, grid.study, tmp_path / "out", beside=tmp_path) == once


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_what_was_sent_is_noted_after_every_stage_unless_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """On a clock that a note alone moves: a long one is not followed by another before twenty times as long."""
    clock = [100.0]
    before_the_end: list[float] = []
    write = RunRecord.write

    def written(self: RunRecord, *given: Any) -> None:
        write(self, *given)
        clock[0] += seconds
        if not (tmp_path / "out" / "results.json").exists():
            before_the_end.append(clock[0])

    monkeypatch.setattr(RunRecord, "write", written)
    monkeypatch.setattr(server.run_record, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(server.study_run, "start_weights", lambda *_: START)
    grid = FakeGrid(study_of(baseline=True))
    run_study(grid, grid.study, tmp_path / "out", beside=tmp_path)
    trained = len(grid.orders(FineTuneOrder))
    assert trained == 6
    assert len(before_the_end) == 1 if seconds else len(before_the_end) >= trained


FEDAVG = ({"rounds": 2, "local_epochs": 1},)
ROUTES = (("B", "C", "A"), ("B", "A"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("methods", "counted", "which"),
    [
        (
            {"baseline": True, "sequential": {"routes": ROUTES}, "federated": FEDAVG},
            "22 of 28",
            (
                "Routes: B → C → A; FedAvg at A, B and C; FedAvg, batch norm re-estimated at A, B and C;"
                " FedAvg, then the target at A, B and C; Target alone at C"
            ),
        ),
        (
            {"sequential": {"routes": "all"}},
            "20 of 24",
            "Routes: C → A, B → C → A, C → B → A and 7 more",
        ),
        ({"sequential": {"routes": "greedy"}}, "6 of 6", "Growing routes at A, B and C"),
    ],
)
def test_the_closing_sentence_names_the_methods_whose_rows_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: dict[str, Any], counted: str, which: str
) -> None:
    def refuse(site: str, order: WireMessage, answer: Answer) -> Answer:
        broken = site == "C" and isinstance(order, FineTuneOrder)
        return refusal_error(Refusal.DATA_CHANGED) if broken else answer

    monkeypatch.setattr(server.study_run, "start_weights", lambda *_: START)
    grid = FakeGrid(study_of(**methods), refuse)
    with pytest.raises(Unfinished) as unfinished:
        run_study(grid, grid.study, tmp_path / "out", beside=tmp_path)
    sentence = str(unfinished.value)
    assert sentence.startswith(f"{counted} rows could not be finished ({which}) – site C: the site's own data "), (
        sentence
    )
    assert sentence.endswith(f" What is finished is kept in {tmp_path / 'out'}; {GO_ON}.")
