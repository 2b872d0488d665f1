"""docker-compose.yml as a user starts it: built, brought up, disturbed, taken down. Run by `make test-compose`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from client.site_config import load_site
from common.config.study import Study, load_study, study_toml
from deploy.docker.three_hospitals import PATIENTS
from deploy.phantom import write_hospitals
from tests.support.federation import wait_for
from tests.support.hospitals import REPO, run_on_grid, small_study

PROJECT = "relay-test"
STUDY = small_study(
    preprocessing={"spacing_mm": 3.75},
    split={"test_fraction": 0.25, "use_folds": 1},
    training={"epochs": 3},
    methods={
        "sequential": {"routes": (("B", "C", "A"),)},
        "federated": ({"strategy": "fedavg", "rounds": 1, "then_target": False},),
    },
)
RUNNING = ("coordinator", "superexec", "gateway", "hospital-a", "hospital-b", "hospital-c", "study")

# From inside a container: which of the addresses can be reached, one letter an address.
REACH = """
import socket, sys
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 4).close()
        print("y", end="")
    except OSError:
        print("n", end="")
"""

# From inside a hospital: the status of a request at the gateway, with the hospital's certificate or without.
ASK = """
import http.client, ssl, sys
from client.site_config import load_site
from deploy.site.keys import admission
from pathlib import Path
papers = admission(load_site(Path("/site/site.toml")))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(cadata=papers.kit.authority)
if sys.argv[1] == "with":
    context.load_cert_chain(papers.certificate, papers.tls_key)
for path in sys.argv[2:]:
    connection = http.client.HTTPSConnection("gateway", 8443, context=context, timeout=10)
    connection.request("POST", path, b"")
    print(connection.getresponse().status, end=" ")
"""


def engine() -> bool:
    return (
        shutil.which("docker") is not None
        and subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode == 0
    )


pytestmark = [
    pytest.mark.compose,
    pytest.mark.skipif(not engine(), reason="no Docker engine answers on this machine"),
]


class Compose:
    """The project under a name of its own, with a study and a result folder of the test's."""

    def __init__(self, folder: Path, of: Study) -> None:
        self.folder, self.out = folder, folder / "out"
        study = folder / "study.toml"
        study.write_text(study_toml(of), encoding="utf-8")
        study.chmod(0o644)
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "RELAY_STUDY": str(study),
            "RELAY_OUT": str(self.out),
        }

    def __call__(self, *words: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "compose", *words],
            cwd=REPO,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=seconds,
        )

    def done(self, *words: str, seconds: float = 300) -> str:
        run = self(*words, seconds=seconds)
        assert run.returncode == 0, f"{words}: {run.stdout}{run.stderr}"
        return run.stdout

    def inspect(self, service: str) -> dict[str, Any]:
        name = f"{PROJECT}-{service}-1"
        found = subprocess.run(["docker", "inspect", name], capture_output=True, encoding="utf-8", timeout=60)
        return dict(json.loads(found.stdout)[0])

    def address(self, service: str) -> str:
        """Any of its addresses."""
        return next(iter(self.inspect(service)["NetworkSettings"]["Networks"].values()))["IPAddress"]

    def kill(self, *services: str) -> None:
        for service in services:
            subprocess.run(["docker", "kill", f"{PROJECT}-{service}-1"], check=True, capture_output=True, timeout=60)

    def told(self) -> str:
        return self("logs", "--no-color", "--tail", "40").stdout

    def until_said(self, text: str) -> None:
        wait_for(lambda: text in (self.out / "study.log").read_text(encoding="utf-8"), seconds=600, told=self.told)

    def down(self) -> None:
        self.done("down", "-v", "--remove-orphans")


@pytest.fixture
def study(request: pytest.FixtureRequest) -> Study:
    """`STUDY`, unless a test is about another."""
    given: Study = getattr(request, "param", STUDY)
    return given


@pytest.fixture
def embedded(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], set[str]]:
    """What the study gives with all hospitals on one machine: its results, and the names of its weights."""
    folder = tmp_path_factory.mktemp("embedded")
    sites = {name: write_hospitals(folder / name, patients={name: count})[name] for name, count in PATIENTS.items()}
    for path in sites.values():
        path.write_text(path.read_text(encoding="utf-8") + 'device = "cpu"\n', encoding="utf-8")
    results, _ = run_on_grid(study, sites, folder / "out")
    return json.loads(json.dumps(results)), {path.name for path in (folder / "out" / "weights").iterdir()}


