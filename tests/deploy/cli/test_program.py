"""The command `relay`, started as a person starts it: what it says, and its exit code."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import SimpleITK as sitk

from common.errors import DiskFull
from deploy.cli.commands import FILES, Call, root
from deploy.cli.help_page import HELP
from deploy.cli.program import error_code, invoke
from deploy.cli.results import show_results
from tests.support.commands import relay_here
from tests.support.hospitals import REPO, patient, write_dicom_patient, write_hospitals, write_pair, write_site

ESCAPE = "\x1b"
BY_HAND = """\
name = "mine"
sites = ["A", "B", "C"]
[model]
encoder = "mobilenet_v2"
encoder_weights = "none"
[preprocessing]
pixels = 32
[preprocessing.n4]
enabled = false
[split]
folds = 2
"""


def relay(*words: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *map(str, words)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def refused(*words: str | Path, cwd: Path | None = None) -> str:
    """The one sentence that a command is refused with."""
    done = relay(*words, cwd=cwd)
    assert done.returncode == 1, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr and lines[0].endswith((".", "?"))
    return lines[0]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), {"A": 4, "B": 4, "C": 4}, slices=5)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(BY_HAND, encoding="utf-8")
    return path


def given(sites: dict[str, Path], **changed: Path) -> list[str]:
    return [word for name, path in (sites | changed).items() for word in ("--site", f"{name}={path}")]


# -- hash ----------------------------------------------------------------------------------------------


def test_a_studys_hash_is_what_a_hospital_compares(study: Path, tmp_path: Path) -> None:
    shown = relay("study", "hash", study)
    assert shown.returncode == 0 and re.fullmatch(r"([0-9a-f]{4} ){4}[0-9a-f]{4}\n", shown.stdout)
    digest = json.loads(relay("study", "hash", study, "--json").stdout)["digest"]
    assert digest.startswith(shown.stdout.strip().replace(" ", ""))
    other = tmp_path / "other.toml"
    other.write_text("# another layout\n\n" + study.read_text(encoding="utf-8"), encoding="utf-8")
    assert relay("study", "hash", other).stdout == shown.stdout
    other.write_text("seed = 77\n" + study.read_text(encoding="utf-8").replace("seed =", "# seed ="), encoding="utf-8")
    assert relay("study", "hash", other).stdout != shown.stdout


# -- help ------------------------------------------------------------------------------------------


def test_help_is_a_page_and_comes_at_once() -> None:
    times = []
    for _ in range(3):
        before = os.times()
        done = relay("--help")
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert done.returncode == 0 and done.stderr == ""
    assert min(times) < 0.4  # what an idle machine takes
    for command in ("relay demo", "relay simulate", "relay site check", "relay report", "relay phantom"):
        assert command in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert relay().stdout == relay("help").stdout == done.stdout


def commands() -> dict[str, click.Command]:
    """Every command by the words that call it."""
    found: dict[str, click.Command] = {}
    with root().make_context("relay", [], resilient_parsing=True) as context:
        for word in FILES:
            command = root().get_command(context, word)
            assert command is not None
            below = command.commands if isinstance(command, click.Group) else None
            found |= {word: command} if below is None else {f"{word} {name}": one for name, one in below.items()}
    return found


@pytest.mark.parametrize(("words", "command"), [pytest.param(*item, id=item[0]) for item in commands().items()])
def test_every_command_stands_on_the_page_and_says_what_it_takes(
    words: str, command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"relay {words} " in HELP or re.search(rf"relay {words.split()[0]} .*\| {words.split()[-1]}\b", HELP)
    assert relay_here(*words.split(), "--help") == 0
    told = capsys.readouterr().out
    assert told.startswith(f"Usage: relay {words} [OPTIONS]")
    assert max(map(len, told.splitlines())) <= 80
    on_one_line = " ".join(told.split())
    for parameter in command.params:
        about = getattr(parameter, "help", None) or command.helps[parameter.name]  # type: ignore[attr-defined]
        assert about and " ".join(about.split()) in on_one_line, parameter.name


def test_a_group_lists_its_commands() -> None:
    done = relay("site", "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage: relay site [OPTIONS] COMMAND")
    assert "  check    Read every patient" in done.stdout


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("relay s", ["study", "simulate", "site"]),
        ("relay site a", ["approve", "audit"]),
        ("relay predict w s --d", ["--dicom-seg", "--device", "--debug"]),
    ],
)
def test_a_shell_completes_commands_and_options(typed: str, expected: list[str]) -> None:
    shell = {"_RELAY_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = relay(**shell)
    assert done.returncode == 0 and sorted(done.stdout.split()) == sorted(expected), done


def test_completion_can_be_shown_and_installed(tmp_path: Path) -> None:
    bash = {"SHELL": "/bin/bash", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    shown = relay("--show-completion", "bash", **bash)
    assert shown.returncode == 0 and "_RELAY_COMPLETE=complete_bash" in shown.stdout
    assert relay("--install-completion", "bash", **bash).returncode == 0
    assert shown.stdout.strip() == (tmp_path / ".bash_completions" / "relay.sh").read_text(encoding="utf-8")


def test_a_call_can_be_said_again_as_it_is_typed() -> None:
    assert Call(("simulate", "my study.toml", "--out", "x")).line == "relay simulate 'my study.toml' --out x"


def in_shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m deploy.cli"
    command = ["sh", "-c", line.replace("relay", program)]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--help", "--version", "site check --help", "phantom x --patients 1"])
def test_output_that_nobody_takes_is_no_fault_of_the_program(tmp_path: Path, words: str) -> None:
    full = in_shell(f"relay {words} > /dev/full", tmp_path)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1:] == [
        "The disk is full; make room and start again: what is finished is kept."
    ], full.stderr
    assert "Traceback" not in full.stderr and "Exception" not in full.stderr
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    closed = in_shell(f"relay {words} >&-", tmp_path)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_a_closed_standard_error_hides_the_sentence_and_not_the_code(tmp_path: Path) -> None:
    assert in_shell("relay report nothing 2>&-", tmp_path).returncode == 1


def test_results_without_a_row_are_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text('{"rows": []}', encoding="utf-8")
    show_results(tmp_path)
    assert capsys.readouterr().out == f"\nNo row of the table is finished.\n\n{tmp_path / 'report.html'}\n"


def test_the_version_is_the_distributions() -> None:
    assert re.fullmatch(r"relay \d+\.\d+\.\d+\n", relay("--version").stdout)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["simulat"], "simulat"),
        (["simulate"], "STUDY.toml"),
        (["demo", "--at-once", "none"], '"none" is no whole number of at least 1'),
        (["phantom", "x", "--patients", "0"], '"0" is no whole number of at least 1'),
        (["phantom", "x", "--patients", "A=3,B"], '"" is no whole number of at least 1'),
        (["phantom", "x", "--patients", "A=3,A=4"], '"A=3,A=4" names A twice'),
        (["site"], "COMMAND"),
        (["report", "x", "--fast"], "--fast"),
    ],
)
def test_a_wrong_call_gets_one_sentence_and_code_2(words: list[str], told: str) -> None:
    done = relay(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and told in done.stderr and "--help" in done.stderr


# -- a study that cannot begin ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("find", "write", "told"),
    [
        ("folds = 2", "foldz = 2", '"split.foldz"'),
        ("folds = 2", 'folds = "2"', '"split.folds"'),
        ("folds = 2", "folds = 2.5", '"split.folds"'),
        ("enabled = false", "enabled = 0", '"preprocessing.n4.enabled"'),
        ("pixels = 32", "pixels = 33", '"preprocessing.pixels"'),
        ("[split]", "[split", "not valid TOML"),
        ('["A", "B", "C"]', '["A"]', "A alone has nobody to share with"),
        ('["A", "B", "C"]', '["A", "pooled"]', "pooled"),
        ("[split]", '[methods.sequential]\nroutes = [["D", "A"]]\n[split]', "site D"),
    ],
)
def test_a_wrong_study_file_names_the_key(
    find: str, write: str, told: str, study: Path, sites: dict[str, Path], tmp_path: Path
) -> None:
    study.write_text(BY_HAND.replace(find, write), encoding="utf-8")
    sentence = refused("simulate", study, *given(sites), cwd=tmp_path)
    assert told in sentence and str(study) in sentence
    assert sorted(tmp_path.iterdir()) == [study]


def test_a_study_file_that_is_not_there(sites: dict[str, Path], tmp_path: Path) -> None:
    assert str(tmp_path / "no.toml") in refused("simulate", tmp_path / "no.toml", *given(sites), cwd=tmp_path)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"imagse": "images"}, '"imagse"'),
        ({"cores": "2"}, '"cores"'),
        ({"layout": "nifty"}, "nifty"),
        ({"images": "gone"}, 'correct "images"'),
        ({"device": "gpu"}, '"device"'),
        ({"masks": "labels"}, 'remove the key "masks"'),
    ],
)
def test_a_wrong_site_file_names_the_key(
    keys: dict[str, Any], told: str, study: Path, sites: dict[str, Path], tmp_path: Path
) -> None:
    wrong = write_site(tmp_path / "b", "B", **keys)
    assert told in refused("simulate", study, *given(sites, B=wrong), cwd=tmp_path)


@pytest.mark.slow
def test_sites_are_given_once_each_and_by_their_own_names(study: Path, sites: dict[str, Path], tmp_path: Path) -> None:
    def told(*words: str) -> str:
        return refused("simulate", study, *words, cwd=tmp_path)

    everywhere = given(sites)
    assert "names A twice" in told(*everywhere, "--site", f"A={sites['B']}")
    assert "names D, which is not among the study's sites (A, B, C)" in told(*everywhere, "--site", f"D={sites['A']}")
    assert 'a site named "A"' in told(*given(sites, B=sites["A"]))
    assert "no file is given for B and C" in told("--site", f"A={sites['A']}")
    assert 'wants NAME=PATH, such as A=site-a.toml, and got "A"' in told("--site", "A")
    assert "leave out --site pooled" in told(*everywhere, "--site", f"pooled={sites['A']}")
    assert "There is no site file" in told(*given(sites, B=tmp_path / "none.toml"))
    assert not (tmp_path / "mine-results").exists()


def test_two_sites_may_not_share_a_private_folder(study: Path, sites: dict[str, Path], tmp_path: Path) -> None:
    shared = sites["A"].parent
    twin = write_site(tmp_path / "b", "B", images=str(sites["B"].parent / "images"), folder=str(shared / "private"))
    assert "the same private" in refused("simulate", study, *given(sites, B=twin), cwd=tmp_path)


def test_a_site_too_small_for_its_folds_is_told_before_anything_starts(
    study: Path, sites: dict[str, Path], tmp_path: Path
) -> None:
    study.write_text(BY_HAND.replace("folds = 2", "folds = 5"), encoding="utf-8")
    sentence = refused("simulate", study, *given(sites), cwd=tmp_path)
    assert "Site A has 4 usable patients" in sentence and "need 6" in sentence
    assert not (tmp_path / "mine-results").exists()


UNFINISHED = """
import sys
import deploy.simulation.simulate
import deploy.coordinator.study_run
from common.errors import GO_ON, RelayError, Unfinished
from deploy.cli import main
def some_is_missing(*_, **__):
    raise Unfinished(f"3 of 8 rows could not be finished. What is finished is kept in out; {GO_ON}.")
