"""Only `client/` ever sees an image: the rooms do not reach into each other."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hospitals import REPO

ROOMS = ("client", "common", "deploy", "server")
MAY = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "deploy": set(ROOMS),
}
INSIDE: dict[str, dict[str, set[str]]] = {
    "client": {
        "archive": set(),
        "data": set(),
        "data_check": {"data", "preprocessing"},
        "preprocessing": {"data"},
        "training": {"data", "preprocessing"},
        "evaluation": {"data", "preprocessing", "training"},
        "stages": {"data", "evaluation", "governance", "preprocessing", "training"},
        "governance": {"data", "preprocessing"},
        "delivery": {"evaluation", "governance", "preprocessing", "stages", "training"},
        "inference": {"data", "delivery", "evaluation", "preprocessing", "training"},
    },
    "server": {
        "ledger": set(),
        "progress": set(),
        "transport": {"progress"},
        "scheduling": {"ledger", "progress", "transport"},
        "results": {"ledger", "scheduling"},
        "report": {"results"},
    },
    "common": {
        "statistics": set(),
        "strategies": set(),
        "networks": set(),
        "config": {"networks", "strategies"},
        "model": {"config", "networks"},
        "protocol": {"model"},
        "plan": {"config", "protocol", "strategies"},
    },
    "deploy": {
        "flower": set(),
        "phantom": set(),
        "pki": set(),
        "coordinator": {"flower", "pki"},
        "site": {"flower", "pki"},
        "simulation": {"flower"},
        "planning": {"simulation"},
        "docker": {"coordinator", "phantom", "site"},
        "cli": {"coordinator", "phantom", "planning", "simulation", "site"},
    },
}
"""The folders of a room, and which other folders of it each may import."""
PUBLIC_IN_FLOWER = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.common"}
"""The modules that Flower documents for apps. All others may change with any release."""
PRIVATE_IN_FLOWER = Path("deploy/flower/internals.py")
"""The one file that may use others."""
FLOWERS = re.compile(r"flwr(\.[A-Za-z_][A-Za-z_0-9]*)+")
DOTTED = re.compile(rf"({'|'.join(ROOMS)})(\.[a-z_][a-z_0-9]*)+(:[a-z_]+)?")


def files(room: str) -> list[Path]:
    found = sorted((REPO / room).rglob("*.py"))
    assert found
    return found


def reached(path: Path) -> Iterator[str]:
    """What a file imports, with what it names in strings that could be handed to an importer."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(REPO).parts[: -node.level] if node.level else ()
            yield ".".join([*package, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and _is_importer(node.func):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (name for name in names if isinstance(name, str))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_module(node.value):
            yield node.value


def _is_importer(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__", "find_spec", "run_module", "load_module")


def _is_module(name: str) -> bool:
    if not DOTTED.fullmatch(name):
        return False
    path = REPO / name.partition(":")[0].replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists() or path.parent.with_suffix(".py").exists()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for path in files(room):
        for name in reached(path):
            top = name.partition(".")[0]
            assert top not in ROOMS or top in MAY[room], f"{path.relative_to(REPO)} reaches {name}"
            assert top != "tests", f"{path.relative_to(REPO)} reaches {name}"


def private_in_flower(path: Path) -> set[str]:
    """The modules and underscored names of Flower's that a file uses though Flower documents none of them."""
    found = {name for name in reached(path) if name.partition(".")[0] == "flwr"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and FLOWERS.fullmatch(node.value):
            found.add(node.value)
        if isinstance(node, ast.ImportFrom) and node.module in PUBLIC_IN_FLOWER:
            found.update(f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_"))
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("metadata.__dict__"):
            found.add(ast.unparse(node))
    return found - PUBLIC_IN_FLOWER


@pytest.mark.parametrize("room", ROOMS)
def test_private_names_of_flower_are_used_in_one_file(room: str) -> None:
    for path in files(room):
        if path.relative_to(REPO) != PRIVATE_IN_FLOWER:
            assert not private_in_flower(path), path.relative_to(REPO)
    assert private_in_flower(REPO / PRIVATE_IN_FLOWER)


@pytest.mark.parametrize(
    "line",
    [
        "import flwr.supercore.run",
        "from flwr.proto.node_pb2 import NodeInfo",
        "from flwr import supercore",
        "def f():\n    from flwr.app.message import Message",
        "importlib.import_module('flwr.supernode.cli')",
        "RUNTIME = 'flwr.supernode.runtime.run_clientapp'",
        "from flwr.common import _lazy",
        "message.metadata.__dict__['_message_id'] = 'x'",
    ],
)
def test_the_reader_sees_every_private_name_of_flowers(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m.py"
    path.write_text(line)
    assert private_in_flower(path)
    path.write_text("from flwr.app import Message\nfrom flwr.serverapp import Grid\nlogging.getLogger('flwr')")
    assert not private_in_flower(path)


@pytest.mark.parametrize("room", INSIDE)
def test_a_folder_of_a_room_imports_only_what_it_may(room: str) -> None:
    folders = {path.parent.name for path in (REPO / room).glob("*/__init__.py")}
    assert folders == set(INSIDE[room])
    for folder, may in INSIDE[room].items():
        for path in (REPO / room / folder).rglob("*.py"):
            for name in reached(path):
                top, _, inner = name.partition(".")
                other = inner.partition(".")[0]
                assert top != room or other not in folders - {folder} - may, f"{path} reaches {name}"


@pytest.mark.parametrize("room", INSIDE)
def test_no_two_folders_of_a_room_import_each_other_by_any_way(room: str) -> None:
    order = list(graphlib.TopologicalSorter(INSIDE[room]).static_order())  # raises where there is a circle
    assert set(order) == set(INSIDE[room])


@pytest.mark.parametrize("room", ROOMS)
def test_the_tests_of_a_room_lie_as_its_folders_do(room: str) -> None:
    """Nested folders, such as the layouts, too."""
    for tests in (REPO / "tests" / room).rglob("test_*.py"):
        folder = tests.parent.relative_to(REPO / "tests")
        assert (REPO / folder / "__init__.py").exists(), f"{tests.relative_to(REPO)} is not beside what it tests"


def test_the_reader_of_imports_sees_every_way_of_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above could not fail."""
    monkeypatch.setitem(globals(), "REPO", tmp_path)
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "app.py").touch()
    (tmp_path / "server").mkdir()
    for number, line in enumerate(
        (
            "import client",
            "import json, client.app as harmless",
            "from client.app import app",
            "def f():\n    from client import app",
            "importlib.import_module('client.app')",
            "__import__('client')",
            "name = 'client.app:app'",
            "from ..client import app",
        )
    ):
        path = tmp_path / "server" / f"m{number}.py"
        path.write_text(line)
        assert any(name.partition(".")[0].partition(":")[0] == "client" for name in reached(path)), line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "without"),
    [("server", ("client", "deploy")), ("client", ("server", "deploy")), ("common", ("client", "server", "deploy"))],
)
def test_importing_all_of_a_room_brings_none_of_the_others(room: str, without: tuple[str, ...]) -> None:
    modules = [".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__") for path in files(room)]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in sys.modules if name.partition('.')[0] in {without!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_what_flower_carries_holds_no_code_of_a_hospital() -> None:
    import tomllib

    bundle = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["fab-include"]
    carried = {path.relative_to(REPO).parts[0] for pattern in bundle for path in REPO.glob(pattern)}
    assert carried
    assert not carried & {"client", "deploy"}
