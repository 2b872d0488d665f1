"""Read a TOML file into a pydantic model; an error becomes a sentence that names the key."""

from __future__ import annotations

import codecs
import difflib
import itertools
import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from common.errors import BadConfiguration

LONGEST = 1000
"""The most characters of a sentence; the longest regular one, a list of all keys of a study, has half as many."""

Model = TypeVar("Model", bound=BaseModel)


def load_toml(path: Path, kind: type[Model], what: str) -> Model:
    """Read a TOML file into a model.

    Args:
        path: the file.
        kind: the model.
        what: the name of such a file in errors: "study file", "site file".

    Raises:
        BadConfiguration: the file does not exist, is no TOML, or has an unknown key, a wrong type or a wrong value.
    """
    try:
        text = _decoded(path.read_bytes())
    except FileNotFoundError:
        raise BadConfiguration(f"There is no {what} {path}; check the path.") from None
    except IsADirectoryError:
        raise BadConfiguration(f"{path} is a folder; name the {what} in it.") from None
    except OSError as error:
        raise BadConfiguration(f"The {what} {path} cannot be read ({error}).") from None
    except UnicodeDecodeError as error:
        raise BadConfiguration(
            f"The {what} {path} is not written in UTF-8 (at byte {error.start}); save it again with the encoding UTF-8."
        ) from None
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of thousands of digits
        raise BadConfiguration(
            _readable(f"The {what} {path} is not valid TOML: {error}.{_about_backslashes(text, str(error))}")
        ) from None
    return from_table(table, kind, f"the {what} {path}")


def from_table(table: dict[str, Any], kind: type[Model], where: str) -> Model:
    """Validate a table strictly: the text "3" is no number, and the number 1 is no truth value.

    Args:
        table: the parsed TOML.
        kind: the model.
        where: the name of the table's origin in errors.

    Raises:
        BadConfiguration: an unknown key, a wrong type or a wrong value.
    """
    try:
        # By way of JSON: pydantic's strict mode accepts a list for a tuple only there.
        return kind.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise BadConfiguration(_readable(f"In {where}, {_sentence(error, kind)}")) from None


def _decoded(content: bytes) -> str:
    """Return a file's text; editors and shells of Windows write a byte order mark, or UTF-16 with one."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def _about_backslashes(text: str, error: str) -> str:
    """Return a sentence on a path of Windows at the place of an error; empty where no backslash is there."""
    place = re.search(r"at line (\d+)", error)
    lines = text.splitlines()
    if place is None or int(place[1]) > len(lines) or "\\" not in lines[int(place[1]) - 1]:
        return ""
    return (
        " In double quotes a backslash begins a special character: write a path with / or in single quotes, such as"
        " 'C:\\Users\\me'."
    )


def _readable(sentence: str) -> str:
    """Return a sentence fit for a terminal: printable characters only, and shortened if a file's text is long."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in sentence)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST // 2]} … {plain[-LONGEST // 2 :]}"


def _sentence(error: ValidationError, kind: type[BaseModel]) -> str:
    """Return the sentence about the first error of a validation."""
    first = _first_to_show(error.errors(include_url=False))
    unknown = first["type"] == "extra_forbidden"
    last = len(first["loc"]) - 1  # of an unknown key, its name as it stands in the file
    steps = tuple(step for place, step in enumerate(first["loc"]) if (unknown and place == last) or not _is_kind(step))
    key = ".".join(str(step) for step in steps)
    if unknown:
        known = _keys_beside(kind, steps)
        near = difflib.get_close_matches(str(steps[-1]), known, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"known keys here: {', '.join(known)}."
        return f'the key "{key}" is unknown; {hint}'
    if first["type"] == "missing":
        return f'the key "{key}" is missing; add it.'
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not steps:
        return f"{message}."
    if first["type"] == "value_error":
        return f'"{key}": {message}.'
    return f'"{key}" is {json.dumps(first["input"], default=str)}, but {message[:1].lower() + message[1:]}.'


def _first_to_show(errors: list[ErrorDetails]) -> ErrorDetails:
    """Return the error to report: the first, or for a key with alternative types, the type with the furthest match."""
    first = errors[0]
    key = tuple(itertools.takewhile(lambda step: not _is_kind(step), first["loc"]))
    if key == first["loc"] or first["type"] == "extra_forbidden":
        return first
    return max((error for error in errors if error["loc"][: len(key)] == key), key=lambda error: len(error["loc"]))


def _is_kind(step: int | str) -> bool:
    """Return whether a step of an error's location is pydantic's name for a type, such as "tuple[str, ...]"."""
    return isinstance(step, str) and "[" in step


def _keys_beside(kind: type[BaseModel], steps: tuple[int | str, ...]) -> list[str]:
    """Return the model's keys at the location of an unknown key, sorted."""
    current: Any = kind
    for step in steps[:-1]:
        if isinstance(step, int):
            continue
        field = current.model_fields.get(step) if hasattr(current, "model_fields") else None
        current = _model_in(field.annotation) if field else None
    return sorted(current.model_fields) if hasattr(current, "model_fields") else []


def _model_in(annotation: Any) -> Any:
    """Return the model inside an annotation, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
