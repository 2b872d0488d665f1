"""Hospitals on this machine: a fresh process a message, so many at a time, each with its own settings alone."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from client.governance.simulation_mode import simulation_mode
from common.errors import DiskFull
from common.protocol.codec import from_record, to_record
from common.protocol.messages import DESCRIBE, Describe, Description
from common.protocol.refusals import Refusal, refusal_text
from deploy.simulation import local_grid
from deploy.simulation.local_grid import LocalGrid
from deploy.simulation.places import Places
from tests.support.hospitals import approve_everywhere, small_study, write_hospitals

STUDY = small_study(methods={"baseline": True})


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 3, "B": 3, "C": 3}, slices=3)
    approve_everywhere(found, STUDY)
    return found


@pytest.fixture
def grid(sites: dict[str, Path]) -> Iterator[LocalGrid]:
    with LocalGrid(sites, at_once=2) as running:
        yield running


def describe(grid: LocalGrid, node: int) -> Message:
    return Message(to_record(Describe(study=STUDY.digest)), dst_node_id=node, message_type=DESCRIBE)


def wait_for(grid: LocalGrid, ids: Iterable[str], seconds: float = 60.0) -> list[Message]:
    ids, replies, until = list(ids), [], time.monotonic() + seconds
    while len(replies) < len(ids) and time.monotonic() < until:
        replies += grid.pull_messages(ids)
        time.sleep(0.005)
    return replies


class Watch:
    """Notes the processes that a grid starts, and how many were alive at once."""

    def __init__(self, grid: LocalGrid) -> None:
        self.pids: list[int] = []
        self.parents: set[int] = set()
        self.most = 0
        self._grid, self._stop = grid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.is_set():
            alive = [process.pid for process in list(self._grid._alive.values()) if process.is_alive()]
            self.most = max(self.most, len(alive))
            for pid in alive:
                if pid is not None and pid not in self.pids:
                    with suppress(OSError, IndexError):
                        self.parents.add(int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1]))
                        self.pids.append(pid)
            time.sleep(0.0005)


def test_each_message_is_handled_in_a_fresh_process_of_the_fork_server(grid: LocalGrid) -> None:
    with Watch(grid) as watch:
        for node in (1, 1, 2, 3):
            (reply,) = wait_for(grid, grid.push_messages([describe(grid, node)]))
            assert not reply.has_error()
    assert len(set(watch.pids)) == 4
    assert os.getpid() not in watch.pids
    assert watch.parents == {forkserver._forkserver._forkserver_pid}  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(watch.pids[0], 0)


def test_a_worker_simulates_while_the_process_of_the_grid_does_and_no_longer(grid: LocalGrid) -> None:
    """The fork server is older than either, and has its own environment."""
    with simulation_mode():
        (reply,) = wait_for(grid, grid.push_messages([describe(grid, 1)]))
    assert reply.error.code == Refusal.UNKNOWN_STUDY, "what was approved in earnest is none of a simulation's"
    (reply,) = wait_for(grid, grid.push_messages([describe(grid, 1)]))
    assert not reply.has_error()


@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_workers_are_alive_than_were_allowed(sites: dict[str, Path], at_once: int) -> None:
    with LocalGrid(sites, at_once=at_once) as grid, Watch(grid) as watch:
        ids = list(grid.push_messages([describe(grid, node) for node in (1, 2, 3) * 3]))
        replies = wait_for(grid, ids)
    assert len(replies) == 9
    assert not any(reply.has_error() for reply in replies)
    assert 1 <= watch.most <= at_once
    assert {reply.metadata.reply_to_message_id for reply in replies} == set(ids)


def test_workers_wait_for_each_other_where_the_memory_is_for_one(sites: dict[str, Path]) -> None:
    """Each says what it has held, in earnest too: of this the second one's need is known."""
    with LocalGrid(sites, at_once=2) as grid, Watch(grid) as watch:
        grid._places = Places(2, free=lambda: 1000)
        replies = grid.send_and_receive([describe(grid, node) for node in (1, 2, 3) * 2], timeout=60)
        assert [reply.has_error() for reply in replies] == [False] * 6
        assert grid._places._needs[DESCRIBE] > 1000
    assert watch.most == 1


