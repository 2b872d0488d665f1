"""What is installed beside relay: every file by its hash, under licences that go together, listed for whoever asks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.licences import ALLOWED, ELSEWHERE, licence_of, locked, page, parts_of

REPO = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")
OWN = re.search(r"^TORCH := (.*?[^\\])$", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
"""The packages of which hospitals have builds of their own."""


def names(lock: str) -> set[str]:
    return {canonicalize_name(name) for name in locked(REPO / lock)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_by_hashes_at_the_version_of_the_constraints(lock: str) -> None:
    text = (REPO / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line]
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+$", entry), entry
    constraints = (REPO / "constraints.txt").read_text(encoding="utf-8")
    pinned = dict(line.split("==") for line in constraints.splitlines() if "==" in line)
    wanted = {canonicalize_name(name): version for name, version in pinned.items()}
    found = {canonicalize_name(name): version for name, version in locked(REPO / lock).items()}
    assert {name: version for name, version in found.items() if wanted.get(name, version) != version} == {}


@pytest.mark.parametrize(("lock", "extras"), [(LOCKS[0], ()), (LOCKS[1], ("dev", "dicom-seg"))])
def test_a_lock_holds_all_that_is_asked_for_and_all_that_that_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    """Read from the metadata of what is installed: without this, `--no-deps` would leave something out."""
    assert OWN is not None
    own = set(OWN[1].replace("\\", " ").split())
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    queue = [Requirement(line) for line in asked]
    seen: set[str] = set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in seen or name in own:
            continue
        seen.add(key)
        assert name in names(lock), f"{name} is missing in {lock}; make lock"
        for line in metadata.requires(name) or []:
            inner = Requirement(line)
            if inner.marker is None or any(
                inner.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            ):
                inner.marker = None
                queue.append(inner)
    assert len(seen) > 50


def test_every_licence_goes_together_with_relays_own_and_the_page_says_so() -> None:
    for name in locked(REPO / LOCKS[0]):
        licence = licence_of(name)
        assert parts_of(licence or "MIT") <= ALLOWED, f"{name} is under {licence}"
    kept = (REPO / "docs" / "reference" / "licences.md").read_text(encoding="utf-8")
    assert kept == page(REPO / LOCKS[0]), "Stale; run: .venv/bin/python -m deploy.licences docs/reference/licences.md"
    assert kept.count(ELSEWHERE) <= 3


def test_image_and_make_install_by_hashes_alone_but_for_torch() -> None:
    for path in ("Makefile", "deploy/docker/install"):
        text = (REPO / path).read_text(encoding="utf-8")
        installs = re.findall(r"-m pip install [^\n]*", text)
        assert len(installs) >= 3
        for line in installs:
            by_hash = "--require-hashes" in line and "--no-deps" in line
            own = (
                line.endswith("torch torchvision")
                or "--no-deps --no-build-isolation" in line
                or "--no-deps $from" in line
            )
            tool = "cyclonedx-bom" in line
            assert by_hash or own or tool, f"{path}: {line}"


@pytest.mark.slow
def test_a_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    tool = REPO / ".venv-supply" / "bin" / "cyclonedx-py"
    if not tool.exists():
        pytest.skip("the tool is not installed here; `make sbom` installs it")
    out = tmp_path / "sbom.json"
    command = [tool, "environment", "--pyproject", REPO / "pyproject.toml", "--output-format", "JSON"]
    subprocess.run([*command, "--output-file", out, sys.executable], check=True, capture_output=True, timeout=120)
    bill = json.loads(out.read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    listed = {(canonicalize_name(part["name"]), part["version"]) for part in bill["components"]}
    assert {(canonicalize_name("flwr"), metadata.version("flwr")), ("torch", metadata.version("torch"))} <= listed
