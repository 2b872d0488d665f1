"""`relay study status` for a person, for a script, and as a page in a real browser."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.config.study import study_toml
from deploy import web_page
from deploy.cli import main
from deploy.coordinator import enroll
from deploy.coordinator.folder import Coordinator
from deploy.coordinator.status_page import server
from deploy.coordinator.study_status import Status, presences
from deploy.flower.control import Control
from deploy.site import keys
from deploy.web_page import AT_ONCE, SECONDS
from server.progress.events import Event
from server.progress.snapshot import Recorder
from tests.support.browser import CHROMIUM, WHY_NOT, browser
from tests.support.federation import wait_for
from tests.support.hospitals import small_study


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    recorder = Recorder(tmp_path / "out", small_study(name="three-hospitals"), clock=iter(range(0, 10**6, 10)).__next__)
    recorder.observe(
        Event(
            "running",
            "C",
            "B → C",
            stage="fine-tune",
            epoch=5,
            epochs=8,
            dice=0.5,
            stages=20,
            stages_done=4,
            work_left=0.75,
            rate=0.001,
        )
    )
    recorder.observe(Event("parked", "", "site A: <b>it</b> went away"))
    return recorder


@pytest.fixture(autouse=True)
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def status(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli", "study", "status", "--out", str(tmp_path / "out"), *words]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60)


def test_a_person_reads_how_far_it_is(recorder: Recorder, tmp_path: Path) -> None:
    done = status(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.match(r"three-hospitals: 4 of 20 stages, about 12 min left, \d+ s so far\.", lines[0])
    assert re.match(r"C +trains B → C, fold 1, epoch 5 of 8, Dice 50\.0 %, since 20\d\d-", lines[3])
    assert lines[4] == "Parked: site A: <b>it</b> went away"
    recorder.close()
    assert "4 of 20 stages, done at " in status(tmp_path).stdout


def test_hospitals_of_other_names_are_told_from_none_at_all(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator = Coordinator(tmp_path / "coordinator")
    enroll.set_up(coordinator, host="localhost", port=1, superlink="127.0.0.1:8000")
    monkeypatch.setattr(Control, "ask", lambda *_: {"nodes": []})
    (tmp_path / "out" / "study.toml").write_text(study_toml(small_study()), encoding="utf-8")
    command = ["study", "status", "--out", str(tmp_path / "out"), "--dir", str(coordinator.folder)]
    main(command)
    assert capsys.readouterr().out.endswith("No site is enrolled yet: relay enroll site NAME REQUEST.\n")
    enroll.enroll(coordinator, "other", keys.init(tmp_path / "other" / "site.toml", name="other")[2])
    main(command)
    assert capsys.readouterr().out.endswith("None of this study's hospitals is enrolled here.\n")


def test_a_script_reads_the_same(recorder: Recorder, tmp_path: Path) -> None:
    told = json.loads(status(tmp_path, "--json").stdout)
    assert (told["stages_done"], told["stages"], told["seconds_left"], told["state"]) == (4, 20, 750.0, "running")
    assert told["sites"][2]["what"] == "trains B → C, fold 1"


def test_a_folder_without_a_study_is_one_sentence(tmp_path: Path) -> None:
    done = status(tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "holds no study's progress" in done.stderr


@pytest.fixture
def page(recorder: Recorder, tmp_path: Path) -> Iterator[int]:
    with server("127.0.0.1", 0, Status(tmp_path / "out", None).now) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served.server_address[1]
        served.shutdown()
        thread.join()


def get(port: int, path: str, host: str = "127.0.0.1", at: str = "127.0.0.1") -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(at, port, timeout=10)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_the_page_brings_nothing_from_elsewhere(page: int) -> None:
    for path in ("/", "/page.css", "/page.js"):
        code, content, headers = get(page, path)
        assert code == 200 and b"http://" not in content and b"https://" not in content
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert get(page, "/../../etc/passwd")[0] == 404


def test_another_name_that_leads_here_learns_nothing(page: int) -> None:
    code, content, _ = get(page, "/status.json", host="evil.example")
    assert code == 403 and b"hospitals" not in content


def test_a_page_for_the_network_answers_under_the_address_that_was_dialled(recorder: Recorder, tmp_path: Path) -> None:
    with server("0.0.0.0", 0, Status(tmp_path / "out", None).now) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        port = served.server_address[1]
        # Any address of 127.0.0.0/8 is this machine's; 127.0.0.2 stands for one of the network's.
        assert get(port, "/", host="127.0.0.2", at="127.0.0.2")[0] == 200
        assert get(port, "/", host="localhost")[0] == 200
        assert get(port, "/", host="127.0.0.3", at="127.0.0.2")[0] == 403
        assert get(port, "/", host="evil.example", at="127.0.0.2")[0] == 403
        served.shutdown()
        thread.join()


def test_the_page_may_not_stand_in_a_frame_of_another(page: int) -> None:
    _, _, headers = get(page, "/")
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@pytest.mark.slow
def test_readers_that_say_nothing_do_not_keep_others_out_for_long(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert SECONDS <= 10
    monkeypatch.setattr(web_page.Handler, "timeout", 4.0)
    page = request.getfixturevalue("page")
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", page)) for _ in range(10 * AT_ONCE)]
    try:
        wait_for(lambda: threading.active_count() - before >= AT_ONCE, seconds=10)
        time.sleep(0.5)
        assert threading.active_count() - before <= AT_ONCE
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            get(page, "/")
        wait_for(lambda: threading.active_count() <= before, seconds=SECONDS + 5)
        assert get(page, "/")[0] == 200
    finally:
        for reader in silent:
            reader.close()
    assert capfd.readouterr().err == ""


def test_a_reader_that_goes_away_is_no_news(page: int, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", page)) as reader:
            reader.sendall(b"GET / HTT")
            time.sleep(0.05)
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, and not closed
    assert get(page, "/")[0] == 200
    time.sleep(0.2)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("²", "--serve wants a port"),
        ("nohost.invalid:8080", "nohost.invalid"),
        ("a" * 70 + ":8080", "is no name or address of this machine"),
        ("203.0.113.7:8080", "is no name or address of this machine"),
        ("x:65536", "--serve wants a port"),
    ],
)
def test_where_no_page_can_be_served_is_one_sentence(
    recorder: Recorder, tmp_path: Path, address: str, sentence: str
) -> None:
    done = status(tmp_path, "--serve", address)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert sentence in done.stderr and "another port" not in done.stderr


def test_a_port_that_is_taken_is_said_to_be(page: int, tmp_path: Path) -> None:
    done = status(tmp_path / "out", "--serve", str(page))
    assert done.returncode == 1 and "choose another port" in done.stderr


def test_the_command_serves_until_it_is_stopped(recorder: Recorder, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.cli", "study", "status", "--out", str(tmp_path / "out"), "--serve", "0"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        # A shell's background jobs, which the tests may be, are deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as program:
        assert program.stdout is not None
        found = re.match(r"http://127\.0\.0\.1:(\d+)/", program.stdout.readline())
        assert found and get(int(found[1]), "/status.json")[0] == 200
        program.send_signal(signal.SIGINT)
        try:
            assert program.wait(timeout=20) == 0
        finally:
            program.kill()  # or a failure would wait for ever


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
def test_a_browser_shows_it_and_keeps_it_up_to_date(page: int, recorder: Recorder, tmp_path: Path) -> None:
    """Opened once; what happens afterwards has to appear by itself."""
    with texts(f"http://127.0.0.1:{page}/", tmp_path) as text_of:
        assert shown(text_of, "headline", "4 of 20 stages")
        assert text_of("study") == "three-hospitals"
        assert text_of("parked") == "site A: <b>it</b> went away", "text stays text"
        assert "trains B → C, fold 1" in text_of("sites") and "epoch 5 of 8" in text_of("sites")
        assert text_of("recent") == ""
        recorder.observe(Event("done", "C", "B → C", stage="fine-tune", dice=0.875, stages=20, stages_done=5))
        assert shown(text_of, "headline", "5 of 20 stages")
        assert text_of("recent") == "C: B → C, fold 1, validation Dice 87.5 %"
        recorder.close("Site C went away.")
        assert shown(text_of, "text", "Site C went away.")


def shown(text_of: Callable[[str], str], part: str, text: str) -> bool:
    until = time.monotonic() + 30
    while text not in text_of(part) and time.monotonic() < until:
        time.sleep(0.2)
    return text in text_of(part)


@contextmanager
def texts(address: str, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A page open in a browser without a screen; gives what reads the text of a part of it, by its id."""
    with browser(address, tmp_path / "browser") as evaluate:
        yield lambda part: str(evaluate(f"document.getElementById({part!r})?.textContent ?? ''"))


def test_only_the_studys_hospitals_count(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = Coordinator(tmp_path / "c")
    enroll.set_up(coordinator, host="localhost", port=1, superlink="127.0.0.1:8000")
    for name in ("A", "B", "Other"):
        enroll.enroll(coordinator, name, keys.init(tmp_path / name / "site.toml", name=name)[2])
    monkeypatch.setattr(Control, "ask", lambda *_: {"nodes": []})
    assert [found["site"] for found in presences(coordinator)] == ["A", "B", "Other"]
    assert [found["site"] for found in presences(coordinator, out)] == ["A", "B", "Other"], "no study is known yet"
    (out / "study.toml").write_text(study_toml(small_study(sites=("A", "B"))), encoding="utf-8")
    assert [found["site"] for found in presences(coordinator, out)] == ["A", "B"]