def test_an_answer_is_waited_for_until_it_is_there_and_no_longer(grid: LocalGrid) -> None:
    (order,) = grid.push_messages([describe(grid, 1)])
    began = time.monotonic()
    grid.wait_for(order, 60.0)
    assert time.monotonic() - began < 60.0
    assert list(grid.pull_messages([order]))
    began = time.monotonic()
    grid.wait_for(order, 0.1)  # it was taken, and comes no second time
    assert 0.1 <= time.monotonic() - began < 30.0


def news_of(grid: LocalGrid, message: Message) -> list[local_grid.Progress]:
    """What is heard of an order until its answer is there."""
    (order,) = grid.push_messages([message])
    news: list[local_grid.Progress] = []
    while True:
        news += grid.wait_for(order, 60.0)
        if replies := list(grid.pull_messages([order])):
            assert not replies[0].has_error()
            return news + grid.wait_for(order, 0.0)


def test_a_worker_says_how_far_it_is_in_a_simulation_and_nothing_in_earnest(tmp_path: Path) -> None:
    found = write_hospitals(tmp_path, {"A": 3}, slices=3)
    approve_everywhere(found, STUDY)
    with LocalGrid(found, at_once=1) as grid:
        assert news_of(grid, describe(grid, 1)) == []
        shutil.rmtree(tmp_path / "A" / "private" / "cache")
        with simulation_mode():
            approve_everywhere(found, STUDY)
            assert news_of(grid, describe(grid, 1)) == [(done, 3, None) for done in range(4)]


def test_every_site_answers_with_its_own_settings(grid: LocalGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    replies = grid.send_and_receive([describe(grid, node) for node in (1, 2, 3)], timeout=60)
    names = {reply.metadata.src_node_id: from_record(reply.content, Description)[0].site for reply in replies}
    assert names == {1: "A", 2: "B", 3: "C"}
    assert {node.node_id: node.name for node in grid.get_nodes()} == names
    assert dict(os.environ) == before, "a site's settings stay in its worker"
    assert "RELAY_SITE" not in os.environ


def kill_first(grid: LocalGrid, killed: list[int]) -> None:
    until = time.monotonic() + 30
    while not killed and time.monotonic() < until:
        for process in list(grid._alive.values()):
            if process.pid:
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                return


def test_a_worker_that_is_killed_is_error_8_and_the_next_message_works(
    grid: LocalGrid, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[int] = []
    killer = threading.Thread(target=kill_first, args=(grid, killed), daemon=True)
    killer.start()
    (reply,) = wait_for(grid, grid.push_messages([describe(grid, 1)]))
    killer.join()
    assert killed
    assert reply.has_error() and reply.error.code == 8
    assert "the site's process ended without an answer" in refusal_text(reply.error)
    (said,) = caplog.messages
    assert said == (
        "The system ended the process of a stage at A (SIGKILL), most often for want of memory: the stage is begun"
        " again, and from now on at most 1 run at once."
    )
    (reply,) = wait_for(grid, grid.push_messages([describe(grid, 1)]))
    assert not reply.has_error()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("query.describe", RecordDict({"message": ConfigRecord({"study": "x"})})),
        ("query.describe", RecordDict()),
        ("query.unknown", to_record(Describe(study=STUDY.digest))),
        ("train", to_record(Describe(study=STUDY.digest))),
    ],
)
def test_a_message_that_nobody_knows_is_an_error_and_no_more(grid: LocalGrid, kind: str, content: Any) -> None:
    (reply,) = wait_for(grid, grid.push_messages([Message(content, dst_node_id=1, message_type=kind)]))
    assert reply.has_error()
    (reply,) = wait_for(grid, grid.push_messages([describe(grid, 1)]))
    assert not reply.has_error()


def test_an_answer_is_there_once(grid: LocalGrid) -> None:
    ids = list(grid.push_messages([describe(grid, 1)]))
    assert list(grid.pull_messages(ids)) == []  # it is not there yet, and nobody waits
    assert len(wait_for(grid, ids)) == 1
    assert list(grid.pull_messages(ids)) == []


