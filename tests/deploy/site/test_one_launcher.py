"""On a machine that is too slow for Flower's patience, a message still has one process, which outlives nobody.

A real SuperExec and real launchers, which need as long for their imports as a test says, at the interface and state of
a real SuperNode. Flower's half minute for a claim is two seconds here, but in the test marked nightly.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from flwr.supercore.corestate import in_memory_corestate

from deploy.flower import internals
from deploy.flower.control import QUIET
from deploy.flower.supervisor import LINUX
from deploy.site import superexec
from deploy.site.claim import Claim
from deploy.site.launcher import SLOW_NOTE, Task
from tests.support.federation import descendants, wait_for
from tests.support.supernode import SECRET, SuperNode, supernode

pytestmark = pytest.mark.slow

CLAIM = 2.0
"""Seconds that Flower gives a claim here, and twice as many from each heartbeat."""

LAUNCHER = """
import os, sys, time
from importlib.machinery import ModuleSpec
from pathlib import Path

noted, importing, work, signalled = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]

class Slow:
    def find_spec(self, name, *_):
        return ModuleSpec(name, self) if name == "client.imports" else None

    def create_module(self, spec):
        (noted / f"{os.getpid()}.begun").touch()
        time.sleep(importing)

    def exec_module(self, module):
        pass

def app(message, context):
    (noted / f"{os.getpid()}.working").touch()
    time.sleep(work)
    from flwr.app import Message, RecordDict
    return Message(RecordDict(), reply_to=message)

sys.meta_path.insert(0, Slow())
from deploy.site import launcher
launcher.installed_app = lambda: app
launcher.NVIDIA = noted / "driver"
if signalled == "False":
    launcher.end_with_parent = lambda _: None
launcher.main()
"""
"""The real one with slow imports and another app; it notes when it begins them and when it works on a message."""

SUPEREXEC = """
import sys
from deploy.site import superexec

