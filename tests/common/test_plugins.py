"""A network or method of an installed package: found by name, bound to the hash of its files, and never elsewhere's."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common import plugins
from common.config.model import ModelConfig
from common.config.study import Study
from common.config.toml import from_table
from common.errors import BadConfiguration, RelayError
from common.model.network import build, check_network
from common.plan import plan
from common.plan.methods import method_of, name_of
from common.plan.selection import offered

CODE = """
import torch
from common.networks.registry import Form, Network


def build(form: Form) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(form.inputs, 4, 3, padding=1), torch.nn.Conv2d(4, form.classes, 1))


NETWORK = Network("Tiny", "Tiny", "Two convolutions.", build, normalisation="none")
"""
FILES = {"tiny_network/__init__.py": "", "tiny_network/net.py": CODE}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that lays down a package as pip does, and returns the hash of its files worked out by hand."""

    def lay_down(
        name: str = "tiny",
        *,
        files: dict[str, str] = FILES,
        entry: str = "tiny_network.net:NETWORK",
        group: str = "relay.networks",
        called: str = "Tiny",
        source: str = "{}",
    ) -> str:
        folder = tmp_path / name
        information = f"{name}-1.0.dist-info"
        content = files | {
            f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{information}/entry_points.txt": f"[{group}]\n{called} = {entry}\n",
        }
        # What differs between machines.
        listed = [*content, f"{information}/RECORD", f"{information}/INSTALLER", "tiny_network/__pycache__/net.pyc"]
        for path, text in (
            content | {f"{information}/INSTALLER": "pip", f"{information}/direct_url.json": source}
        ).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        (folder / information / "RECORD").write_text("".join(f"{path},,\n" for path in listed), encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        for module in [module for module in sys.modules if module.startswith("tiny_network")]:
            monkeypatch.delitem(sys.modules, module)
        plugins.load.cache_clear()
        pairs = sorted([path, hashlib.sha256(text.encode()).hexdigest()] for path, text in content.items())
        return hashlib.sha256(json.dumps(pairs, separators=(",", ":"), sort_keys=True).encode()).hexdigest()

    yield lay_down
    plugins.load.cache_clear()
    for module in [module for module in sys.modules if module.startswith("tiny_network")]:
        del sys.modules[module]


def model(package: str = "") -> ModelConfig:
    return ModelConfig.model_validate({"architecture": "Tiny", "package": package})


def refusal(package: str) -> str:
    with pytest.raises(BadConfiguration) as error:
        build(model(package))
    return str(error.value)


def test_a_packages_network_is_built_if_its_hash_is_the_studys(install: Callable[..., str]) -> None:
    expected = install()
    assert f'package = "{expected}"' in refusal("")
    assert "have the hash" in refusal("0" * 64)
    part = model(expected)
    assert (part.encoder, part.encoder_weights) == ("", "none")
    check_network(part, 32)
    assert build(part)(torch.zeros(2, 1, 32, 32)).shape == (2, 1, 32, 32)


def test_a_studys_digest_holds_the_hash(install: Callable[..., str]) -> None:
    expected = install()

    def digest(package: str) -> str:
        table = {"sites": ["A", "B"], "model": {"architecture": "Tiny", "package": package}}
        return from_table(table, Study, "a test").digest

    assert digest(expected) != digest("0" * 64)


def test_a_changed_file_is_another_package(install: Callable[..., str], tmp_path: Path) -> None:
    expected = install()
    build(model(expected))
    (tmp_path / "tiny" / "tiny_network" / "net.py").write_text(CODE + "\n# changed\n", encoding="utf-8")
    plugins.load.cache_clear()
    assert "have the hash" in refusal(expected)


def test_reading_a_study_runs_no_code_of_the_package(install: Callable[..., str]) -> None:
    install(files=FILES | {"tiny_network/net.py": "raise SystemExit('the code ran')"})
    from_table({"sites": ["A", "B"], "model": {"architecture": "Tiny"}}, Study, "a test")
    with pytest.raises(RelayError, match='takes no encoder, and not "resnet18"'):
        from_table({"sites": ["A", "B"], "model": {"architecture": "Tiny", "encoder": "resnet18"}}, Study, "a test")


def test_what_is_installed_otherwise_is_refused(install: Callable[..., str], tmp_path: Path) -> None:
    expected = install(source='{"url": "file:///x", "dir_info": {"editable": true}}')
    assert "install it from a wheel" in refusal(expected)
    expected = install()
    shadow = tmp_path / "shadow" / "tiny_network"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("", encoding="utf-8")
    sys.path.insert(0, str(shadow.parent))
    try:
        assert "would be loaded from elsewhere" in refusal(expected)
    finally:
        sys.path.remove(str(shadow.parent))
    assert "names no Network" in refusal(install(entry="tiny_network.net:build"))
    install("twin")
    assert "Two installed packages have the network Tiny" in refusal(expected)


def test_a_network_that_nobody_installed_is_unknown() -> None:
    with pytest.raises(RelayError, match='there is no network "Tiny"'):
        from_table({"sites": ["A", "B"], "model": {"architecture": "Tiny"}}, Study, "a test")


METHOD_CODE = """
from common.plan.methods.method import Method, Section
from common.plan.routes import along
from common.plan.values import row_of


def rows(given, target):
    route = (target,) * 3
    for fold in given.study.split.run:
        yield row_of(given.study, "thrice", route, target, fold, along(given.study, route, fold))


METHOD = Method(key="thrice", title="Target alone, thrice", name=lambda _, target: f"{target} alone, thrice",
                section=Section.ALONE, rows=rows, alone=True, routed=True)
"""
CENSUS = {"A": (10, 11), "B": (20, 21)}


def study_of(package: str = "") -> Study:
    methods = {"more": ["thrice"], "pooled": False} | ({"packages": {"thrice": package}} if package else {})
    table = {"sites": ["A", "B"], "split": {"folds": 2}, "training": {"epochs": 2}, "methods": methods}
    return from_table(table, Study, "a test")


def install_method(install: Callable[..., str], code: str = METHOD_CODE, entry: str = "tiny_network.way:METHOD") -> str:
    """Install a package with the method "thrice", and return its hash."""
    files = {"tiny_network/__init__.py": "", "tiny_network/way.py": code}
    return install(files=files, entry=entry, group="relay.methods", called="thrice")


def test_a_packages_method_is_planned_if_its_hash_is_the_studys(install: Callable[..., str]) -> None:
    with pytest.raises(RelayError, match="names thrice, which this relay lacks"):
        plan(study_of(), CENSUS)
    expected = install_method(install)
    with pytest.raises(BadConfiguration, match=rf'add thrice = "{expected}" under \[methods.packages\]'):
        plan(study_of(), CENSUS)
    with pytest.raises(BadConfiguration, match="have the hash"):
        plan(study_of("0" * 64), CENSUS)
    planned = plan(study_of(expected), CENSUS)
    own = [row for row in planned.rows if row.method == "thrice"]
    assert [(row.target, row.fold, row.route) for row in own] == [(s, fold, (s,) * 3) for s in "AB" for fold in (0, 1)]
    assert (method_of("thrice").title, name_of(own[0])) == ("Target alone, thrice", "A alone, thrice")
    # Its model goes to no hospital and its route is no headline, whatever it says of itself.
    assert not any(row.method == "thrice" for row in offered(planned, "A"))
    assert not method_of("thrice").routed
    assert study_of(expected).digest not in (study_of().digest, study_of("0" * 64).digest)


def test_a_study_that_asks_for_no_such_method_runs_no_code_of_it(install: Callable[..., str]) -> None:
    install_method(install, code="raise SystemExit('the code ran')")
    table = {"sites": ["A", "B"], "split": {"folds": 2}, "methods": {"pooled": False}}
    assert plan(from_table(table, Study, "a test"), CENSUS).rows
    study_of("0" * 64)


@pytest.mark.parametrize(
    ("code", "entry"),
    [
        (METHOD_CODE, "tiny_network.way:rows"),
        (METHOD_CODE.replace('key="thrice"', 'key="baseline"'), "tiny_network.way:METHOD"),
    ],
)
def test_what_is_no_method_or_takes_anothers_name_is_refused(
    install: Callable[..., str], code: str, entry: str
) -> None:
    expected = install_method(install, code, entry)
    with pytest.raises(BadConfiguration, match="names no Method"):
        plan(study_of(expected), CENSUS)


def test_a_hash_of_no_method_asked_for_is_a_mistake() -> None:
    table = {"sites": ["A", "B"], "methods": {"packages": {"thrice": "0" * 64}}}
    with pytest.raises(RelayError, match='"packages" names the method thrice, which "more" does not ask for'):
        from_table(table, Study, "a test")
