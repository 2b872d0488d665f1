"""What is wrong in a TOML file becomes one sentence, for any model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from common.config.study import load_study
from common.config.toml import from_table, load_toml
from common.errors import RelayError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    depth: int = 1
    width: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    either: Literal["none"] | tuple[int, ...] = "none"

    @field_validator("name")
    @classmethod
    def _no_spaces(cls, name: str) -> str:
        if " " in name:
            raise ValueError("A name has no spaces")
        return name


def told(table: dict[str, object]) -> str:
    with pytest.raises(RelayError) as error:
        from_table(table, Outer, "the thing file x.toml")
    return str(error.value).removeprefix("In the thing file x.toml, ")


def test_a_table_becomes_the_model() -> None:
    table = {"name": "a", "inner": {"depth": 2}, "several": [{"width": 3}], "either": [1, 2]}
    model = from_table(table, Outer, "a file")
    assert model == Outer(name="a", inner=Inner(depth=2), several=(Inner(width=3),), either=(1, 2))


def test_each_kind_of_mistake_has_its_sentence() -> None:
    assert told({}) == 'the key "name" is missing; add it.'
    assert told({"name": "a b"}) == '"name": a name has no spaces.'
    assert told({"name": "a", "innr": {}}) == 'the key "innr" is unknown; did you mean "inner"?'
    assert told({"name": "a", "inner": {"dept": 1}}) == 'the key "inner.dept" is unknown; did you mean "depth"?'
    assert told({"name": "a", "several": [{}, {"q": 1}]}) == (
        'the key "several.1.q" is unknown; known keys here: depth, width.'
    )
    assert told({"name": "a", "x[0]": 1}).startswith('the key "x[0]" is unknown; known keys here: ')


def test_where_a_key_takes_two_kinds_of_value_the_nearer_one_complains() -> None:
    assert told({"name": "a", "either": [1, "2"]}) == '"either.1" is "2", but input should be a valid integer.'
    assert told({"name": "a", "either": "all"}) == '"either" is "all", but input should be \'none\'.'


def test_a_file_is_read_as_utf8_and_named_in_its_error(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes('name = "Prostata-Größe"'.encode())
    assert load_toml(path, Outer, "thing file").name == "Prostata-Größe"
    path.write_bytes(b"name = ")
    with pytest.raises(RelayError, match=r"^The thing file .*x\.toml is not valid TOML: "):
        load_toml(path, Outer, "thing file")


@pytest.mark.parametrize("value", ['"' + "x" * 5000 + '"', "[" + "1," * 3000 + "]", '"\\u0007\\u2028"'])
def test_a_value_without_end_or_that_a_terminal_would_obey_is_not_repeated_as_it_is(tmp_path: Path, value: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(f"name = {value}\nseed = {value}\n", encoding="utf-8")
    with pytest.raises(RelayError) as told:
        load_study(path)
    assert str(told.value).isprintable() and len(str(told.value)) < 1100


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_file_as_windows_writes_it_is_read(tmp_path: Path, encoding: str, ends: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    path = tmp_path / "x.toml"
    path.write_bytes(mark + f'name = "Müller"{ends}inner.depth = 3{ends}'.encode(encoding))
    assert load_toml(path, Outer, "thing file") == Outer(name="Müller", inner=Inner(depth=3))


def test_a_file_in_another_code_page_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes('name = "Müller"'.encode("cp1252"))
    with pytest.raises(RelayError, match="not written in UTF-8 .*save it again"):
        load_toml(path, Outer, "thing file")


@pytest.mark.parametrize("name", [r"C:\Users\me", r"C:\data", r"\\server\share", "C:\\"])
def test_a_backslash_in_double_quotes_is_told_with_what_to_write(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f'inner.depth = 1\nname = "{name}"\n', encoding="utf-8")
    with pytest.raises(RelayError, match="single quotes"):
        load_toml(path, Outer, "thing file")
    path.write_text(f"name = '{name}'\n", encoding="utf-8")
    assert load_toml(path, Outer, "thing file").name == name
    path.write_text("name = [\n", encoding="utf-8")
    with pytest.raises(RelayError) as caught:
        load_toml(path, Outer, "thing file")
    assert "single quotes" not in str(caught.value)
