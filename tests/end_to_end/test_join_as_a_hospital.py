"""The page "Join as a hospital" is walked, command by command, by one Unix user, with a coordinator of another's.

Between the two are the gateway and the hospital's proxy, and nothing else: no file is read by both.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from common.config.study import study_toml
from deploy.flower.supervisor import a_free_port
from tests.support.connect_proxy import connect_proxy
from tests.support.federation import wait_for
from tests.support.hospitals import REPO, small_study, write_hospitals
from tests.support.other_user import needs_another_user

pytestmark = [
    pytest.mark.slow,
    needs_another_user,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed here"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed here"),
]

PAGE = (REPO / "docs" / "how-to" / "join-as-a-hospital.md").read_text(encoding="utf-8")


def commands(begin: str, end: str) -> list[list[str]]:
    """The relay commands of a part of the page, without their comments."""
    part = PAGE.partition(begin)[2].partition(end)[0]
    return [shlex.split(line, comments=True) for line in re.findall(r"^relay .*$", part, re.MULTILINE)]


class User:
    """A user of this machine with a home of their own."""

    def __init__(self, name: str, home: Path) -> None:
        self.entry, self.home = pwd.getpwnam(name), home
        home.mkdir(mode=0o700)
        os.chown(home, self.entry.pw_uid, self.entry.pw_gid)
        self.prefix = ["setpriv", f"--reuid={self.entry.pw_uid}", f"--regid={self.entry.pw_gid}", "--clear-groups"]
        starts_another = "import deploy.cli, subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
        if self._run([sys.executable, "-c", starts_another]).returncode:
            # This Python lies in root's own folder: the user may read it, and write nothing but what is theirs.
            self.prefix += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]

    def command(self, words: list[str]) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "deploy.cli", *words[1:]]

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HOME": str(self.home), "USER": self.entry.pw_name, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command if command[0] == "setpriv" else [*self.prefix, *command],
            cwd=self.home,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=240,
        )

    def types(self, *words: str) -> str:
        """A command that does what it is for."""
        done = self._run(self.command(list(words)))
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    @contextmanager
    def starts(self, words: list[str], *, until: str) -> Iterator[Path]:
        """A program that runs while the block does; gives the file of what it says."""
        said = self.home / f"{words[1]}.said"
        with said.open("wb") as out:
            process = subprocess.Popen(self.command(words), cwd=self.home, stdout=out, stderr=out)
        try:
            wait_for(
                lambda: until in said.read_text(encoding="utf-8"),
                seconds=200,
                told=lambda: said.read_text(encoding="utf-8"),
            )
            yield said
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def gets(self, path: Path, name: str = "") -> Path:
        """A copy of a file, as it comes by mail."""
        copy = Path(shutil.copy(path, self.home / (name or path.name)))
        os.chown(copy, self.entry.pw_uid, self.entry.pw_gid)
        return copy


@pytest.fixture
def homes() -> Iterator[Path]:
    """A folder that both may enter; pytest shuts its own to everybody but root, also while other tests run."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def test_the_whole_page_by_two_users_through_a_proxy(homes: Path, tmp_path: Path) -> None:
    hospital, coordinator = User("nobody", homes / "hospital"), User("daemon", homes / "coordinator")
    images = write_hospitals(tmp_path / "made", {"A": 5})["A"].parent / "images"
    shutil.copytree(images, hospital.home / "images")
    (tmp_path / "study.toml").write_text(
        study_toml(small_study(sites=("A", "B"), methods={"baseline": True})), encoding="utf-8"
    )
    study = coordinator.gets(tmp_path / "study.toml")
    port = a_free_port()
    coordinator.types(
        *("relay", "enroll", "coordinator", "--host", "localhost", "--port", str(port)),
        *("--superlink", f"127.0.0.1:{a_free_port()}", "--health-port", str(a_free_port())),
    )
    joining = commands("## Once: set the site up", "###")
    assert len(joining) == 5, "five commands to join"
    init, check, join, start, service = joining
    assert [words[2] for words in joining] == ["init", "check", "join", "start", "service"]
    with ExitStack() as running:
        proxy = running.enter_context(connect_proxy(credentials="relay:secret"))
        running.enter_context(coordinator.starts(["relay", "coordinator", "start"], until="Up: the gateway answers"))

        told = hospital.types(*init)
        written = (hospital.home / "site.toml").read_text(encoding="utf-8")
        written = written.replace('device = "auto"', 'device = "cpu"')
        written = written.replace('proxy = ""', f'proxy = "http://relay:secret@127.0.0.1:{proxy.port}"')
        (hospital.home / "site.toml").write_text(written, encoding="utf-8")
        assert "5" in hospital.types(*check)
        coordinator.gets(hospital.home / "A.request")
        (digits,) = re.findall(r"\b(?:[0-9a-f]{4} ){4}[0-9a-f]{4}\b", told)
        coordinator.types("relay", "enroll", "site", "A", "A.request", "--fingerprint", digits)
        hospital.gets(coordinator.home / "relay-coordinator" / "kits" / "A.kit")

        hospital.types(*join)
        with hospital.starts(start, until=f"Connected to localhost:{port}") as said:
            assert f"through the proxy 127.0.0.1:{proxy.port} (" in said.read_text(encoding="utf-8")
            assert "secret" not in said.read_text(encoding="utf-8")
            assert set(proxy.asked) == {f"CONNECT localhost:{port} HTTP/1.1"}
            again = hospital._run(hospital.command(start))
            assert again.returncode == 1 and "runs already, as process" in again.stderr
            assert "A " in coordinator._run(coordinator.command(["relay", "study", "status"])).stdout
        assert said.read_text(encoding="utf-8").endswith("Stopped.\n")
        assert "User=nobody" in hospital.types(*service)

        private = hospital.home / ".relay-A"
        private = private if private.exists() else hospital.home / "private"
        for path in (private, *private.rglob("*")):
            assert path.stat().st_uid == hospital.entry.pw_uid
        assert private.stat().st_mode & 0o777 == 0o700

        # A study, from its approval to its end at this hospital.
        digits = coordinator.types("relay", "study", "hash", "study.toml").strip()
        hospital.gets(study)
        (approve,) = commands("## For each study: approve it, or not", "The command reads")
        approve[approve.index("--hash") + 1] = digits
        assert "approved" in hospital.types(*approve, "--yes").lower()
        for words in commands("## At any time", "- **audit**"):
            hospital.types(*words)
