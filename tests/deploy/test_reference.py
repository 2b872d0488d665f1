"""The pages of docs/reference say what the code takes, and explain all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.site_config import SiteConfig
from common.config.study import Study
from common.protocol.refusals import REFUSALS, Refusal
from deploy import reference
from server.results.schema import Results
from tests.support.hospitals import REPO

FOLDER = REPO / "docs" / "reference"
HELD_BY_ANOTHER_TEST = {"layouts.md", "licences.md"}
"""tests/client/data/layouts/test_matrix.py holds its table to what happens, tests/test_supply.py to the lock file."""
ROOMS = ("client", "common", "deploy", "server")
NAME = re.compile(r"""["'](_?RELAY_[A-Z_]+)["']""")
MADE_FROM_THE_PROGRAM_NAME = {"_RELAY_COMPLETE"}
"""`deploy/cli/program.py` puts it together."""


@pytest.mark.parametrize("name", reference.pages())
def test_a_page_is_what_the_code_makes_it(name: str) -> None:
    on_disk = (FOLDER / name).read_text(encoding="utf-8")
    assert on_disk == reference.pages()[name], "Stale; run: .venv/bin/python -m deploy.reference docs/reference"


def test_no_page_is_left_that_nothing_makes() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(reference.pages()) | HELD_BY_ANOTHER_TEST


@pytest.mark.parametrize("page", ["study-toml.md", "site-toml.md", "results-json.md"])
def test_every_key_of_a_file_is_explained(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", reference.pages()[page].partition("## Layouts")[0], re.MULTILINE)
    known = {
        "study-toml.md": {"encoder", "epochs", "laps"},
        "site-toml.md": {"images"},
        "results-json.md": {"ci95", "lr", "trainings_of_all_routes"},
    }
    assert {key for key, _ in rows} >= known[page]
    for key, rest in rows:
        assert len(rest.rpartition(" | ")[2].strip()) > 10, f"{key} has no docstring under it"


def test_every_key_of_every_table_stands_on_its_page() -> None:
    for model, page in ((Study, "study-toml.md"), (SiteConfig, "site-toml.md"), (Results, "results-json.md")):
        sections = set(re.findall(r"^## `\[*([\w.]+?)[\[\]]*`$", reference.pages()[page], re.MULTILINE))
        keys = set(re.findall(r"^\| `(\w+)` \|", reference.pages()[page], re.MULTILINE))
        assert set(model.model_fields) <= keys | sections


def test_every_refusal_has_a_code_and_a_text() -> None:
    page = reference.pages()["error-codes.md"]
    assert set(REFUSALS) == set(Refusal)
    for code, text in REFUSALS.items():
        assert f"| {int(code)} | `{code.code}` | {text} |" in page


def test_every_environment_variable_is_explained_and_each_is_read() -> None:
    files = [REPO / "prostate_relay.py", *(path for room in ROOMS for path in (REPO / room).rglob("*.py"))]
    named = {
        name for path in files if path != Path(reference.__file__) for name in NAME.findall(path.read_text("utf-8"))
    }
    assert named | MADE_FROM_THE_PROGRAM_NAME == set(reference.ENVIRONMENT)
    compose = (REPO / "docker-compose.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{(RELAY_\w+)", compose))
    explained = set(reference.compose_variables())
    assert {re.sub("_[BC]$", "_A", name) for name in used} == explained
