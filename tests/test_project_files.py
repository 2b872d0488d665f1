"""What stands beside the code: licence, citation, hooks, and what of it goes into the wheel and the image."""

from __future__ import annotations

import hashlib
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import yaml

REPO = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))


def text(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def test_the_licence_is_the_apache_licence_to_the_letter() -> None:
    official = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256((REPO / "LICENSE").read_bytes()).hexdigest() == official
    assert PROJECT["project"]["license"] == "Apache-2.0" and PROJECT["project"]["license-files"] == ["LICENSE"]


def test_every_package_carries_its_types() -> None:
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["*"]
    for package in (*PROJECT["tool"]["mypy"]["packages"], "deploy/python/relay"):
        assert (REPO / package / "py.typed").is_file()


def test_the_image_is_built_of_all_that_the_wheel_is_built_of() -> None:
    shut_out, *let_in = [line for line in text(".dockerignore").splitlines() if not line.startswith("#")]
    found = PROJECT["tool"]["setuptools"]["packages"]["find"]
    needed = [
        *(f"{module}.py" for module in PROJECT["tool"]["setuptools"]["py-modules"]),
        *(pattern.rstrip("*") for pattern in found["include"] if (REPO / pattern.rstrip("*")).is_dir()),
        *(folder.partition("/")[0] for folder in found["where"] if folder != "."),
        *PROJECT["project"]["license-files"],
        PROJECT["project"]["readme"],
        "pyproject.toml",
        "constraints.txt",
    ]
    assert shut_out == "*"
    for name in needed:
        assert any(line.startswith("!") and fnmatch(name, line[1:]) for line in let_in), name


def test_the_hooks_are_this_projects_own_and_need_no_network() -> None:
    repos = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    hooks = repos[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    # Each is a line of `make test`.
    made = text("Makefile").replace("$(BIN)", ".venv/bin")
    for hook in hooks:
        assert hook["entry"].removesuffix(" --force-exclude") in made


def test_the_citation_names_the_software_and_the_paper() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0" and citation["message"]
    (paper,) = citation["references"]
    assert paper["title"] in text("README.md")
    for author in paper["authors"]:
        assert author["family-names"] in text("README.md")


def test_the_changelog_begins_with_what_is_not_released_yet() -> None:
    first, *earlier = re.findall(r"^## \[(\S+)\](.*)$", text("CHANGELOG.md"), re.MULTILINE)
    assert first[1] == " - unreleased" and earlier


def test_the_images_say_what_they_are() -> None:
    targets = re.findall(
        r"^FROM base AS (?:relay|gateway)\n(.*?)(?=^FROM|\Z)", text("deploy/docker/Dockerfile"), re.M | re.S
    )
    assert len(targets) == 2
    for target in targets:
        labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', target))
        assert labels.keys() == {"title", "description", "version", "licenses"}
        assert labels["version"] == PROJECT["project"]["version"]
        assert labels["licenses"] == PROJECT["project"]["license"]
    assert f"image: relay:{PROJECT['project']['version']}" in text("docker-compose.yml")


def test_the_definition_for_apptainer_is_of_the_same_parts_as_the_image() -> None:
    """Nobody builds it here, so that its file is held against the Dockerfile, which is built."""
    definition, docker = text("deploy/apptainer/relay.def"), text("deploy/docker/Dockerfile")
    sections = dict(re.findall(r"^%(\w+)\n((?:    .*\n)*)", definition, re.MULTILINE))
    bases = re.findall(r"^(?:From: |ARG PYTHON=)(\S+)$", definition + docker, re.MULTILINE)
    assert len(bases) == 2 and len(set(bases)) == 1
    copied = [line.split()[0] for line in sections["files"].splitlines()]
    assert all((REPO / path).is_file() for path in copied if not path.startswith("dist/")), copied
    install = "sh /src/install /opt/relay/bin/python /src dependencies"
    assert install in sections["post"] and install in docker
    assert f"org.opencontainers.image.version {PROJECT['project']['version']}\n" in sections["labels"]
    assert all(variable in docker for variable in re.findall(r"(FLWR_\w+=1)", sections["environment"]))
