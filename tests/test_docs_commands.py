"""Every command that a page shows is one that the program takes: its words are parsed as a shell's would be.

What the commands do is tested where they are; `tests/deploy/test_python.py` runs the blocks of Python.
"""

from __future__ import annotations

import re
import shlex
from contextlib import suppress

import click
import pytest

from deploy.cli.commands import PROGRAM, Call, root
from tests.test_docs import PAGES, REPO

BLOCK = re.compile(r"^( *)```(?:sh|console|bash)?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def commands(text: str) -> list[list[str]]:
    """The words of every line of a page's blocks that calls `relay` or `make`, the program first."""
    found = []
    for _, block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if not re.match(r"\s*(?:[A-Z_]+=\S* )*(?:relay|make) ", line):
                continue
            words = shlex.split(line, comments=True)
            while ASSIGNMENT.fullmatch(words[0]):
                del words[0]
            found.append(words)
    return found


def parsed(words: list[str]) -> None:
    """Take the words after `relay` as the program does, and stop where it would begin to work.

    Raises:
        click.ClickException: the program would refuse them.
    """
    command: click.Command = root()
    context = command.make_context(PROGRAM, list(words), obj=Call(tuple(words)))
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None and name is not None
        command, context = found, found.make_context(name, rest, parent=context)


SHOWN = [
    (str(page.relative_to(REPO)), shlex.join(words))
    for page in PAGES
    for words in commands(page.read_text(encoding="utf-8"))
]


def test_commands_are_found_on_the_pages_that_have_them() -> None:
    shown = {page for page, _ in SHOWN}
    assert {"README.md", "docs/how-to/join-as-a-hospital.md", "docs/how-to/run-a-coordinator.md"} <= shown
    assert len(SHOWN) > 60


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_of_a_page_is_one_that_the_program_takes(page: str, line: str) -> None:
    program, *words = shlex.split(line)
    if program == "make":
        targets = re.findall(r"^([\w./-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert all(word in targets or ASSIGNMENT.fullmatch(word) for word in words), line
        return
    with suppress(click.exceptions.Exit):  # --help and --version
        parsed(words)


@pytest.mark.parametrize(
    "line", ["site chek x.toml", "site check", "site check x.toml --colour red", "study plan s.toml --at-once many"]
)
def test_a_wrong_command_is_found(line: str) -> None:
    """Or the test above could not fail."""
    with pytest.raises(click.ClickException):
        parsed(line.split())


def test_the_words_of_a_block_are_those_of_the_shell() -> None:
    page = "Text\n```\nrelay a \\\n    --b 'c d'   # e\nX=1 relay f\nls\n```\n`relay g`\n  ```sh\n  make h\n  ```\n"
    page += "```toml\nrelay = 1\n```\n"
    assert commands(page) == [["relay", "a", "--b", "c d"], ["relay", "f"], ["make", "h"]]
