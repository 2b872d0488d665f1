"""The very same apps run in Flower's own simulation, started as a user would: `flwr run`."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from common.config.study import study_toml
from tests.support.hospitals import forget_stages, run_on_grid, small_study, write_hospitals

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_that_know(word: str) -> list[int]:
    """Processes with `word` in their environment: what this test started, and nothing else."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a user's shell; on leaving, everything that was started in it is ended."""
    home = tmp_path / "flower-home"
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = ":local:"\n', encoding="utf-8"
    )
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(a_free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(a_free_port()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    yield environment
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_that_know(f"FLWR_HOME={home}"):
            with suppress(ProcessLookupError):
                os.kill(pid, kind)
        time.sleep(1)


def test_the_bundle_that_flower_carries_holds_no_code(tmp_path: Path, flower: dict[str, str]) -> None:
    built = subprocess.run(
        [BIN / "flwr", "build", "--app", REPO], cwd=tmp_path, env=flower, capture_output=True, encoding="utf-8"
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (bundle,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(bundle) as file:
        assert sorted(file.namelist()) == [".info/CONTENT", "pyproject.toml"]
        app = tomllib.loads(file.read("pyproject.toml").decode())["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}


def test_flower_run_gives_what_the_embedded_grid_gives(tmp_path: Path, flower: dict[str, str]) -> None:
    assert importlib.util.find_spec("ray"), "ray is missing: install the project with its dev dependencies"
    study = small_study(
        training={"epochs": 1},
        methods={"sequential": {"routes": (("B", "C", "A"),)}, "federated": ({"then_target": False},)},
    )
    sites = write_hospitals(tmp_path / "hospitals", {"A": 4, "B": 4, "C": 5}, slices=5)
    embedded, _ = run_on_grid(study, sites, tmp_path / "embedded")
    forget_stages(sites)  # so that nothing is answered from what a site kept of the first run
    study_file = tmp_path / "study.toml"
    study_file.write_text(study_toml(study), encoding="utf-8")
    out = tmp_path / "flower"
    started = subprocess.run(
        [
            BIN / "flwr",
            "run",
            REPO,
            "local",
            "--stream",
            "--run-config",
            f'study="{study_file}" out="{out}"',
            "--federation-config",
            "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=1 init-args-log-to-driver=true",
        ],
        env=flower | {"RELAY_SITES": os.pathsep.join(str(path) for path in sites.values())},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
    )
    assert (out / "results.json").exists(), started.stdout[-6000:]
    ours = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert ours["parked"] == []
    assert len(ours["rows"]) == 2 * (1 + 2 * 3)
    assert ours == json.loads(json.dumps(embedded))
    assert (out / "report.html").exists()