def test_closing_ends_every_worker_and_begins_no_other(sites: dict[str, Path]) -> None:
    grid = LocalGrid(sites, at_once=1)
    with Watch(grid) as watch:
        grid.push_messages([describe(grid, node) for node in (1, 2, 3) * 20])
        while not watch.pids:
            time.sleep(0.001)
        grid.close()
        begun = len(watch.pids)
        time.sleep(0.3)
        assert len(watch.pids) == begun
    assert not any(thread.is_alive() for thread in grid._threads)
    for pid in watch.pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_fork_server_has_run_nothing_of_any_site(sites: dict[str, Path], grid: LocalGrid) -> None:
    list(grid.send_and_receive([describe(grid, 1)], timeout=60))
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"RELAY_SITE" not in environment
    opened = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.exists()}
    assert not [path for path in opened if str(sites["A"].parent) in path]


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def weights() -> Message:
    arrays = ArrayRecord({"weights": Array("uint8", (3,), "safetensors", b"abc")})
    return Message(RecordDict({"weights": arrays}), dst_node_id=1, message_type=DESCRIBE)


def study_that_hides_its_errors(grid: LocalGrid) -> None:
    with suppress(DiskFull):
        wait_for(grid, grid.push_messages([weights()]))
        raise AssertionError("there was an answer")


def test_a_coordinator_without_room_to_send_ends_the_study_and_names_the_folder(
    sites: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_grid.tempfile, "TemporaryFile", full)
    sentence = f"{tempfile.gettempdir()}.*TMPDIR.*No space left on device.*start again"
    with pytest.raises(DiskFull, match=sentence), LocalGrid(sites, at_once=1) as grid:
        study_that_hides_its_errors(grid)
    assert "Traceback" not in capfd.readouterr().err


def test_a_site_without_room_to_answer_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import client.app

    log = tmp_path / "site.log"
    monkeypatch.setattr(client.app, "app", lambda message, _: Message(weights().content, reply_to=message))
    monkeypatch.setattr(local_grid, "_end_with_the_coordinator", lambda: None)
    monkeypatch.setattr(local_grid.signal, "signal", lambda *_: None)
    handler = logging.FileHandler(log)
    logger = logging.getLogger("relay.site")
    logger.addHandler(handler)
    ours, theirs = multiprocessing.Pipe()
    local_grid.enter_run(0)
    order = Message(to_record(Describe(study=STUDY.digest)), dst_node_id=1, message_type=DESCRIBE)
    local_grid._send(ours, order)
    with monkeypatch.context() as patch:
        patch.setattr(local_grid.tempfile, "TemporaryFile", full)
        local_grid._work(theirs, 1, {})
    local_grid.enter_run(0)
    logger.removeHandler(handler)
    assert local_grid._receive(ours).error.code == Refusal.DISK_FULL
    assert "TMPDIR" in log.read_text()


ONE_DESCRIPTION = """
import sys
from pathlib import Path
from deploy.simulation.local_grid import LocalGrid
from tests.deploy.simulation.test_local_grid import describe
if __name__ == "__main__":
    with LocalGrid({"A": Path(sys.argv[1])}, at_once=1) as grid:
        print("begun", flush=True)
        (reply,) = grid.send_and_receive([describe(grid, 1)], timeout=120)
        print(reply.has_error(), flush=True)
"""


def begin(sites: dict[str, Path], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ONE_DESCRIPTION, sites["A"]],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_the_path_of_tmpdir_may_be_long(sites: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / ("a-folder-as-clusters-have-them" * 4)
    folder.mkdir()
    out, err = begin(sites, folder).communicate(timeout=120)
    assert out.split()[-1:] == ["False"], err


@pytest.mark.slow
def test_ctrl_c_while_the_fork_server_starts_is_told_once(sites: dict[str, Path], tmp_path: Path) -> None:
    running = begin(sites, tmp_path)
    assert running.stdout and running.stdout.readline() == "begun\n"
    time.sleep(0.3)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert err.count("Traceback") == 1, "this process's own alone"
    assert running.returncode == -signal.SIGINT
    until = time.monotonic() + 20
    while time.monotonic() < until and alive(running.pid):
        time.sleep(0.1)
    assert not alive(running.pid)
