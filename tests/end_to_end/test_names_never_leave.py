"""A patient's name stays at its hospital: no byte that reaches the coordinator holds it, whatever goes wrong."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_to_proto

from client import app as client_app
from client.site_config import load_site
from client.stages import describe
from common.errors import BadPatient, RelayError
from common.protocol.codec import BadMessage, to_record
from common.protocol.messages import DESCRIBE, Describe
from deploy.simulation.local_grid import LocalGrid, enter_run
from server.progress.wording import line_of
from server.study_run import run_study
from tests.support.hospitals import (
    approve_everywhere,
    patient,
    run_on_grid,
    small_study,
    write_dicom_patient,
    write_hospitals,
    write_pair,
    write_site,
)

NAME, GIVEN, PATIENT_ID, WARD = "Zwetschgenröster", "Ottokar", "PID-480231", "Klinik Nordstern"
SECRETS = (NAME, "zwetschgenr", GIVEN, PATIENT_ID, WARD, "Nordstern", "BIRTHNAME-XYLANDER")
ROUTE = {"methods": {"sequential": {"routes": (("B", "A"),)}}, "training": {"epochs": 2, "leg_minutes": 0.0}}


def forms(text: str) -> Iterator[bytes]:
    """The ways in which a text may stand in bytes; a bare digest of a name can be tried out, so it counts too."""
    for spelled in {text, text.lower(), text.upper()}:
        yield from written(spelled)
        for digest in ("md5", "sha1", "sha256"):
            made = hashlib.new(digest, spelled.encode())
            yield from (made.digest(), made.hexdigest().encode())


def written(text: str) -> set[bytes]:
    return {text.encode(encoding, "ignore") for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le")}


def assert_silent(pieces: Iterable[bytes], *, also: tuple[str, ...] = ()) -> None:
    """No piece holds a secret. Of large ones, which are weights, the plain spelling is looked for alone."""
    large = [piece for piece in pieces if len(piece) > 10_000]
    small = b"\n".join(piece for piece in pieces if len(piece) <= 10_000)
    for secret in (*SECRETS, *also):
        assert not any(form in small for form in forms(secret)), f"{secret!r} has left its hospital"
        assert not any(form in piece for piece in large for form in written(secret)), (
            f"{secret!r} has left its hospital"
        )


def held_by_the_coordinator(
    out: Path, wire: list[bytes], told: list[str], caplog: pytest.LogCaptureFixture
) -> list[bytes]:
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    assert files and wire and told
    return [
        *wire,
        *(line.encode() for line in (*told, caplog.text)),
        *(str(path.relative_to(out)).encode() for path in files),
        *(path.read_bytes() for path in files),
    ]


def test_the_search_finds_what_it_looks_for() -> None:
    """Or the tests below could not fail."""
    for hidden in (
        NAME.encode("utf-16-le"),
        NAME.encode("latin-1"),
        hashlib.sha256(GIVEN.encode()).hexdigest().encode(),
    ):
        with pytest.raises(AssertionError):
            assert_silent([b"before" + hidden + b"after"])
    for hidden in (NAME.encode(), GIVEN.encode("utf-16-le")):
        with pytest.raises(AssertionError):
            assert_silent([bytes(20_000) + hidden])
    assert_silent([b"harmless", bytes(20_000)])


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every byte that this process, the coordinator's, receives from another, through a pipe or as a file."""
    received: list[bytes] = []
    receive: Callable[..., bytes] = Connection.recv_bytes
    take: Callable[[Connection], int] = reduction.recv_handle

    def listen(self: Connection, maxlength: int | None = None) -> bytes:
        received.append(receive(self, maxlength))
        return received[-1]

    def look_into(connection: Connection) -> int:
        file = take(connection)
        received.append(os.pread(file, os.fstat(file).st_size, 0))
        return file

    monkeypatch.setattr(Connection, "recv_bytes", listen)
    monkeypatch.setattr(reduction, "recv_handle", look_into)
    return received


