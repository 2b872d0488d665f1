"""Generate the pages of docs/reference from the code: `python -m deploy.reference docs/reference`.

A page is made of the models, the commands and the error codes themselves, and therefore always agrees with the code; a
test compares the pages with the output of this module. The module works in a checkout alone, not in an installed
package.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import click
from flwr.app import Error
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from client.data import layouts
from client.site_config import SiteConfig
from common.config.study import Study
from common.errors import RelayError
from common.networks.encoders import ENCODERS
from common.networks.registry import NETWORKS
from common.protocol.refusals import DIED, REFUSALS, refusal_text
from common.text import listed
from deploy.cli.commands import PROGRAM, root
from deploy.cli.program import CODES
from deploy.planning.federation import Federation
from server.results import schema
from server.results.schema import Results

REPO = Path(__file__).parents[1]
MADE = "<!-- Made by `python -m deploy.reference docs/reference`; change the code that it is made from. -->"
NOTHING = "–"

STUDY_PAGE = """\
# study.toml

A study is a TOML file that the coordinator and every hospital of the study read. Every key has a default, except
`sites`. An unknown key, a wrong type or a wrong value is an error that names the key. The result folder's `study.toml`
has every default written out. The folder `examples/` has one of each kind of study.

{tables}"""
SITE_PAGE = """\
# site.toml

A site file holds a hospital's own settings. Nothing in it is ever sent. `relay site init SITE.toml --name NAME` writes
one with every key, explained. Paths are taken from the folder that the file lies in. A plain site needs `name` and
`images`; the site named `pooled`, in simulation alone, has `members` instead and no data of its own. An unknown key, a
wrong type or a wrong value is an error that names the key.

{tables}
## Layouts

