"""Provide the code shared by the commands of `relay`: the table of files and commands, and the writing of help.

A file of this folder holds `app`, a `typer.Typer` made by `group` (for `relay study …`) or by `top_level` (for `relay
demo`), and a function under `@command` for each command. The function's docstring is the command's help. The function
imports other modules in its body, so that help and shell completion come at once.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command, get_group

from deploy.cli.help_page import HELP

PROGRAM = "relay"

FILES = {
    "demo": "simulation",
    "simulate": "simulation",
    "study": "study",
    "enroll": "enroll",
    "coordinator": "coordinator",
    "courier": "courier",
    "site": "site",
    "report": "results",
    "export": "results",
    "predict": "predict",
    "phantom": "phantom",
}
"""The first word of each command, and the command's file in this folder."""


@dataclass
class Call:
    """Describe how `relay` was called."""

    words: tuple[str, ...] = ()
    """The words after `relay`."""
    debug: bool = False
    """Whether a traceback is wanted."""

    @property
    def line(self) -> str:
        """Return the call as a shell line, for error texts with the command to go on with."""
        return shlex.join([PROGRAM, *self.words])


def this_call() -> Call:
    """Return the call of the running command."""
    return click.get_current_context().ensure_object(Call)


def group(name: str, about: str) -> typer.Typer:
    """Make a group of commands, called as `relay NAME COMMAND`.

    Args:
        name: the group's word.
        about: the group's help.
    """
    return typer.Typer(
        name=name,
        help=about,
        cls=_Group,
        add_completion=False,  # `relay` itself has completion
        rich_markup_mode=None,
        suggest_commands=False,  # Click itself suggests commands
    )


def top_level() -> typer.Typer:
    """Make a group for commands called as `relay COMMAND`."""
    return group("", "")


def command(
    app: typer.Typer, name: str, *, stopped: str = "Stopped."
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a function as a command; the function returns the command's exit code.

    Args:
        app: the command's group.
        name: the word by which the command is called.
        stopped: the sentence printed after Ctrl-C, with the state left behind.
    """

    def register(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def stoppable(**values: Any) -> int:
            try:
                return function(**values)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(stopped) from None

        app.command(name, cls=_Command)(stoppable)
        return function

    return register


@functools.cache
def root() -> click.Group:
    """Return the command `relay` itself."""
    app = typer.Typer(
        cls=_Root,
        rich_markup_mode=None,
        suggest_commands=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    )
    app.callback()(_relay)
    made = get_command(app)
    assert isinstance(made, click.Group)
    made.params.append(_debug())
    return made


def _relay(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda wanted: _show_version(wanted))
    ] = False,
) -> None:
    pass


def _show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        click.echo(f"{PROGRAM} {importlib.metadata.version('prostate-relay')}")
        raise typer.Exit


def _debug() -> click.Option:
    def note(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            context.ensure_object(Call).debug = True

    about = "Show where in the program an error arose."
    return TyperOption(
        param_decls=["--debug"],
        is_flag=True,
        default=False,
        expose_value=False,
        is_eager=True,
        callback=note,
        help=about,
    )


class _Command(TyperCommand):
    """Make a command with the additional option --debug."""

    def __init__(
        self,
        name: str | None,
        *,
        callback: Callable[..., Any],
        params: list[click.Parameter] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(name, callback=callback, params=[*(params or []), _debug()], **settings)
        self.helps = _helps(callback)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_parameters(self, ctx, formatter)


class _Group(TyperGroup):
    """Hold the commands of a file."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_parameters(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            ctx.fail(f"The COMMAND is missing ({', '.join(self.list_commands(ctx))})")
        return super().parse_args(ctx, args)


class _Root(TyperGroup):
    """Hold all commands, and import a command's file when the command or its help is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Click suggests names from `commands` alone for a mistyped name; `get_command` loads the commands.
        self.commands = dict.fromkeys(FILES, click.Command(None))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(FILES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in FILES:
            return None
        found = get_group(importlib.import_module(f"{__package__}.{FILES[cmd_name]}").app)
        return found if found.name == cmd_name else found.commands[cmd_name]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(HELP)


def _helps(function: Callable[..., Any]) -> dict[str, str]:
    """Return the help of each parameter of a command's function.

    The help is read from the annotations, because Typer 0.20 loses the help of an argument under Click 8.5.
    """
    found = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        for declared in getattr(parameter.annotation, "__metadata__", ()):
            found[name] = getattr(declared, "help", None) or ""
    return found


def _write_parameters(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write a command's arguments, then its options under their headings.

    Typer's own function uses rich, whose import takes longer than the rest of the help.
    """
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            parameter.show_default = False  # the help text of each option names its default
            heading = getattr(parameter, "rich_help_panel", None) or "Options"
            record = click.Option.get_help_record(parameter, context)
        else:
            about = getattr(command, "helps", {}).get(parameter.name, "")
            heading, record = "Arguments", (parameter.make_metavar(context), about)
        if record is not None:
            sections.setdefault(heading, []).append(record)
    for heading in sorted(sections, key=lambda title: title == "Options"):
        with formatter.section(heading):
            formatter.write_dl(sections[heading])
