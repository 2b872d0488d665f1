"""The notebooks run from their first cell to their last, as somebody who opens them would run them.

Their cells are run by Python itself: they hold nothing of Jupyter's own, which a test asserts.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hospitals import REPO

NOTEBOOKS = sorted((REPO / "examples" / "notebooks").glob("*.ipynb"))
SHOWN = """
import ast, sys

def run(source, names):
    \"\"\"Run a cell, and show the value of its last line, as Jupyter does.\"\"\"
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        for form in ("_repr_html_", "__repr__"):
            if hasattr(value, form):
                print(getattr(value, form)())
                return
"""


def cells(path: Path) -> list[str]:
    return [
        cell["source"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_plain_python_without_outputs(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4 and len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert content["cells"][0]["source"].startswith("# ")
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            ast.parse(cell["source"])
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert path.name in (REPO / "examples" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(path: Path, tmp_path: Path) -> None:
    program = SHOWN + "names = {'__name__': '__main__'}\n"
    for cell in cells(path):
        program += f"run({cell!r}, names)\n"
    programs = Path(sys.executable).parent
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "<table" in done.stdout and "report.html" in done.stdout
