"""From a real archive come the series that are asked for and their labels, once, whole, with no name in a sentence."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from client.archive import fetch as module
from client.archive.connection import connect
from client.archive.fetch import fetch
from client.archive.store import store
from client.data import layouts
from client.data.layouts.dicom import read_image
from client.inference.dicom_seg import read_series, write_segmentation
from client.site_config import SiteConfig, load_site
from common.errors import RelayError, Unfinished, Unreachable
from tests.support.archive_gate import Gate
from tests.support.cards import card
from tests.support.commands import relay_here
from tests.support.hospitals import patient, write_labelled_patient
from tests.support.orthanc import Orthanc, absent

real = pytest.mark.skipif(bool(absent()), reason=absent())
NAMES = [f"Quirrel-{k}" for k in range(3)]
SLICES = 9


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Three labelled patients of other dates, one without a label, and series beside the T2."""
    if absent():
        pytest.skip(absent())
    folder = tmp_path_factory.mktemp("archive")
    for k, name in enumerate(NAMES):
        write_labelled_patient(folder / "h", name, *patient(k))
        dated(folder / "h" / "images" / name, f"202{k}0101")
    write_labelled_patient(folder / "h", "Without", *patient(7))
    (folder / "h" / "images" / "drawn" / "Without.dcm").unlink()
    dated(folder / "h" / "images" / "Without", "20200101")
    other = folder / "h" / "images" / "adc"
    other.mkdir()
    for path in sorted((folder / "h" / "images" / NAMES[0]).iterdir()):
        header = pydicom.dcmread(path)
        header.SeriesDescription, header.SeriesInstanceUID = "ep2d_diff ADC", "1.2.99"
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"{header.SOPInstanceUID}.7"[-60:]
        header.save_as(other / path.name)
    with Orthanc(folder / "orthanc") as running:
        running.put(folder / "h" / "images")
        yield running


def dated(folder: Path, date: str) -> None:
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        header.StudyDate = date
        header.save_as(path)


def site(folder: Path, query: str = "", more: str = "") -> SiteConfig:
    path = folder / "site.toml"
    path.write_text(f"name = 'A'\nfolder = 'private'\n{more}[archive]\n{query}", encoding="utf-8")
    return load_site(path)


def fetched(config: SiteConfig) -> list[Path]:
    return sorted(config.images.rglob("*.dcm"))


@real
def test_the_t2_and_the_label_of_each_labelled_study_are_fetched_and_read(archive: Orthanc, tmp_path: Path) -> None:
    config = site(tmp_path)
    done = fetch(config, archive.url)
    assert (done.studies, done.series, done.labels, done.files, done.failed, done.unlabelled) == (3, 3, 3, 30, 0, 1)
    assert len(fetched(config)) == 3 * (SLICES + 1)
    found = layouts.find(config)
    assert found.layout == "dicom" and found.problems == ()
    assert [source.patient for source in found.sources] == NAMES
    for k, source in enumerate(found.sources):
        image, mask = patient(k)
        case = layouts.read(source)
        np.testing.assert_array_equal(case.image, image.astype(np.uint16))
        np.testing.assert_array_equal(case.mask, mask > 0)


@real
@pytest.mark.parametrize(
    ("query", "studies", "series"),
    [
        ("study_dates = '20210101-20221231'", 2, 2),
        ("study_dates = '20200101'", 1, 1),
        ("study_dates = '-20201231'", 1, 1),
        (f"patients = ['{NAMES[1]}', '{NAMES[2]}', 'nobody']", 2, 2),
        ("unlabelled = true", 4, 4),
        ("description = ''", 3, 4),
        ("description = 'ADC'", 1, 1),
        ("description = 't2w_TSE'", 3, 3),
    ],
)
def test_the_query_decides(archive: Orthanc, tmp_path: Path, query: str, studies: int, series: int) -> None:
    done = fetch(site(tmp_path, query), archive.url)
    assert (done.studies, done.series) == (studies, series)


@real
@pytest.mark.parametrize("query", ["modality = 'CT'", "patients = ['nobody']", "study_dates = '19990101'"])
def test_a_query_without_an_answer_is_told(archive: Orthanc, tmp_path: Path, query: str) -> None:
    with pytest.raises(RelayError, match=r"Nothing in the archive matches the query of site A"):
        fetch(site(tmp_path, query), archive.url)