def all_failed(*_, **__):
    raise RelayError(f"All failed; {GO_ON}.")
deploy.simulation.simulate.simulate, deploy.coordinator.study_run.run = some_is_missing, all_failed
main(sys.argv[1:])
"""


def ends_with(*words: str | Path, **environment: str) -> str:
    """What a command says whose study ends unfinished."""
    done = subprocess.run(
        [sys.executable, "-c", UNFINISHED, *map(str, words)],
        env={name: value for name, value in os.environ.items() if name != "RELAY_CALLED_AS"} | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    told = {"error": {"code": "unfinished", "message": done.stderr.rstrip("\n")}}
    assert json.loads(done.stdout) == told if "--json" in words else done.stdout == ""
    return done.stderr


def test_a_study_that_is_unfinished_ends_with_the_command_that_goes_on(
    study: Path, sites: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "my results"
    called = ["simulate", str(study), *given(sites), "--out", str(out), "--json"]
    kept = "3 of 8 rows could not be finished. What is finished is kept in out; run"
    assert ends_with(*called) == f"{kept} `relay {shlex.join(called)}` to go on.\n"
    assert f"--out '{out}'" in shlex.join(called), "as a shell takes it"
    assert ends_with("study", "run", study) == f"All failed; run `relay study run {study}` to go on.\n"
    above = "docker compose up --exit-code-from study"
    assert ends_with(*called, RELAY_CALLED_AS=above) == f"{kept} `{above}` to go on.\n"


def test_debug_shows_where_an_error_arose(tmp_path: Path) -> None:
    for words in (["--debug", "report", tmp_path], ["report", tmp_path, "--debug"]):
        done = relay(*words)
        assert done.returncode == 1 and "Traceback" in done.stderr and "results.json" in done.stderr
        assert done.stderr.endswith("\nError code: error\n")


@pytest.mark.slow
def test_a_script_reads_the_code_of_an_error_on_standard_output(tmp_path: Path) -> None:
    done = relay("site", "audit", tmp_path / "site.toml", "--json")
    assert done.returncode == 1 and done.stderr.startswith("There is no site file ")
    message = done.stderr.rstrip("\n")
    assert json.loads(done.stdout) == {"error": {"code": "configuration", "message": message}}


@pytest.mark.slow
def test_a_script_reads_what_an_inspection_found_and_nothing_besides(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "a.json").write_text("{}", encoding="utf-8")
    done = relay("study", "verify", tmp_path, "--json")
    assert done.returncode == 1 and "failed verification" in done.stderr
    assert [fault["file"] for fault in json.loads(done.stdout)["faults"]] == ["a.json"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DiskFull("full"), "disk-full"),
        (OSError(errno.ENOSPC, "full"), "disk-full"),
        (PermissionError(errno.EACCES, "not allowed", "file"), "file"),
        (MemoryError(), "out-of-memory"),
        (KeyboardInterrupt(), "interrupted"),
        (ZeroDivisionError(), "internal"),
    ],
)
def test_every_error_has_a_code_that_is_documented(error: BaseException, code: str) -> None:
    assert error_code(error) == code
    assert f"| `{code}` |" in (REPO / "docs" / "reference" / "error-codes.md").read_text(encoding="utf-8")


def test_a_report_needs_results(tmp_path: Path) -> None:
    assert "holds no results.json" in refused("report", tmp_path)


# -- site check ------------------------------------------------------------------------------------


def damaged_pairs(folder: Path) -> Path:
    """Three good patients, and one of each kind of damage."""
    images = folder / "images"
    for number in range(3):
        write_pair(images, f"Good{number}", *patient(number, slices=5))
    image, mask = patient(10, slices=5)
    write_pair(images, "Zeros", np.zeros_like(image), mask)
    write_pair(images, "NoGland", image, np.zeros_like(mask))
    spoiled = image.astype(np.float32)
    spoiled[2, 3, 4] = np.nan
    write_pair(images, "Nans", spoiled, mask)
    write_pair(images, "Alone", image, mask)
    (images / "Alone.nii.gz").unlink()
    write_pair(images, "Bare", image, mask)
    (images / "Bare_segmentation.nii.gz").unlink()
    write_pair(images, "Elsewhere", image, mask)
    path = images / "Elsewhere_segmentation.nii.gz"
    moved = sitk.ReadImage(str(path))
    moved.SetOrigin((500.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(path))
    write_pair(images, "Cut", image, mask)
    whole = (images / "Cut.nii.gz").read_bytes()
    (images / "Cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    return write_site(folder, "B")


DAMAGES = {
    "Zeros": "the same value (0) everywhere",
    "NoGland": "is empty (no label above 0)",
    "Nans": "1 values that are no numbers",
    "Alone": "has no image",
    "Bare": "has no mask",
    "Elsewhere": "is on another grid",
    "Cut": "is damaged",
}


@pytest.mark.slow
def test_a_check_lists_every_damage_with_its_sentence(tmp_path: Path) -> None:
    site = damaged_pairs(tmp_path)
    done = relay("site", "check", site, COLUMNS="80")
    assert done.returncode == 0 and done.stderr == "" and ESCAPE not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Site B, layout nifti-pairs: 3 usable patients, ") and "7 unusable" in lines[0]
    for name, sentence in DAMAGES.items():
        (line,) = [line for line in lines if line.startswith(f"{name}, unusable: ")]
        assert sentence in line
    as_json = json.loads(relay("site", "check", site, "--json").stdout)
    assert as_json["usable"] == 3 and as_json["unusable"] == 7
    assert {problem["patient"] for problem in as_json["problems"]} == set(DAMAGES)


def test_a_site_without_a_usable_patient_is_no_success(tmp_path: Path) -> None:
    image, mask = patient(1, slices=5)
    write_pair(tmp_path / "images", "Zeros", np.zeros_like(image), mask)
    done = relay("site", "check", write_site(tmp_path, "B"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["Site B has no patient that can be used; what is wrong with each stands above."]
    assert "Zeros, unusable: " in done.stdout


def small_site(folder: Path, name: str, seeds: range) -> Path:
    for seed in seeds:
        write_pair(folder / "images", f"Case-{name}-{seed}", *patient(seed, slices=7))
    return write_site(folder, name)


@pytest.mark.slow
def test_a_check_with_something_to_look_at_is_done_and_says_where_the_contours_are(tmp_path: Path) -> None:
    """The exit code says that there is something to train on; glands of 6 ml are for a doctor to judge."""
    done = relay("site", "check", small_site(tmp_path, "B", range(4)))
    assert done.returncode == 0 and done.stderr == ""
    assert "Case-B-2, to look at: The gland has " in done.stdout
    assert "Looked for masks mirrored left to right: found in 0 of 4" in done.stdout
    page = tmp_path / "private" / "checkup.html"
    assert done.stdout.splitlines()[-1] == f"Contours of all patients, for this site alone: {page}"
    assert "must stay at the site" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_counts_are_written_beside_what_the_site_sees(tmp_path: Path) -> None:
    site, counts = small_site(tmp_path / "secret", "B", range(4)), tmp_path / "counts.json"
    done = relay("site", "check", site, "--json", "--counts", counts)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert {finding["patient"] for finding in told["findings"]} <= {f"Case-B-{seed}" for seed in range(4)}
    text = counts.read_text(encoding="utf-8")
    assert json.loads(text)["sites"][0]["patients"]["usable"] == told["usable"] == 4
    assert "Case" not in text and "secret" not in text
    assert "make it, or name another" in refused("site", "check", site, "--counts", tmp_path / "nowhere" / "c.json")


@pytest.mark.slow
def test_members_of_the_pooled_site_that_share_an_image_are_told(tmp_path: Path) -> None:
    sites = [small_site(tmp_path / name, name, seeds) for name, seeds in (("A", range(3)), ("B", range(2, 5)))]
    pooled = tmp_path / "site.toml"
    pooled.write_text(f'name = "pooled"\nmembers = {json.dumps([str(path) for path in sites])}\n', encoding="utf-8")
    done = relay("site", "check", pooled, "--counts", tmp_path / "counts.json")
    assert done.returncode == 0
    assert "One and the same image: Case-A-2 of site A, Case-B-2 of site B." in done.stdout.splitlines()
    assert [site["site"] for site in json.loads((tmp_path / "counts.json").read_text())["sites"]] == ["A", "B"]
    assert len(json.loads(relay("site", "check", pooled, "--json").stdout)["shared"]) == 1


@pytest.mark.slow
def test_a_folder_that_no_file_describes_is_recognised_and_checked(tmp_path: Path) -> None:
    damaged_pairs(tmp_path)
    done = relay("site", "check", tmp_path / "images", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Site images, layout nifti-pairs: 3 usable patients, ")
    assert (tmp_path / ".relay-images" / "checkup.html").is_file()
    sentence = refused("site", "check", write_site(tmp_path, "B"), "--masks", tmp_path)
    assert "--masks goes with a folder of images" in sentence


@pytest.mark.slow
def test_dicom_series_that_are_empty_or_could_both_be_meant(tmp_path: Path) -> None:
    image, mask = patient(1, slices=5)
    for name in ("P-1", "P-2", "P-3"):
        write_dicom_patient(tmp_path, name, image, mask)
    series = tmp_path / "images" / "P-2" / "study" / "series"
    twin = series.with_name("other")
    twin.mkdir()
    for file in series.iterdir():
        slice_ = sitk.ReadImage(str(file))
        slice_.SetMetaData("0020|000e", "1.2.99")
        slice_.SetMetaData("0008|0018", f"1.2.99.{file.stem}")
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(twin / file.name))
        writer.Execute(slice_)
    for file in (tmp_path / "images" / "P-3").rglob("*.dcm"):
        file.unlink()
    site = write_site(tmp_path, "A", layout="nci-isbi", masks="labels")
    done = relay("site", "check", site)
    assert done.returncode == 0, done.stderr
    assert "Site A, layout nci-isbi: 1 usable patient" in done.stdout
    two, empty = (re.search(rf"^{name}, unusable: (.*)$", done.stdout, re.MULTILINE) for name in ("P-2", "P-3"))
    assert two and "series" in two[1]
    assert empty and ("image" in empty[1] or "empty" in empty[1])


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    sentence = refused("site", "check", write_site(tmp_path, "A"))
    assert str(tmp_path / "images") in sentence and 'correct "images"' in sentence


@pytest.mark.slow
def test_phantoms_are_written_once_and_their_site_files_named(tmp_path: Path) -> None:
    folder = tmp_path / "hospitals"
    done = relay("phantom", folder, "--patients", "1")
    assert done.returncode == 0 and done.stderr == "" and ESCAPE not in done.stdout
    assert done.stdout.splitlines() == [str(folder / f"site-{site}.toml") for site in "abc"]
    assert "holds other synthetic hospitals" in refused("phantom", folder, "--patients", "1", "--seed", "2")


@pytest.mark.slow
def test_phantoms_can_have_other_numbers_of_patients_and_real_glands(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    _, gland = patient(1, slices=5)
    mask = sitk.GetImageFromArray(gland)
    mask.SetSpacing((1.5, 1.5, 3.0))
    sitk.WriteImage(mask, str(masks / "one.nrrd"))
    asked = ["phantom", tmp_path / "out", "--patients", "A=2,C=1", "--anatomy", f"C={masks}"]
    done = relay(*asked)
    assert done.returncode == 0 and done.stderr == ""
    *paths, empty, notice = done.stdout.splitlines()
    assert paths == [str(tmp_path / "out" / f"site-{site}.toml") for site in "ac"] and not empty
    assert "shapes of real patients' masks" in notice and "licence" in notice
    assert "real patients' glands" in " ".join(relay("phantom", "--help").stdout.split())
    assert relay("site", "check", tmp_path / "out" / "site-c.toml").returncode == 0
    assert sum(path.is_dir() for path in (tmp_path / "out" / "A" / "Prostate-3T").iterdir()) == 2

    def told(*words: str) -> str:
        return refused("phantom", tmp_path / "new", "--patients", "2", *words)

    assert "2 patients" in told("--anatomy", f"A={masks}") and "number 1;" in told("--anatomy", f"A={masks}")
    assert "wants HOSPITAL=DIR" in told("--anatomy", str(masks))
    assert "names A twice" in told("--anatomy", f"A={masks}", "--anatomy", f"A={masks}")
    assert "no synthetic hospital 'D'" in refused("phantom", tmp_path / "new", "--patients", "D=1")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("module", ["deploy.cli.program", "deploy.cli.commands", "click"])
def test_ctrl_c_in_the_first_second_is_one_word(module: str) -> None:
    """While Python still imports: nothing of the program's own is there yet to explain it."""
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "import prostate_relay\n"
        "sys.argv = ['relay', 'study', 'plan', 'demo']\n"
        "sys.exit(prostate_relay.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped.\n")


@pytest.mark.parametrize("group", ["study", "site", "enroll", "coordinator"])
def test_help_of_a_group_says_a_whole_sentence_of_each_command(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    invoke(Call((group, "--help")))
    listed = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
    assert len(listed) >= 2
    assert all(re.fullmatch(r"  [a-z]+ +[A-Z].*[^.]\.", line) for line in listed), listed