`layout` is `auto`, which recognises the layout by the names of files, or one of these. [Simulate a study on your own
data](../how-to/simulate-your-data.md#the-layouts) says which public data sets have them.

{layouts}"""
FEDERATION_PAGE = """\
# federation.toml

A federation file describes hospitals that may not be connected yet. `relay study plan STUDY.toml --federation FILE`
says how long the study would take there ([how](../how-to/simulate-your-data.md#4-see-what-the-study-will-ask-for));
nothing else reads it. `examples/federations/` has one. An unknown key, a wrong type or a wrong value is an error that
names the key.

{tables}"""
RESULTS_PAGE = """\
# results.json

`results.json` in a result folder holds everything that a study found. Dice and IoU are in per cent, distances are in
millimetres, volumes in millilitres. "The Dice by which the study selects" is the volume Dice, or the mean over selected
slices where `training.slices` is "chosen". The report and the table are made from the file; `relay simulate --json`
prints it. The tables list every key; [results.schema.json](results.schema.json) is the same as a JSON Schema, for a
program that reads the file.

{tables}"""
COMMANDS_PAGE = """\
# Commands

What `relay COMMAND --help` prints, for each command. `relay --version` says which relay this is, `relay --debug
COMMAND` shows where in the program an error arose, `relay --install-completion` lets the shell complete commands and
options.

{commands}"""
NETWORKS_PAGE = """\
# Networks

The values of `architecture` and `encoder` in `[model]` and `[models]` of a [study](study-toml.md). `relay study plan`,
`simulate` and `run` and `relay site approve` build a study's networks before anything else: what cannot be built, or
cannot take slices of the study's size, is an error that names the network. Where the
table says 3, `dimensions = 3` makes the network segment boxes of slices ([volumes](../explanation/volumes.md)).

{networks}
"Least side" is the fewest rows and columns of a slice (`preprocessing.pixels`); all networks take multiples of 32.
Auxiliary outputs exist in training alone; the numbers are the weights of the losses of the network's own output and of
the auxiliary ones. An average of a network without batch normalisation has no statistics to estimate, and so no row
with `batch_norm` "re-estimate".

**MS-Net** has parts that belong to a site: its auxiliary decoder is used in training alone, stays in the site's private
folder, and is in no message. Everywhere else the network is without it, so that averages, hand-offs, scorings and
deliveries are of the universal model. A site's first training begins with the values that the study's seed draws, and
its next one with those that the last left there. `batch_norm = "local"` of `[methods.sequential]` and of
`[[methods.federated]]` is the paper's domain-specific batch normalisation, `training.loss = "dice"` is nearest to its
loss. A network of your own names such modules in `stays`.

## Encoders

{encoders}.

`tu-NAME` is the encoder NAME of timm (`tu-convnext_tiny`, `tu-tf_efficientnet_lite0`), of which not every one fits
every architecture. The names `timm-tf_…` of the library are refused: they take the weights of `tu-tf_…` without an
error and compute something else.

A file in `encoder_weights` holds an encoder's tensors by the encoder's own names, with or without "encoder." before
them, as a safetensors file or as a `state_dict` saved by torch; a classifier's head is left out. A missing or
unexpected tensor, or one of another shape, is an error that names the first. So is batch normalisation that was folded
into the convolutions for prediction. For a network without encoder the file holds all tensors of the network. A first
layer for three colours is summed over them, or adapted to several channels as segmentation_models.pytorch does.

## A network of your own

A package that is installed at the coordinator and at every site can bring a network. An entry point in the group
`relay.networks` names a `Network` of `common.networks.registry`, with the function that builds it:

```toml
[project.entry-points."relay.networks"]
MyNet = "my_package.my_net:NETWORK"
```

A study names it with `architecture = "MyNet"` and `package = "…"`, the sha256 of the package's installed files; without
`package`, `relay study plan` says what to write. The hash is a part of the study's own, so a hospital that approves the
study approves that code, and a site with other files refuses to build the network. Packages have to be installed from a
wheel: a link to a folder has no list of its files. The hash is over the package's own files; what it imports is not in
it.
"""
ENVIRONMENT_PAGE = """\
# Environment variables

Nothing has to be set for `relay` to run: settings stand in study.toml and site.toml. No variable holds a secret.

## The program

{program}
## docker-compose.yml

Set them in the environment or in `.env`; the default stands in brackets.

{compose}"""
CODES_PAGE = """\
# Error codes

A code names a kind of mistake and stays the same, while the sentences that explain a mistake may change.

## What a command ends with

A command that fails (exit code 1 or 130) writes one sentence to standard error. With `--json` it also writes a JSON
object with the code to standard output, `{{"error": {{"code": "locked", "message": "…"}}}}`, unless it has written its
answer there already (`faults-found`). `relay --debug COMMAND` shows the code below the traceback.

{errors}
## What a hospital answers

A hospital that does not do what it was asked to do answers with a number, which stands for this code and this fixed
text. Nothing else of the error leaves the hospital; the whole of it stands in the site's own `site.log`.

{refusals}
Flower's own code {code} is shown as: {died}.

## Exit codes of relay

{exits}
An error of the program itself is one sentence too, which begins with "Internal error"; `relay --debug COMMAND` shows
its traceback.
"""
EXIT_CODES = {
    0: "Everything that was asked for was done. (`relay study status`: all hospitals are there.)",
    1: "Something was not done, or is wrong; one sentence on standard error says what, where, and what to do.",
    2: "The command was called wrongly; one sentence says how.",
    130: "Stopped by Ctrl-C; what was finished is kept.",
}
ENVIRONMENT = {
    "RELAY_SITE": "The path of the site.toml that the client app works for. `relay site start` and the embedded grid"
    " set it for the processes that they start.",
    "RELAY_SITES": "The same for Flower's own simulation (`flwr run`): the site files, separated as in `PATH`; each"
    " simulated node takes the one of its partition.",
    "RELAY_ARCHIVE_TOKEN": "The token with which `relay site fetch` and `relay predict --store` speak to the hospital's"
    " archive (Authorization: Bearer). It is sent encrypted alone, or to this machine.",
    "RELAY_ARCHIVE_CA": "The file with the certificate of the authority that signed the archive's; without it, those"
    " that Python knows.",
    "RELAY_SITE_LOG": "The site's log, for errors that arise before the site file is read. `relay site start` sets it.",
    "RELAY_CORES": "How many processor cores a site's process may take for preprocessing; the smaller one of this and"
    " `cores` in site.toml counts. The embedded grid sets it.",
    "RELAY_SIMULATION": "Says that a process belongs to a simulation, in which studies count as approved. `relay"
    " simulate` and `relay demo` set it for the processes that they start; a hospital's service never does.",
    "RELAY_SLOW_NOTE": "The file in which a hospital's programs note that the machine is slow, or that the system has"
    " ended a process. `relay site start` sets it.",
    "RELAY_LOG_TO_OUTPUT": "Not empty: the coordinator's programs write their logs to standard output in place of files"
    " beside the database. The container image sets it.",
    "RELAY_PROGRESS": "`lines`: a command that would show a bar on a terminal writes a line every second to standard"
    " error where there is none. `relay site serve` sets it for the commands that it runs.",
    "RELAY_CALLED_AS": "What a person typed for `relay` to be run, such as `make demo`; error sentences then name that"
    " command.",
    "_RELAY_COMPLETE": "Set by the shell when it asks how a word may go on.",
}
"""Environment variables read by the program; the variables of the compose file are described in the compose file."""


def pages() -> dict[str, str]:
    """Return the text of every file of docs/reference, by file name."""
    made = {
        "study-toml.md": STUDY_PAGE.format(tables="\n".join(_tables(Study, TOML))),
        "networks.md": _networks(),
        "site-toml.md": SITE_PAGE.format(tables="\n".join(_tables(SiteConfig, TOML)), layouts=_layouts()),
        "federation-toml.md": FEDERATION_PAGE.format(tables="\n".join(_tables(Federation, TOML))),
        "results-json.md": RESULTS_PAGE.format(tables="\n".join(_tables(Results, JSON))),
        "commands.md": COMMANDS_PAGE.format(commands=_commands()),
        "environment.md": _environment(),
        "error-codes.md": _codes(),
    }
    texts = {name: f"{MADE}\n\n{text.rstrip()}\n" for name, text in made.items()}
    return {**texts, "results.schema.json": results_schema()}


def explanations(model: type[BaseModel]) -> dict[str, str]:
    """Collect the docstring below each field of a model.

    pydantic can collect these docstrings too, but does so at each import, in every process of a study.

    Args:
        model: a pydantic model whose source can be read.

    Returns:
        Field name to the text below the field, on one line; empty where a field has none.
    """
    found = dict.fromkeys(model.model_fields, "")
    for kind in reversed(model.__mro__):
        if not issubclass(kind, BaseModel) or kind is BaseModel:
            continue
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(declared, ast.ClassDef)
        for field, text in zip(declared.body, declared.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


class _Untitled(GenerateJsonSchema):
    """Leave out the titles made by pydantic from the fields' names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def results_schema() -> str:
    """Return the JSON Schema of results.json: every key is described, and no other key is allowed."""
    whole = Results.model_json_schema(schema_generator=_Untitled)
    for name, part in {"Results": whole, **whole["$defs"]}.items():
        model = getattr(schema, name)
        part |= {"description": " ".join(model.__doc__.split()), "additionalProperties": False}
        for field, text in explanations(model).items():
            part["properties"][field]["description"] = text
    heading = {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$comment": "Made by `python -m deploy.reference docs/reference`.",
    }
    return json.dumps(heading | whole, indent=1, ensure_ascii=False) + "\n"


def allowed(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Describe in words the values allowed in a field.

    Args:
        annotation: the field's type.
        metadata: the field's constraints, as pydantic keeps them.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return allowed(inner[0], [*inner[1:], *metadata])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(allowed(part) for part in inner if part is not type(None))
    if origin is tuple:
        return "list" if inner[-1] is not Ellipsis else f"list of: {allowed(inner[0])}" + _limits(metadata, " entries")
    if origin is dict:
        return f"table: {allowed(inner[1])} by name"
    words = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text", Path: "path", dict: "table"}
    return words.get(annotation, "any") + _limits(metadata, " characters" if annotation is str else "")


def _limits(metadata: list[Any] | tuple[Any, ...], unit: str) -> str:
    """Describe the bounds of a value, such as ", ≥ 1, ≤ 16"."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "≥", "max_length": "≤"}
    parts = []
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            parts.append(_limits(entry.metadata, unit))
        elif isinstance(entry, annotated_types.MultipleOf):
            parts.append(f", a multiple of {entry.multiple_of}")
        elif pattern := getattr(entry, "pattern", None):
            parts.append(f", as in `{pattern}`")
        else:
            bounds = ((sign, getattr(entry, name, None)) for name, sign in signs.items())
            parts += [f", {sign} {bound}{unit}" for sign, bound in bounds if bound is not None]
    return "".join(parts)


def _model_in(annotation: Any) -> tuple[str, type[BaseModel]] | None:
    """Find the model in a field's type.

    Returns:
        How the field holds the model ("one", a "list", or "named": a table of models by name), and the model; None
        where the field holds no model.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "one", annotation
    inner = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for part in inner if (found := _model_in(part))), None)
    if inner and get_origin(annotation) in (tuple, dict):
        found = _model_in(inner[1] if get_origin(annotation) is dict else inner[0])
        return ("named" if get_origin(annotation) is dict else "list", found[1]) if found else None
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    return NOTHING if value in (None, Path()) else f"`{json.dumps(value, ensure_ascii=False)}`"


@dataclass(frozen=True)
class _Form:
    """Say how a page describes the tables of a file."""

    heading: Callable[[str, str], str]
    """Makes a table's heading from its name and its kind ("one", "list" or "named")."""
    written_by_people: bool
    """Whether a person writes the file; only then the page lists defaults."""


def _tables(model: type[BaseModel], form: _Form, name: str = "", kind: str = "one", note: str = "") -> Iterator[str]:
    """Yield a section for a model, and a section for each model in the fields."""
    texts, inside, rows = explanations(model), [], []
    for key, field in model.model_fields.items():
        if found := _model_in(field.annotation):
            inside.append((key, *found))
            continue
        cells = [f"`{key}`", allowed(field.annotation, field.metadata)]
        cells += [_default(field)] if form.written_by_people else []
        rows.append(_row(*cells, texts[key]))
    yield f"## {form.heading(name, kind)}\n"
    if name and model.__doc__:
        yield f"{' '.join(model.__doc__.split())} {note}".rstrip() + "\n"
    if rows:
        head = ("key", "takes", "default") if form.written_by_people else ("key", "holds")
        yield _table(*head, "what it means", rows=rows)
    for key, how, inner in inside:
        names = f" METHOD is {allowed(get_args(model.model_fields[key].annotation)[0])}." if how == "named" else ""
        yield from _tables(inner, form, f"{name}.{key}" if name else key, how, texts[key] + names)


def _row(*cells: str) -> str:
    """Return a line of a Markdown table, in which "<name>" is escaped as text and "|" does not end a cell."""
    safe = (re.sub("<(?=[a-z])", "&lt;", cell.replace("|", "\\|")) for cell in cells)
    return "".join(f"| {cell} " if cell else "| " for cell in safe) + "|"


def _table(*head: str, rows: Iterable[str]) -> str:
    return "\n".join([_row(*head), _row(*["---"] * len(head)), *rows]) + "\n"


def _toml_heading(name: str, kind: str) -> str:
    if not name:
        return "At the top"
    return {"one": f"`[{name}]`", "list": f"`[[{name}]]`", "named": f"`[{name}.METHOD]`"}[kind]


def _json_heading(name: str, kind: str) -> str:
    return f"`{name}{'' if kind == 'one' else '[]'}`" if name else "At the top"


TOML = _Form(_toml_heading, written_by_people=True)
JSON = _Form(_json_heading, written_by_people=False)


def _layouts() -> str:
    rows = [
        _row(f"`{name}`", one.looks_for, "`masks`" if one.masks_apart else NOTHING)
        for name, one in layouts.known().items()
    ]
    return _table("layout", "what lies in `images`", "also needs", rows=rows)


def _networks() -> str:
    """Return a line for each built-in network, and the names of all encoders."""
    rows = []
    for network in NETWORKS.values():
        encoders = "none" if network.encoders == () else listed(network.encoders) if network.encoders else "all"
        norms = {"batch": "yes", "none": "no", "encoder": "with an encoder `…_bn`"}[network.normalisation]
        weights = ", ".join(f"{weight:g}" for weight in network.output_weights)
        dimensions = listed(map(str, network.dimensions))
        outputs = weights if len(network.output_weights) > 1 else NOTHING
        cells = (f"`{network.key}`", network.about, encoders, str(network.smallest_side), dimensions, norms, outputs)
        rows.append(_row(*cells))
    head = (
        "architecture",
        "what it is",
        "encoders",
        "least side",
        "dimensions",
        "batch normalisation",
        "auxiliary outputs",
    )
    names = ", ".join(f"`{name}`" for name in ENCODERS)
    encoders = textwrap.fill(names, 120, break_on_hyphens=False, break_long_words=False)
    return NETWORKS_PAGE.format(networks=_table(*head, rows=rows), encoders=encoders)


def _commands() -> str:
    """Return the output of `relay COMMAND --help` for each command."""
    context = click.Context(root(), info_name=PROGRAM)
    helps = _helps(root(), context)
    return "\n".join(f"## relay {' '.join(words)}\n\n```text\n{text}\n```\n" for words, text in helps)


def _helps(group: click.Group, context: click.Context) -> Iterator[tuple[list[str], str]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, terminal_width=80, max_content_width=80)
        if isinstance(command, click.Group):
            yield from (([name, *words], text) for words, text in _helps(command, inner))
        else:
            yield [name], command.get_help(inner).rstrip()


def _environment() -> str:
    def table(variables: dict[str, str]) -> str:
        return _table("variable", "what it means", rows=[_row(f"`{name}`", text) for name, text in variables.items()])

    return ENVIRONMENT_PAGE.format(program=table(ENVIRONMENT), compose=table(compose_variables()))


def compose_variables() -> dict[str, str]:
    """Return the variables of docker-compose.yml with their descriptions, from the comment at the top of the file."""
    comment = (REPO / "docker-compose.yml").read_text(encoding="utf-8").partition("\nname:")[0]
    return dict(re.findall(r"^#   (RELAY_\w+)\s+(.+)$", comment, re.MULTILINE))


def _codes() -> str:
    kinds: list[type[RelayError]] = [RelayError, *RelayError.__subclasses__()]
    errors = {kind.code: " ".join((kind.__doc__ or "").split()) for kind in kinds} | CODES
    refusals = [_row(str(int(refusal)), f"`{refusal.code}`", text) for refusal, text in REFUSALS.items()]
    exits = [_row(str(code), text) for code, text in EXIT_CODES.items()]
    return CODES_PAGE.format(
        errors=_table("code", "what it means", rows=[_row(f"`{code}`", errors[code]) for code in sorted(errors)]),
        refusals=_table("number", "code", "text", rows=refusals),
        code=DIED,
        died=refusal_text(Error(code=DIED)),
        exits=_table("code", "what it means", rows=exits),
    )


def main(argv: list[str]) -> int:
    """Write the pages into the named folder.

    Args:
        argv: the arguments of the command line: the folder alone.

    Returns:
        The exit code: 0, or 2 where the arguments are wrong.
    """
    if len(argv) != 1:
        print("Usage: python -m deploy.reference docs/reference", file=sys.stderr)
        return 2
    folder = Path(argv[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