@real
def test_only_what_is_not_there_is_fetched(archive: Orthanc, tmp_path: Path) -> None:
    config = site(tmp_path)
    fetch(config, archive.url)
    files = {path: path.read_bytes() for path in fetched(config)}
    gone = list(files)[7]
    gone.unlink()
    with Gate(archive.url.removesuffix("/dicom-web")) as gate:
        done = fetch(config, gate.url)
    assert (done.files, done.there) == (1, 29)
    assert sum("/instances/" in path for path in gate.paths) == 1
    assert {path: path.read_bytes() for path in fetched(config)} == files


@real
def test_a_fetch_that_was_stopped_goes_on_and_leaves_no_half_file(
    archive: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = site(tmp_path)
    written: list[Path] = []
    write = module.write_atomically

    def stopping(path: Path, content: bytes, **how: int) -> None:
        if len(written) == 12:
            path.with_name(".half.part").write_bytes(content[:100])  # a process killed in the middle of writing
            raise KeyboardInterrupt
        write(path, content, **how)
        written.append(path)

    monkeypatch.setattr(module, "write_atomically", stopping)
    with pytest.raises(KeyboardInterrupt):
        fetch(config, archive.url)
    monkeypatch.undo()
    files = [pydicom.dcmread(path) for path in fetched(config)]
    assert len(files) == 12 and all(file.pixel_array.size for file in files)
    done = fetch(config, archive.url)
    assert (done.files, done.there) == (18, 12)
    assert len(layouts.find(config).sources) == 3


@real
def test_a_file_that_the_archive_does_not_give_is_counted_and_asked_for_again(archive: Orthanc, tmp_path: Path) -> None:
    config = site(tmp_path)
    lost: list[str] = []

    def losing(path: str) -> tuple[int, bytes, str] | None:
        if "/instances/" not in path or (lost and path != lost[0]):
            return None
        lost.append(path)
        return 404, b"", "text/plain"

    with Gate(archive.url.removesuffix("/dicom-web"), answer=losing) as gate:
        assert fetch(config, gate.url).failed == 1
        with pytest.raises(Unfinished, match=r"1 of 30 files could not be fetched"):
            relay_here("site", "fetch", tmp_path / "site.toml", "--from", gate.url)
    assert fetch(config, archive.url).files == 1


@pytest.mark.slow
@real
def test_tls_and_a_token(archive: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = site(tmp_path)
    behind = archive.url.removesuffix("/dicom-web")
    with Gate(behind, folder=tmp_path / "gate", token="abc") as gate:
        with pytest.raises(RelayError, match="RELAY_ARCHIVE_CA"):
            fetch(config, gate.url)
        monkeypatch.setenv("RELAY_ARCHIVE_CA", str(gate.authority))
        with pytest.raises(RelayError, match=r"HTTP 401.*RELAY_ARCHIVE_TOKEN"):
            fetch(config, gate.url)
        monkeypatch.setenv("RELAY_ARCHIVE_TOKEN", "abc")
        assert fetch(config, gate.url).files == 30


@real
def test_no_name_leaves_the_private_folder(archive: Orthanc, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = site(tmp_path)
    assert relay_here("site", "fetch", tmp_path / "site.toml", "--from", archive.url) == 0
    printed = capfd.readouterr()
    assert "30 files fetched" in printed.out
    uids = {path.parent.name for path in fetched(config)} | {path.stem for path in fetched(config)}
    log = (config.folder / "site.log").read_text("utf-8")
    for text in (printed.out, printed.err, log):
        assert "Quirrel" not in text and not any(uid in text for uid in uids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["private", "site.toml"]
    for path in (config.folder, *config.folder.rglob("*")):
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0, path
        assert "Quirrel" not in str(path)


@real
def test_counts_for_a_script(archive: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site(tmp_path, more="images = 'data'\n")
    assert relay_here("site", "fetch", tmp_path / "site.toml", "--from", archive.url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == 30
    assert (tmp_path / "data").is_dir(), "the folder that the file names"


@pytest.mark.slow
@real
def test_an_archive_with_a_password_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with Orthanc(tmp_path / "o", users={"a": "b"}) as closed, pytest.raises(RelayError, match="HTTP 401"):
        fetch(site(tmp_path), closed.url)


def answering(**content: object) -> Gate:
    """A server with one study, whose series and instances are as given."""

    def answer(path: str) -> tuple[int, bytes, str]:
        plain = path.partition("?")[0]
        kind = "instances" if plain.endswith("instances") else "series" if plain.endswith("series") else "studies"
        return 200, json.dumps(content.get(kind, [])).encode(), "application/dicom+json"

    return Gate(answer=answer)


def entry(**values: str) -> dict[str, object]:
    return {tag.removeprefix("t"): {"vr": "UI", "Value": [value]} for tag, value in values.items()}


def test_a_uid_that_would_be_a_path_is_refused(tmp_path: Path) -> None:
    config = site(tmp_path, "unlabelled = true")
    series = [entry(t0020000E="1.2.3", t00080060="MR", t0008103E="t2")]
    with (
        answering(studies=[entry(t0020000D="1.2")], series=series, instances=[entry(t00080018="../../../x")]) as gate,
        pytest.raises(RelayError, match="not answer as a DICOMweb server"),
    ):
        fetch(config, gate.url)
    assert not config.images.exists()


def test_a_server_that_is_no_archive_is_told(tmp_path: Path) -> None:
    with (
        Gate(answer=lambda path: (200, b"<html>", "text/html")) as gate,
        pytest.raises(RelayError, match="not answer as a DICOMweb server"),
    ):
        fetch(site(tmp_path), gate.url)


@pytest.mark.slow
def test_an_archive_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"^The archive 127\.0\.0\.1 does not answer"):
        fetch(site(tmp_path), "http://127.0.0.1:9/dicom-web")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("pacs/dicom-web", "no address"),
        ("ftp://pacs/x", "no address"),
        ("https://me:secret@pacs/dicom-web", "RELAY_ARCHIVE_TOKEN"),
        ("http://pacs.hospital/dicom-web", "unencrypted"),
    ],
)
def test_addresses_that_are_none(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_ARCHIVE_TOKEN", "t")
    with pytest.raises(RelayError, match=told) as caught:
        connect(url)
    assert "secret" not in str(caught.value)


def test_a_site_without_a_query_is_told(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("name = 'A'\nimages = 'x'\n", encoding="utf-8")
    with pytest.raises(RelayError, match=r"\[archive\]"):
        fetch(load_site(tmp_path / "site.toml"), "http://127.0.0.1:9")


@pytest.mark.slow
@real
def test_a_segmentation_goes_back_and_is_not_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="highdicom is an extra: pip install 'prostate-relay[dicom-seg]'")
    image, mask = patient(1)
    write_labelled_patient(tmp_path / "scanner", "P1", image, mask)
    with Orthanc(tmp_path / "orthanc") as running:
        running.put(tmp_path / "scanner" / "images")
        config = site(tmp_path)
        fetch(config, running.url)
        (source,) = layouts.find(config).sources
        drawn = sitk.GetImageFromArray((mask > 0).astype(np.uint8))
        drawn.CopyInformation(read_image(source.image))
        write_segmentation(drawn, read_series(source.image), card(), tmp_path / "drawn.dcm")
        store(tmp_path / "drawn.dcm", running.url)
        again = fetch(config, running.url)
    assert (again.labels, again.files, again.there) == (2, 1, SLICES + 1)
    found = layouts.find(config)
    assert found.sources == (source,) and found.problems == ()
    pixels = [pydicom.dcmread(path) for path in fetched(config)]
    (stored,) = (one for one in pixels if one.get("ManufacturerModelName") == "prostate-relay")
    np.testing.assert_array_equal(stored.pixel_array, mask > 0)


@pytest.mark.parametrize(("status", "told"), [(409, "HTTP 409"), (403, "RELAY_ARCHIVE_TOKEN")])
def test_an_archive_that_refuses_a_segmentation_is_told(tmp_path: Path, status: int, told: str) -> None:
    with (
        Gate(answer=lambda path: (status, b"", "text/plain")) as gate,
        pytest.raises(RelayError, match=told) as caught,
    ):
        store(segmentation(tmp_path), gate.url)
    assert "Quirrel" not in str(caught.value)


def test_an_archive_that_keeps_no_segmentation_is_told(tmp_path: Path) -> None:
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [43264]}}]}}
    with (
        Gate(answer=lambda path: (200, json.dumps(failed).encode(), "application/dicom+json")) as gate,
        pytest.raises(RelayError, match="failure reason 43264"),
    ):
        store(segmentation(tmp_path), gate.url)


def segmentation(folder: Path) -> Path:
    write_labelled_patient(folder, NAMES[0], *patient(0))
    return folder / "images" / "drawn" / f"{NAMES[0]}.dcm"


def test_the_libraries_are_loaded_where_they_are_needed_alone() -> None:
    code = (
        "import sys, deploy.cli.site, deploy.cli.predict, deploy.site.fetch, client.archive.store\n"
        "from client.data.layouts import known; known()\n"
        "print([name for name in ('dicomweb_client', 'requests', 'skimage', 'highdicom') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"
