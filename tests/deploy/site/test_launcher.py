"""Whatever was sent, the installed app runs; tests/end_to_end/test_code_never_travels.py attacks the real processes."""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import types
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.client_app import LoadClientAppError

import client.app
from common.protocol.refusals import REFUSALS, Refusal
from deploy.flower import internals
from deploy.simulation.local_grid import enter_run
from deploy.site import launcher, start, superexec, supernode
from deploy.site.launcher import Task, installed_app
from tests.support.federation import wait_for
from tests.support.hospitals import REPO, write_site


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's module, put back as it was afterwards."""
    module = import_module(internals.CLIENT_RUNTIME)
    for name in internals.REPLACED_IN_CLIENT_RUNTIME:
        monkeypatch.setattr(module, name, getattr(module, name))
    return module


def test_nothing_is_unpacked_and_nothing_is_loaded_by_name(runtime: Any, tmp_path: Path) -> None:
    replaced = internals.REPLACED_IN_CLIENT_RUNTIME
    before = {name: getattr(runtime, name) for name in replaced}
    closed: Any = internals.client_runtime()
    internals.confine(closed, installed_app)
    assert all(getattr(closed, name) is not before[name] for name in replaced)
    assert closed.install_from_fab(b"PK anything", skip_prompt=True, directory=tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    loads = closed.get_load_client_app_fn(default_app_ref="evil:app", app_path=str(tmp_path), multi_app=True)
    for sent in (("relay/prostate-relay", "0.1.0", "0" * 64), ("../../x", "1.0/../../tmp", "")):
        assert loads(*sent).__qualname__ == installed_app().__qualname__


def message(kind: str = "query.describe") -> Message:
    enter_run(1)
    return Message(RecordDict({"message": ConfigRecord({"study": "0" * 64})}), dst_node_id=1, message_type=kind)


def context() -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"study": "/etc/passwd"})


def test_the_runs_settings_never_reach_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def app(sent: Message, context: Context) -> Message:
        seen.append(dict(context.run_config))
        return Message(RecordDict(), reply_to=sent)

    monkeypatch.setattr(client.app, "app", app)
    installed_app()(message(), context())
    assert seen == [{}]


@pytest.mark.parametrize("kind", ["query.describe", "query.nothing_of_ours", "train", "evaluate.other"])
def test_no_error_of_the_apps_leaves_with_its_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    """Of a kind of message that the app does not know, too: Flower answers those before the app's own guard."""
    monkeypatch.setenv("RELAY_SITE", str(write_site(tmp_path / "Doe-John", "A")))
    monkeypatch.setattr(client.app, "approved", lambda *_: (_ for _ in ()).throw(RuntimeError("/home/Doe-John")))
    reply = installed_app()(message(kind), context())
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (int(Refusal.FAILED), REFUSALS[Refusal.FAILED])


def test_an_app_that_cannot_be_loaded_is_no_text_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "client.app", None)
    with pytest.raises(LoadClientAppError) as error:
        installed_app()
    assert str(error.value) == ""
    assert error.value.__cause__ is None


def test_neither_the_working_folder_nor_pythonpath_gives_it_code(tmp_path: Path) -> None:
    """What an attacker could get written beside the site's process is not imported."""
    for name in ("client", "deploy", "common"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('foreign')")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('foreign')")
    assert (sys.executable, "-I", "-m", "deploy.site.launcher") == superexec.LAUNCHER
    probe = [sys.executable, "-I", "-c", "import client, deploy.site.launcher as l; print(client.__file__, l.__file__)"]
    done = subprocess.run(
        probe,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(REPO)) for path in done.stdout.split())


class FakeLauncher:
    """Stands for a process: what it was told, and whether it or what it has forked has ended."""

    def __init__(self) -> None:
        self._given = io.BytesIO()
        self.stdin = types.SimpleNamespace(write=self._given.write, close=lambda: None)
        self.stdout, self._ends = socket.socketpair()
        self.stdout = self.stdout.makefile("rb", buffering=0)
        self.returncode: int | None = None

    def answered(self, code: int = 0) -> None:
        """The process that it has forked for a message has ended."""
        self._ends.sendall(f"{code}\n".encode())

    def die(self, code: int) -> None:
        self.returncode = code
        self._ends.close()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        assert self.returncode is not None, "it would be waited for without end"
        return self.returncode

    def kill(self) -> None:
        self.die(-9)

    @property
    def told(self) -> list[Any]:
        return [json.loads(line) for line in self._given.getvalue().splitlines()]


