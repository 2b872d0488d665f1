"""One class name stands for one thing, in all rooms together."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.support.hospitals import REPO

ROOMS = ("client", "common", "deploy", "server")
FOR_USERS = Path("deploy", "python")
"""What `import relay` gives: its classes have the names of what they hold."""


def declared(repo: Path) -> dict[str, list[Path]]:
    """By the name of a public class, the files that declare it."""
    found: dict[str, list[Path]] = defaultdict(list)
    for room in ROOMS:
        for path in sorted((repo / room).rglob("*.py")):
            if path.is_relative_to(repo / FOR_USERS):
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(path.relative_to(repo))
    return found


def test_no_public_class_name_is_declared_twice() -> None:
    twice = {name: paths for name, paths in declared(REPO).items() if len(paths) > 1}
    assert not twice


def test_the_reader_of_names_sees_a_name_that_is_declared_twice(tmp_path: Path) -> None:
    """Or the test above could not fail."""
    for room in ("client", "server"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "rows.py").write_text("class Row:\n    class Part: ...\n\nclass _Row: ...\n")
    assert declared(tmp_path) == {"Row": [Path("client/rows.py"), Path("server/rows.py")]}