superexec.LAUNCHER = (sys.executable, "-c", *{launcher!r})
superexec.BEAT, superexec.GRACE, superexec.LAPSE = {times!r}
superexec.main()
"""


class Hospital:
    """A SuperNode, a SuperExec, and what its launchers noted."""

    def __init__(self, node: SuperNode, process: subprocess.Popen[bytes], noted: Path) -> None:
        self.node, self.process, self._noted = node, process, noted
        self.most = 0
        """Launchers that were alive at the same time."""

    def begun(self) -> list[int]:
        """The launchers that were started."""
        return [int(path.stem) for path in self._noted.glob("*.begun")]

    def working(self) -> list[int]:
        """The launchers that got as far as the app."""
        return [int(path.stem) for path in self._noted.glob("*.working")]

    def alive(self) -> list[int]:
        return [pid for pid in self.begun() if alive(pid)]

    def answered(self) -> bool:
        self.most = max(self.most, len(self.alive()))
        return self.node.answered()

    def assert_answered_once(self, *, seconds: float = 60) -> None:
        wait_for(self.answered, seconds=seconds)
        (answer,) = self.node.answers
        assert not answer.has_error()
        assert len(self.working()) == 1
        assert self.most == 1


def alive(pid: int) -> bool:
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return False


@contextmanager
def hospital(
    folder: Path, *, importing: float, work: float = 0.0, claim: float = CLAIM, signalled: bool = True
) -> Iterator[Hospital]:
    """One whose launchers need so many seconds for their imports, and so many for their work.

    Args:
        claim: seconds that Flower gives a claim.
        signalled: with Linux' signal at the end of a parent, which other systems do not have.
    """
    noted, secret = folder / "noted", folder / "secret"
    noted.mkdir()
    secret.write_text(SECRET, encoding="utf-8")
    code = SUPEREXEC.format(
        launcher=(LAUNCHER, str(noted), str(importing), str(work), str(signalled)),
        times=(claim / 6, claim / 3, 2 * claim),  # as those of the program to 30 s
    )
    command = [sys.executable, "-c", code, "--superexec-auth-secret-file", str(secret)]
    environment = {**os.environ, **QUIET, "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
    with (
        pytest.MonkeyPatch.context() as patch,
        supernode() as node,
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [*command, "--root-certificates", str(node.authority), "--runtime-api-address", node.address],
            stdout=log,
            stderr=log,
            env=environment,
        ) as process,
    ):
        patch.setattr(in_memory_corestate, "HEARTBEAT_DEFAULT_INTERVAL", claim)
        made = Hospital(node, process, noted)
        try:
            yield made
        finally:
            for pid in [process.pid, *descendants(process.pid), *made.begun()]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            print((folder / "log").read_text(encoding="utf-8"))


def test_a_claim_is_held_until_it_is_closed_and_no_answer_follows_from_that() -> None:
    """Neither a refused heartbeat nor a SuperNode that is gone does anything to the process that sends it."""
    internals.check_claims()
    with supernode() as node:
        node.order()
        (task,) = node.state.get_tasks()
        token = node.state.claim_task(task.task_id)
        assert token is not None
        claim = Claim(Task(node.address, token, str(node.authority)))
        assert node.state.activate_task(task.task_id)
        assert claim.keep() is True
        assert Claim(Task(node.address, "another", str(node.authority))).keep() is False
        with supernode() as stranger:
            assert Claim(Task(node.address, token, str(stranger.authority))).keep() is None, "it did not prove itself"
        claim.close()
        assert claim.keep() is False
        assert not node.started() and not node.answered()
        claim.close()
    assert claim.keep() is None
    claim.close()


def test_a_message_has_one_process_however_long_that_imports(tmp_path: Path) -> None:
    with hospital(tmp_path, importing=3 * CLAIM) as site:
        site.node.order()
        site.assert_answered_once()
        assert len(site.begun()) == 1, "the message was given out again"


@pytest.mark.parametrize("driver", [False, True])
def test_every_message_has_a_process_of_its_own_and_the_imports_are_done_once_unless_a_driver_forbids_to_fork(
    tmp_path: Path, driver: bool
) -> None:
    with hospital(tmp_path, importing=0.5) as site:
        if driver:
            (tmp_path / "noted" / "driver").touch()
        for number in (1, 2):
            site.node.order()
            wait_for(lambda number=number: site.answered() and len(site.node.answers) == number, seconds=60)
        assert not any(answer.has_error() for answer in site.node.answers)
        assert len(set(site.working())) == 2
        if driver:
            assert set(site.working()) <= set(site.begun()), "each launcher answers one message itself"
        else:
            assert len(site.begun()) == 1 and not set(site.working()) & set(site.begun())


@pytest.mark.nightly
def test_it_has_one_in_flowers_own_half_minute_too(tmp_path: Path) -> None:
    with hospital(tmp_path, importing=90, claim=30) as site:
        site.node.order()
        site.assert_answered_once(seconds=240)
        assert len(site.begun()) == 1, "the message was given out again"


def test_a_process_that_dies_before_its_answer_has_a_follower_soon(tmp_path: Path) -> None:
    with hospital(tmp_path, importing=2.0) as site:
        site.node.order()
        wait_for(site.begun, seconds=60)
        wait_for(lambda: site.node.started(), seconds=60)
        os.kill(site.begun()[0], signal.SIGKILL)
        site.assert_answered_once()
        assert len(site.begun()) == 2


@pytest.mark.slow
def test_where_the_machine_slept_a_message_that_comes_again_finds_the_first_process_ended(tmp_path: Path) -> None:
    with hospital(tmp_path, importing=2.0) as site:
        site.node.order()
        wait_for(lambda: site.begun() and site.node.started(), seconds=60)
        asleep = [site.process.pid, *site.begun()]
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2 * CLAIM + 1)
        assert not site.node.started(), "the claim has lapsed"
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        site.assert_answered_once()
        assert len(site.begun()) == 2
        assert not alive(asleep[1])


@pytest.mark.parametrize(
    ("ends", "doing", "signalled"),
    [
        pytest.param("SuperExec", "importing", True, marks=pytest.mark.skipif(not LINUX, reason="Linux' own signal")),
        ("SuperExec", "importing", False),
        ("SuperExec", "working", False),
        ("SuperNode", "working", False),
    ],
)
def test_no_launcher_outlives_its_superexec_or_supernode(
    tmp_path: Path, ends: str, doing: str, signalled: bool
) -> None:
    importing = 600.0 if doing == "importing" else 0.0
    with hospital(tmp_path, importing=importing, work=600.0, signalled=signalled) as site:
        site.node.order()
        wait_for(site.begun if doing == "importing" else site.working, seconds=60)
        if ends == "SuperExec":
            site.process.kill()
            site.process.wait()
        else:
            site.node.stop()
        wait_for(lambda: not site.alive(), seconds=30)


@pytest.mark.parametrize(("code", "ours", "said"), [(-9, False, True), (-9, True, False), (1, False, False)])
def test_a_process_that_the_system_ended_is_said_at_the_hospital(
    code: int,
    ours: bool,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Ended:
        ended = ours

        def exit_code(self) -> int:
            return code

    class Kept:
        def keep(self) -> bool:
            return True

    note = tmp_path / "note"
    monkeypatch.setenv(SLOW_NOTE, str(note))
    answering = superexec.Answering(1, Kept(), Ended())  # type: ignore[arg-type]
    wait_for(lambda: answering.over, seconds=10)
    assert (superexec.KILLED in capsys.readouterr().err) is said
    assert note.exists() is said