class FakeClaim:
    """The claims that were made, and what was done with them."""

    made: ClassVar[list[FakeClaim]] = []
    holds: bool | None = True

    def __init__(self, task: Task) -> None:
        self.token, self.kept, self.closed = task.token, 0, False
        self.made.append(self)

    def keep(self) -> bool | None:
        self.kept += 1
        return self.holds

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[FakeLauncher]:
    """All launchers that were started."""
    made: list[FakeLauncher] = []

    def start(command: Any, **_: Any) -> FakeLauncher:
        assert command == superexec.LAUNCHER
        made.append(FakeLauncher())
        return made[-1]

    monkeypatch.setattr(superexec.subprocess, "Popen", start)
    monkeypatch.setattr(superexec, "Claim", FakeClaim)
    monkeypatch.setattr(superexec, "BEAT", 0.01)
    monkeypatch.setattr(superexec, "GRACE", 0.3)
    monkeypatch.setattr(FakeClaim, "made", [])
    return made


@pytest.mark.parametrize("kind", ["flwr-clientapp", "flwr-agentapp", "flwr-serverapp", "flwr-simulation", "sh", ""])
def test_every_kind_of_task_goes_to_the_launcher_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, started: list[FakeLauncher], kind: str
) -> None:
    import flwr.supercore.cli
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

    for name in ("launch", "reconcile", "close"):
        monkeypatch.setattr(SubprocessExecutor, name, getattr(SubprocessExecutor, name))
    monkeypatch.setattr(flwr.supercore.cli, "flower_superexec", lambda: None)
    superexec.main()
    executor = SubprocessExecutor()
    spec = types.SimpleNamespace(
        task_type=kind,
        insecure=False,
        root_certificates_path="ca.crt",
        runtime_api_address="127.0.0.1:9",
        token="t",
        parent_pid=7,
        task_id=1,
    )
    assert executor.launch(spec).status.name == "ACCEPTED"  # type: ignore[arg-type]
    executor.reconcile()
    assert [launcher.told for launcher in started] == [
        [{"runtime_api_address": "127.0.0.1:9", "token": "t", "authority": "ca.crt"}]
    ]
    executor.close()
    assert [launcher.returncode for launcher in started] == [-9]


def test_one_launcher_is_given_every_message_and_is_started_again_only_where_it_has_ended(
    started: list[FakeLauncher],
) -> None:
    launchers = superexec.Launchers()
    tasks = [Task("127.0.0.1:9", f"token {number}", "ca.crt") for number in range(4)]
    for _ in range(3):
        launchers.tend()
    assert len(started) == 1
    for number in (0, 1):
        launchers.give(number, tasks[number])
        launchers.tend()
        started[0].answered(number)
    assert len(started) == 1
    launchers.give(2, tasks[2])
    started[0].die(-9)  # as where memory ran out
    wait_for(lambda: launchers.tend() or len(started) == 2, seconds=20)
    started[1].die(-9)
    launchers.give(3, tasks[3])
    told = [[line["token"] for line in launcher.told] for launcher in started]
    assert told == [["token 0", "token 1", "token 2"], [], ["token 3"]]
    closed = {claim.token: claim.closed for claim in FakeClaim.made}
    assert closed == {"token 0": False, "token 1": True, "token 2": True, "token 3": False}


def test_a_launcher_that_waits_for_long_is_ended_and_the_next_message_gets_another(
    monkeypatch: pytest.MonkeyPatch, started: list[FakeLauncher]
) -> None:
    """A hospital between two studies holds half a gigabyte less."""
    monkeypatch.setattr(superexec, "IDLE", 0.3)
    launchers = superexec.Launchers()
    launchers.give(1, Task("127.0.0.1:9", "first", "ca.crt"))
    until = time.monotonic() + 0.6
    while time.monotonic() < until:  # however long a message takes
        launchers.tend()
        assert started[0].returncode is None
    started[0].answered(0)
    wait_for(lambda: launchers.tend() or started[0].returncode == -9, seconds=20)
    for _ in range(3):
        launchers.tend()
    assert len(started) == 1, "none is started for nobody"
    launchers.give(2, Task("127.0.0.1:9", "second", "ca.crt"))
    assert [line["token"] for line in started[1].told] == ["second"]