def write_named_hospitals(folder: Path) -> dict[str, Path]:
    """Site A keeps DICOM under a patient's name: in folders, in file names, in headers. B is any site."""
    here = folder / WARD
    for k in range(6):
        image, mask = patient(70 + k, slices=7)
        tags = {
            "0010_0010": f"{NAME}^{GIVEN}",
            "0010_1005": "BIRTHNAME-XYLANDER",
            "0008_0080": WARD,
            "0008_0090": f"{NAME}^{GIVEN}",
            "0008_1030": f"{WARD} {NAME}",
            "0008_0005": "ISO_IR 192",
            "0010_4000": f"{NAME} {PATIENT_ID}",
        }
        write_dicom_patient(here, f"{PATIENT_ID} {NAME} {GIVEN} {k}", image, mask, **tags)
    sites = write_hospitals(folder, {"B": 6}, slices=7)
    return sites | {"A": write_site(here, "A", layout="nci-isbi", masks="labels", folder=f"private {NAME}")}


@pytest.mark.slow
def test_names_in_folders_files_and_headers_stay_at_the_site(
    tmp_path: Path, wire: list[bytes], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also those of patients that cannot be used: they are left out, counted, and named in the site's own log."""
    caplog.set_level(logging.DEBUG)
    sites = write_named_hospitals(tmp_path / "hospitals")
    images = sites["A"].parent / "images"
    broken = sorted(images.iterdir())
    for k, (name, harm) in enumerate(
        {
            "no mask": lambda path: (images.parent / "labels" / f"{path.name}.nrrd").unlink(),
            "damaged": lambda path: next(path.rglob("003.dcm")).write_bytes(b"no DICOM"),
        }.items()
    ):
        fresh = images / f"{PATIENT_ID} {NAME} {GIVEN} {name}"
        write_dicom_patient(images.parent, fresh.name, *patient(90 + k, slices=7), **{"0010_0020": fresh.name})
        harm(fresh)
    assert len(sorted(images.iterdir())) == len(broken) + 2
    study = small_study(sites=("A", "B"), **ROUTE)
    results, events = run_on_grid(study, sites, tmp_path / "out", at_once=2)
    terminal = "".join(capfd.readouterr())
    assert {site["name"]: site["left_out"] for site in results["sites"]} == {"A": 2, "B": 0}
    told = [*map(line_of, events), terminal]
    held = held_by_the_coordinator(tmp_path / "out", wire, told, caplog)
    assert sum(map(len, held)) > 100 * 2**20, "the weights are among what is searched"
    assert_silent(held, also=(str(tmp_path / "hospitals"), ".dcm", ".nrrd"))
    log = (load_site(sites["A"]).folder / "site.log").read_text(encoding="utf-8")
    assert NAME in log and GIVEN in log
    page = (load_site(sites["A"]).folder / "page.html").read_text(encoding="utf-8")
    assert NAME in page, "the site's own page tells whom it shows"


def break_cache(private: Path) -> None:
    shutil.rmtree(private / "cache", ignore_errors=True)
    (private / "cache").write_text(NAME, encoding="utf-8")


HARMS: dict[str, Callable[[Path, Path], object]] = {
    "it stops at a damaged patient": lambda images, _: (images / f"{NAME} {GIVEN}.nii.gz").write_bytes(b"\x1f\x8b no"),
    "it stops at a mask without image": lambda images, _: (images / f"{NAME} {GIVEN}.nii.gz").unlink(),
    "its images are gone": lambda images, _: shutil.rmtree(images),
    "its images are all unusable": lambda images, _: [path.write_bytes(b"") for path in images.iterdir()],
    "its file is wrong": lambda images, _: (images.parent / "site.toml").write_text(
        f'layout = "{NAME} {GIVEN}"', encoding="utf-8"
    ),
    "its file is gone": lambda images, _: (images.parent / "site.toml").unlink(),
    "its log cannot be written": lambda _, private: (private / "egress.jsonl").mkdir(),
    "its cache cannot be written": lambda _, private: break_cache(private),
}


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
def test_a_site_that_fails_sends_a_number_and_no_name(
    tmp_path: Path, wire: list[bytes], caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    caplog.set_level(logging.DEBUG)
    here = tmp_path / "hospitals" / WARD
    for k in range(6):
        write_pair(here / "images", f"{NAME} {GIVEN}{k or ''}", *patient(k, slices=5))
    sites = {"A": write_site(here, "A", folder=f"private {NAME}", bad_patients="stop")}
    sites |= write_hospitals(tmp_path / "hospitals", {"B": 6}, slices=5)
    study = small_study(sites=("A", "B"), **ROUTE)
    approve_everywhere(sites, study)
    HARMS[harm](here / "images", here / f"private {NAME}")
    told: list[str] = []
    with LocalGrid(sites, at_once=2) as grid, pytest.raises(RelayError) as refused:
        run_study(grid, study, tmp_path / "out", beside=tmp_path, observe=lambda event: told.append(line_of(event)))
    assert "site A" in str(refused.value)
    held = held_by_the_coordinator(tmp_path / "out", wire, [*told, str(refused.value)], caplog)
    assert_silent(held, also=(str(tmp_path / "hospitals"), ".nii.gz"))


ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError(NAME),
    "KeyError": lambda: KeyError(f"/data/{WARD}/{NAME}.dcm"),
    "RuntimeError": lambda: RuntimeError(f"{NAME}\n{PATIENT_ID}"),
    "a missing file": lambda: FileNotFoundError(2, "No such file", f"/data/{NAME}"),
    "a full disk": lambda: OSError(errno.ENOSPC, "No space left", f"/data/{NAME}"),
    "no memory": lambda: MemoryError(NAME),
    "a bad patient": lambda: BadPatient(NAME, f"{NAME} has no mask."),
    "a user's mistake": lambda: RelayError(f"{WARD} cannot be read."),
    "an undeclared refusal": lambda: BadMessage(NAME),
    "a unicode error": lambda: UnicodeDecodeError("utf-8", NAME.encode(), 0, 1, GIVEN),
    "an assertion": lambda: AssertionError(NAME),
    "a chain of errors": lambda: chained(),
}


def chained() -> BaseException:
    try:
        raise ValueError(NAME)
    except ValueError as error:
        made = RuntimeError(GIVEN)
        made.__cause__ = error
        made.add_note(PATIENT_ID)
        return made


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", ["prepare", "gather", "release", "site_of", "approved"])
def test_an_exceptions_text_stays_in_the_sites_own_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: str
) -> None:
    """Wherever in the hospital's app it is raised. Flower itself would send the text of an exception."""
    here = tmp_path / WARD
    for k in range(6):
        write_pair(here / "images", f"Case{k}", *patient(k, slices=3))
    site = write_site(here, "A")
    study = small_study()
    approve_everywhere({"A": site}, study)
    monkeypatch.setenv("RELAY_SITE", str(site))
    module = describe if place in ("prepare", "gather") else client_app
    original = getattr(module, place)

    def fails(*given: Any, **named: Any) -> Any:
        if place == "site_of":
            original(*given, **named)  # from here on there is a log
        raise ERRORS[error]()

    monkeypatch.setattr(module, place, fails)
    enter_run(1)
    message = Message(to_record(Describe(study=study.digest)), dst_node_id=1, message_type=DESCRIBE)
    reply = client_app.app(message, Context(1, 1, {}, RecordDict(), {}))
    assert reply.has_error()
    assert_silent([message_to_proto(reply).SerializeToString()])
    if error != "an undeclared refusal":
        log = (load_site(site).folder / "site.log").read_text(encoding="utf-8")
        assert any(secret in log for secret in SECRETS), "the hospital is told what it was"
