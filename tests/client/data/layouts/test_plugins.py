"""A layout of an installed package finds a hospital's patients as relay's own do, and stands in no other's place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk

from client.data import layouts
from client.site_config import load_site
from common.errors import RelayError
from tests.support.layout_files import truth, write_volume

CODE = """
from pathlib import Path

from client.data.layouts import Folder, Folders, Found, Problem, Source, layout


def detect(folder: Folder) -> Path | None:
    return next((path for path in folder.files if path.name.endswith("_gland.nii.gz")), None)


@layout("NAME", detect=detect, looks_for="NAME.nii.gz beside NAME_gland.nii.gz")
def find(folders: Folders) -> Found:
    masks = [path for path in folders.images.files if path.name.endswith("_gland.nii.gz")]
    names = [mask.name.removesuffix("_gland.nii.gz") for mask in masks]
    images = [mask.with_name(f"{name}.nii.gz") for mask, name in zip(masks, names)]
    return Found(tuple(Source(n, (i,), (m,)) for n, i, m in zip(names, images, masks)), ())
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that lays down a package with a layout, as pip does."""
    before = dict(layouts.known())

    def lay_down(code: str = CODE, name: str = "our-scanner") -> None:
        files = {
            "our_hospital/__init__.py": "",
            "our_hospital/our_scanner.py": code.replace("NAME", name, 1),
            "our_hospital-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: our-hospital\nVersion: 1.0\n",
            "our_hospital-1.0.dist-info/entry_points.txt": f"[relay.layouts]\n{name} = our_hospital.our_scanner\n",
        }
        for path, text in files.items():
            (tmp_path / "packages" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "packages" / path).write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))
        layouts.known.cache_clear()

    yield lay_down
    layouts.known.cache_clear()
    layouts._registry.clear()
    layouts._registry.update(before)
    for module in [module for module in sys.modules if module.startswith("our_hospital")]:
        del sys.modules[module]


def site(folder: Path, layout: str) -> Path:
    image, mask = truth()
    (folder / "images").mkdir()
    write_volume(folder / "images" / "Kain.nii.gz", image)
    write_volume(folder / "images" / "Kain_gland.nii.gz", mask)
    path = folder / "site.toml"
    path.write_text(f'name = "A"\nimages = "images"\n{layout}', encoding="utf-8")
    return path


@pytest.mark.parametrize("key", ["", 'layout = "our-scanner"\n'])
def test_patients_are_found_and_read(install: Callable[..., None], tmp_path: Path, key: str) -> None:
    install()
    home = load_site(site(tmp_path, key))
    found = layouts.find(home)
    assert found.layout == "our-scanner" and [source.patient for source in found.sources] == ["Kain"]
    case = layouts.read(found.sources[0])
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "images" / "Kain_gland.nii.gz")))
    assert case.mask.sum() == (mask > 0).sum() > 0


def test_the_package_gone_the_layout_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(RelayError, match="our-scanner"):
        layouts.find(load_site(site(tmp_path, 'layout = "our-scanner"\n')))


def test_a_package_that_cannot_be_imported_is_named(install: Callable[..., None]) -> None:
    install("import a_module_that_is_not_there")
    with pytest.raises(RelayError, match=r"our-scanner of the package our-hospital .*a_module_that_is_not_there"):
        layouts.known()


def test_no_package_takes_the_place_of_one_of_relays_own_layouts(install: Callable[..., None]) -> None:
    own = layouts.known()["nifti-pairs"]
    install(name="nifti-pairs")
    with pytest.raises(RelayError, match="our-hospital calls a layout nifti-pairs"):
        layouts.known()
    assert layouts._registry["nifti-pairs"] is own