def test_a_message_that_comes_again_finds_its_first_process_ended(started: list[FakeLauncher]) -> None:
    launchers = superexec.Launchers()
    for number in range(3):
        launchers.give(7, Task("127.0.0.1:9", f"token {number}", "ca.crt"))
        assert [launcher.returncode for launcher in started] == [-9] * number + [None]
    assert not any(claim.closed for claim in FakeClaim.made), "Flower has closed them"


def test_another_message_waits_for_the_process_before_and_ends_it_at_last(
    monkeypatch: pytest.MonkeyPatch, started: list[FakeLauncher]
) -> None:
    monkeypatch.setattr(superexec, "GRACE", 0.5)
    launchers = superexec.Launchers()
    launchers.give(1, Task("127.0.0.1:9", "first", "ca.crt"))
    began = time.monotonic()
    launchers.give(2, Task("127.0.0.1:9", "second", "ca.crt"))
    assert time.monotonic() - began >= 0.5
    assert [launcher.returncode for launcher in started] == [-9, None]
    assert [[line["token"] for line in launcher.told] for launcher in started] == [["first"], ["second"]]
    closed = {claim.token: claim.closed for claim in FakeClaim.made}
    assert closed == {"first": True, "second": False}, "the lapse of the first would be an error for the second"


@pytest.mark.parametrize("end", ["answered", "die"])
def test_a_claim_is_kept_from_the_first_moment_to_the_end_of_the_process(started: list[FakeLauncher], end: str) -> None:
    launchers = superexec.Launchers()
    launchers.give(1, Task("127.0.0.1:9", "t", "ca.crt"))
    (claim,) = FakeClaim.made
    assert claim.kept >= 1
    wait_for(lambda: claim.kept > 5, seconds=20)
    getattr(started[0], end)(1)
    time.sleep(0.1)
    kept = claim.kept
    time.sleep(0.3)
    assert claim.kept == kept


@pytest.mark.parametrize("holds", [False, None])
def test_a_process_whose_claim_is_lost_is_ended(
    monkeypatch: pytest.MonkeyPatch, started: list[FakeLauncher], holds: bool | None
) -> None:
    """Refused, or for so long without an answer that the SuperNode has given the message up by itself."""
    monkeypatch.setattr(FakeClaim, "holds", holds)
    monkeypatch.setattr(superexec, "LAPSE", 0.2)
    superexec.Launchers().give(1, Task("127.0.0.1:9", "t", "ca.crt"))
    wait_for(lambda: started[0].returncode == -9, seconds=20)


def test_where_no_launcher_can_be_started_to_wait_the_next_message_gets_one_all_the_same(
    monkeypatch: pytest.MonkeyPatch, started: list[FakeLauncher]
) -> None:
    def full(*_: Any, **__: Any) -> FakeLauncher:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    launchers = superexec.Launchers()
    with monkeypatch.context() as patch:
        patch.setattr(superexec.subprocess, "Popen", full)
        launchers.tend()
    launchers.give(1, Task("127.0.0.1:9", "t", "ca.crt"))
    assert [line["token"] for line in started[0].told] == ["t"]