@pytest.fixture
def compose(study: Study, tmp_path: Path) -> Iterator[Compose]:
    made = Compose(tmp_path, study)
    made.down()
    made.done("build", "--quiet", seconds=1800)
    yield made
    made.down()


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what each site draws for itself: the numbers in patients' places, and so the stage's key."""
    cases = {name: sorted(found.values()) for name, found in row.items() if "case_" in name and found is not None}
    assert {"case_dice", "validation_case_dice"} <= cases.keys()
    return {name: value for name, value in row.items() if name != "stage"} | cases


def assert_equal(compose: Compose, embedded: tuple[dict[str, Any], set[str]]) -> None:
    results = json.loads((compose.out / "results.json").read_text(encoding="utf-8"))
    assert results["parked"] == []
    assert [comparable(row) for row in results["rows"]] == [comparable(row) for row in embedded[0]["rows"]]
    assert {path.name for path in (compose.out / "weights").iterdir()} == embedded[1]


def without_bfloat16() -> Study:
    """The study that `docker compose up` runs, as a machine without bfloat16 runs it."""
    apart = load_study(REPO / "deploy" / "studies" / "apart.toml")
    return apart.model_copy(update={"training": apart.training.model_copy(update={"precision": "float32"})})


@pytest.mark.parametrize("study", [without_bfloat16()], ids=["apart"], indirect=True)
def test_up_ends_with_the_table_of_the_embedded_run_and_down_leaves_nothing(
    compose: Compose, embedded: tuple[dict[str, Any], set[str]]
) -> None:
    run = compose("up", "--no-color", "--exit-code-from", "study", seconds=1500)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert_equal(compose, embedded)
    assert "Volume Dice, a mean over held-out patients" in run.stdout
    assert (compose.out / "report.html").stat().st_size > 10_000
    compose.down()
    for kind in ("volume", "network", "container"):
        command = ["docker", kind, "ls", "-q", "--filter", f"label=com.docker.compose.project={PROJECT}"]
        command += ["-a"] if kind == "container" else []
        assert subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60).stdout == ""


def test_parts_that_are_killed_and_started_again_change_nothing_and_nobody_reaches_what_is_not_theirs(
    compose: Compose, embedded: tuple[dict[str, Any], set[str]], tmp_path: Path
) -> None:
    """Hospital A brings its own images and site file, the others are made in volumes."""
    images, site = own_hospital(tmp_path / "own")
    compose.environment |= {"RELAY_DATA_A": str(images), "RELAY_SITE_A": str(site)}
    compose.done("up", "-d", seconds=600)
    try:
        assert_contained(compose)
        assert_apart(compose)
        compose.until_said("C: B → C, fold 1")
        compose.kill("hospital-c")
        time.sleep(3)
        compose.done("start", "hospital-c")
        compose.until_said("A: B → C → A, fold 1")
        # The study's own program dies with the SuperExec.
        compose.kill("superexec", "coordinator")
        time.sleep(5)
        compose.done("start", "coordinator", "superexec")
        ended = subprocess.run(
            ["docker", "wait", f"{PROJECT}-study-1"], capture_output=True, encoding="utf-8", timeout=1200
        )
    except subprocess.TimeoutExpired:
        raise AssertionError(compose.told()) from None
    assert ended.stdout.strip() == "0", compose.told()
    assert "submitted again" in compose.done("logs", "study")
    assert_equal(compose, embedded)
    assert_received(compose, site)
    assert_revoked(compose)


def own_hospital(folder: Path) -> tuple[Path, Path]:
    """A hospital A as one that brings its own: a folder of images, and one with a site file and nothing else."""
    written = write_hospitals(folder / "images", patients={"A": PATIENTS["A"]})["A"]
    for path in (folder / "images").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    site = folder / "site"
    site.mkdir()
    # Read here as in the container, where the images lie under /data.
    lines = written.read_text(encoding="utf-8").splitlines()
    own = [line for line in lines if line.startswith(("name", "layout", "patient_scores"))]
    paths = [f'images = "/data/{load_site(written).images.relative_to(folder / "images")}"']
    if masks := load_site(written).masks:
        paths.append(f'masks = "/data/{masks.relative_to(folder / "images")}"')
    text = "\n".join([*own, *paths, 'folder = "private"', ""])
    (site / "site.toml").write_text(text, encoding="utf-8")
    return folder / "images", site


def assert_received(compose: Compose, site: Path) -> None:
    """The hospital's own people take the weights out, in the container, and segment a patient with them."""
    compose.done("exec", "-T", "hospital-a", "relay", "site", "receive", "/site/site.toml", "--to", "/site/received")
    there = {path.name for path in (site / "received").iterdir()}
    assert {"model.safetensors", "model-card.md", "letter.txt"} <= there, there
    series = next(path.parent for path in sorted((site.parent / "images").rglob("*.dcm")))
    inside = f"/data/{series.relative_to(site.parent / 'images')}"
    predict = ("relay", "predict", "/site/received/model.safetensors", inside, "-o", "/site/mask.nii.gz")
    compose.done("exec", "-T", "hospital-a", *predict)
    assert sitk.ReadImage(str(site / "mask.nii.gz")).GetSize()[2] == len(list(series.glob("*.dcm")))