@pytest.mark.slow
def test_a_launcher_that_waits_ends_with_the_process_that_would_give_it_a_message() -> None:
    """Also when that is killed: nothing is left to wait for. What it waits with is imported, and nothing is asked."""
    script = (
        "import subprocess, sys\n"
        "from deploy.site.superexec import LAUNCHER\n"
        "waiting = subprocess.Popen(LAUNCHER, stdin=subprocess.PIPE)\n"
        "print(waiting.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        waiting = Path("/proc", parent.stdout.readline().strip())
        wait_for(lambda: "SimpleITK" in (waiting / "maps").read_text(), seconds=60)
        assert not any(os.readlink(file).startswith("socket:") for file in (waiting / "fd").iterdir())
        parent.kill()
        parent.wait()
        wait_for(lambda: not waiting.exists(), seconds=60)


def test_the_site_looks_for_orders_sooner_after_an_answer_and_never_later_than_flower() -> None:
    slept: list[float] = []
    clock = [100.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    rest = supernode.paced(sleep, lambda: clock[0])
    for _ in range(40):
        rest(3)
    assert slept[0] == supernode.SOONEST and slept[-1] == 3 and slept == sorted(slept)
    quiet = sum(seconds for seconds in slept if seconds < 3)
    assert 10 < quiet < 20, "a hospital without work asks as seldom as Flower's own after a quarter of a minute"
    slept.clear()
    rest(0.5)  # it works on an order
    assert slept == [supernode.LOOK]
    rest(3)
    assert slept[1] == supernode.SOONEST
    rest(0.01)
    assert slept[2] == 0.01


def test_flowers_supernode_is_started_with_that_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(internals.SUPERNODE)
    monkeypatch.setattr(module, "time", module.time)  # put back afterwards
    started: list[float] = []

    def start() -> None:
        began = time.monotonic()
        module.time.sleep(0.5)
        started.append(time.monotonic() - began)

    monkeypatch.setattr("flwr.supernode.cli.flower_supernode", start)
    supernode.main()
    assert started and supernode.LOOK <= started[0] < 0.4


def test_flowers_supernode_sleeps_for_the_times_that_the_pace_tells_apart() -> None:
    source = Path(str(import_module(internals.SUPERNODE).__file__)).read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert re.findall(r"\btime\.(\w+)", source) == ["sleep"] * 3
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"]
    assert sorted(ast.literal_eval(call.args[0]) for call in calls) == [0.5, 0.5, 3]


@pytest.mark.slow
def test_the_hospitals_part_of_deploy_knows_nothing_of_the_coordinators() -> None:
    code = (
        "import sys, deploy.site.start, deploy.site.superexec, deploy.site.launcher, client.app\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'server'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def listening(before: str) -> str:
    """A launcher's first steps, and then what holds its main thread up."""
    return (
        "import queue, threading\n"
        "from deploy.site.launcher import listen, standard_input\n"
        "lines = queue.SimpleQueue()\n"
        "threading.Thread(target=listen, args=(standard_input(), lines), daemon=True).start()\n"
        f"{before}\n"
    )


@pytest.mark.parametrize("line", [b"", b"told\n"])
def test_it_ends_with_its_parent_even_where_its_own_main_thread_waits_for_ever(line: bytes) -> None:
    code = listening("print('waiting', flush=True); threading.Event().wait()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launched:
        assert launched.stdin is not None and launched.stdout is not None
        assert launched.stdout.readline() == b"waiting\n"
        launched.stdin.write(line)
        launched.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            launched.wait(0.5)
        launched.stdin.close()
        assert launched.wait(20) == 1


def test_its_line_is_heard_whole_and_what_it_starts_hears_nothing() -> None:
    code = listening(
        "import subprocess, sys\n"
        "print(lines.get().decode(), flush=True)\n"
        "print(subprocess.run([sys.executable, '-c', 'import sys; print(len(sys.stdin.read()))']).returncode)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launched:
        assert launched.stdin is not None and launched.stdout is not None
        launched.stdin.write(b'{"token":')
        launched.stdin.flush()
        time.sleep(0.2)
        launched.stdin.write(b' "t"}\nmore\n')
        launched.stdin.flush()
        assert launched.stdout.read().split(b"\n") == [b'{"token": "t"}', b"0", b"0", b""]
        assert launched.wait(20) == 0, "the thread that listens keeps no process from its own end"


def test_a_slow_machine_is_said_with_what_was_measured_and_not_again_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "slow"
    monkeypatch.setenv(launcher.SLOW_NOTE, str(note))
    said = start.Note(note)
    launcher.say_if_slow(launcher.SLOW - 1)
    assert not note.exists() and said.news() == []
    launcher.say_if_slow(47.2)
    log = capsys.readouterr().err
    assert log.startswith("This machine is slow: a process took 47 s to import what an answer needs, and 3 s are usual")
    assert said.news() == [log.strip()]
    assert said.news() == []
    launcher.say_if_slow(48.0)
    assert capsys.readouterr().err == "" and said.news() == []
    os.utime(note, (0, 0))  # long ago
    launcher.say_if_slow(49.0)
    assert "49 s" in capsys.readouterr().err and "49 s" in said.news()[0]


def test_a_slow_machine_is_said_in_the_log_where_nobody_takes_notes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (None, str(tmp_path / "gone" / "slow")):
        monkeypatch.delenv(launcher.SLOW_NOTE, raising=False)
        if place:
            monkeypatch.setenv(launcher.SLOW_NOTE, place)
        launcher.say_if_slow(47.2)
        assert "took 47 s" in capsys.readouterr().err