def assert_revoked(compose: Compose) -> None:
    """Hospital C is out within a minute; A is as it was."""
    told = compose.done("run", "--rm", "enroll", "revoke", "C", "--dir", "/coordinator")
    assert "Site C was taken off the SuperLink." in told
    ask = ("python", "-c", ASK, "with", "/v1/fleet/pull-messages")
    wait_for(lambda: compose("exec", "-T", "hospital-c", *ask).stdout.split() == ["400"], seconds=60, told=compose.told)
    assert compose.done("exec", "-T", "hospital-a", *ask).split() not in (["400"], ["403"])


def assert_contained(compose: Compose) -> None:
    """Nobody is root, nothing can be written but what is meant, and no secret stands in the environment."""
    for service in RUNNING:
        found = compose.inspect(service)
        host = found["HostConfig"]
        assert found["Config"]["User"] == "1000:1000", service
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"] and host["Init"] and host["Memory"], service
        assert host["NetworkMode"] != "host" and not host["PortBindings"], service
        assert not [entry for entry in found["Config"]["Env"] if "SECRET" in entry or "KEY" in entry.upper()], service
    for letter in "abc":
        mounts = {mount["Destination"]: mount["RW"] for mount in compose.inspect(f"hospital-{letter}")["Mounts"]}
        assert mounts == {"/site": True, "/data": False}
    assert {mount["Destination"] for mount in compose.inspect("study")["Mounts"]} == {
        "/coordinator/control",
        "/coordinator/sites",
        "/results",
        "/study/study.toml",
    }


def assert_apart(compose: Compose) -> None:
    """From inside hospital A: the gateway's one port and nothing else; and there the fleet's path and nothing else."""
    wait_for(lambda: "Connected" in compose("logs", "hospital-a").stdout, seconds=300, told=compose.told)
    others = [compose.address("hospital-b"), compose.address("coordinator"), compose.address("superexec")]
    refused = [f"{others[0]}:{port}" for port in (22, 8443, 9094)]
    refused += [f"{others[1]}:8000", f"{others[2]}:9097", "hospital-b:9094", "coordinator:8000"]
    refused += ["gateway:8081", "gateway:8000", "1.1.1.1:443", "8.8.8.8:53", "example.org:443"]
    reached = compose.done("exec", "-T", "hospital-a", "python", "-c", REACH, "gateway:8443", *refused)
    assert reached == "y" + "n" * len(refused), dict(zip(refused, reached[1:], strict=True))
    # The same addresses are no dream: the study's own container reaches the control interface.
    assert compose.done("exec", "-T", "study", "python", "-c", REACH, "coordinator:8000") == "y"
    closed = ("/v1/control/list-nodes", "/v1/runtime/acquire-task", "/health", "/", "/v1/fleet/../control/list-nodes")
    closed += ("/v1/fleet/%2e%2e/control/list-nodes", "/v1/fleet/register-node", "/v1/fleet/unregister-node")
    answered = compose.done("exec", "-T", "hospital-a", "python", "-c", ASK, "with", *closed, "/v1/fleet/pull-messages")
    *turned_away, fleet = answered.split()
    assert turned_away == ["403"] * len(closed)
    assert fleet not in ("403", "400", "404"), "the fleet's path does pass, and the SuperLink wants the node's key"
    answered = compose.done("exec", "-T", "hospital-a", "python", "-c", ASK, "without", "/v1/fleet/pull-messages")
    assert answered.split() == ["400"]
