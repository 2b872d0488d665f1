"""`import relay`: the same study, figures, sentences and masks as the commands give, and the page that shows how."""

from __future__ import annotations

import contextlib
import html
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

import relay
from common.config.study import load_study
from tests.support.commands import relay_here
from tests.support.hospitals import REPO, write_hospitals

pytestmark = pytest.mark.slow

# `import relay` sets it for the processes that a user's script starts; other tests' processes begin without it.
os.environ.pop("PYTHONSAFEPATH", None)

PAGE = REPO / "docs" / "how-to" / "use-from-python.md"
STUDY = """\
name = "mine"
sites = ["A", "B"]
[model]
architecture = "Unet"
encoder = "mobilenet_v2"
encoder_weights = "none"
[preprocessing]
pixels = 32
spacing_mm = 2.0
[preprocessing.n4]
shrink = 2
iterations = [4, 3]
[split]
folds = 2
test_fraction = 0.3
[training]
epochs = 2
batch = 8
learning_rate = 3e-3
[methods]
longer_baseline = false
pooled = false
forgetting = false
federated = []
[methods.sequential]
routes = [["B", "A"]]
"""


@dataclass
class Ran:
    """One study, run by the command and from Python into folders of their own."""

    folder: Path
    sites: dict[str, Path]
    printed: dict[str, Any]
    """What `relay simulate --json` printed."""
    results: relay.Results
    events: list[relay.Event]

    @property
    def weights(self) -> Path:
        return self.folder / "from-the-study" / "model.safetensors"

    @property
    def image(self) -> Path:
        return self.folder / "A" / "images" / "Case00.nii.gz"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("python")
    sites = write_hospitals(folder, {"A": 7, "B": 7}, slices=5)
    study = folder / "study.toml"
    study.write_text(STUDY, encoding="utf-8")
    given = [word for name, path in sites.items() for word in ("--site", f"{name}={path}")]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert relay_here("simulate", study, *given, "--out", folder / "by-command", "--json") == 0
    events: list[relay.Event] = []
    results = relay.simulate(relay.Study.load(study), sites, folder / "results", progress=events.append)
    with contextlib.redirect_stdout(io.StringIO()):
        assert relay_here("site", "receive", sites["A"], "--to", folder / "from-the-study") == 0
    return Ran(folder, sites, json.loads(out.getvalue()), results, events)


def script(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a user has it, with `relay` on the search path as in an installation."""
    path = folder / "script.py"
    path.write_text(f"import sys\nsys.path += [{str(REPO)!r}, {str(REPO / 'deploy' / 'python')!r}]\n{code}", "utf-8")
    return subprocess.run(
        [sys.executable, path], cwd=folder, capture_output=True, encoding="utf-8", timeout=300, check=False
    )


def plain(value: Any) -> Any:
    """A frame's value as results.json has it."""
    return None if pd.isna(value) else value


def test_rows_are_those_that_the_command_prints_and_results_json_holds(ran: Ran) -> None:
    kept = json.loads((ran.folder / "results" / "results.json").read_text(encoding="utf-8"))
    for rows in (kept["rows"], ran.printed["rows"]):
        frame = ran.results.rows
        assert len(frame) == len(rows) > 3
        for (_, line), row in zip(frame.iterrows(), rows, strict=True):
            assert line["route"] == " → ".join(row["route"])
            low, high = row.get("ci95") or (None, None)
            assert (plain(line["ci95_low"]), plain(line["ci95_high"])) == (low, high)
            for key, value in row.items():
                if key in frame.columns and not isinstance(value, list):
                    assert plain(line[key]) == value, key
    assert set(rows[0]) - set(frame.columns) - {"ci95"} == {key for key in rows[0] if "case_" in key}
    assert frame["dice"].dtype == "float64" and frame["fold"].dtype == "Int64"
    assert frame[frame["selected"]]["target"].tolist().count("B") >= 1
    assert ran.results.folds.equals(frame)  # this study does not rotate its test


def test_scores_have_a_line_for_each_with_its_unit(ran: Ran) -> None:
    frame, rows = ran.results.scores, ran.printed["rows"]
    for row in rows:
        own = (frame["label"] == row["label"]) & (frame["target"] == row["target"]) & (frame["fold"] == row["fold"])
        test, validation = (
            frame[own & (frame["split"] == split)].set_index("score") for split in ("test", "validation")
        )
        assert validation["value"].to_dict() == {
            key: row[f"validation_{key}"] for key in ("dice", "iou", "dice_volume")
        }
        assert test.loc["dice_volume", "value"] == row["dice_volume"] and test.loc["dice_volume", "unit"] == "%"
        assert test.loc["volume_error_ml", "value"] == row["volume_error_ml"]
        assert test.loc["volume_error_ml", ["unit", "patients"]].tolist() == ["ml", row["volume_patients"]]
        assert ("hd95_mm" in test.index) == (row["hd95_mm"] is not None)
        assert "dice_pz" not in test.index


def test_patients_and_curves_are_those_of_results_json(ran: Ran) -> None:
    frame = ran.results.patients
    found = {
        (line.route, line.target, line.fold, line.split, line.case): (line.dice, line.dice_volume, line.slices)
        for line in frame.itertuples()
    }
    expected = {}
    for row in ran.printed["rows"]:
        for split, before in (("test", ""), ("validation", "validation_")):
            volumes, slices = row[f"{before}case_dice_volume"], row[f"{before}case_slices"]
            for case, dice in row[f"{before}case_dice"].items():
                key = (" → ".join(row["route"]), row["target"], row["fold"], split, case)
                expected[key] = (dice, volumes[case], slices[case])
    assert found == expected and len(frame) == len(expected) > 10
    curves = ran.results.curves
    epochs = [(stage, epoch) for stage in ran.printed["stages"] for epoch in stage["epochs"]]
    assert len(curves) == len(epochs) > 4
    for line, (stage, epoch) in zip(curves.itertuples(), epochs, strict=True):
        assert (line.stage, line.site, line.fold, line.label) == tuple(
            stage[key] for key in ("id", "site", "fold", "label")
        )
        assert (line.epoch, line.lr, line.loss, line.dice) == tuple(
            epoch[key] for key in ("epoch", "lr", "loss", "dice")
        )
        assert line.kept == (epoch["epoch"] == stage["kept_epoch"])


def test_a_function_is_called_with_every_event(ran: Ran) -> None:
    assert {"A", "B"} <= {event.site for event in ran.events}
    assert any(event.kind == "done" and event.stage == "fine-tune" for event in ran.events)


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once_and_says_nothing_where_progress_is_false(ran: Ran) -> None:
    """Python would import the script again in every site's process."""
    code = (
        "print('begun')\nimport relay\n"
        "found = relay.simulate('study.toml', {'A': 'A/site.toml', 'B': 'B/site.toml'}, 'by-script', progress=False)\n"
        "print(found.content.rows[0].dice)\n"
    )
    done = script(code, ran.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begun", str(ran.printed["rows"][0]["dice"])]


def test_importing_brings_neither_torch_nor_pandas(tmp_path: Path) -> None:
    code = "import relay\nrelay.Study.load('demo')\nprint({'torch', 'pandas', 'flwr', 'monai'} & set(sys.modules))"
    done = script(code, tmp_path)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_verdict_is_the_sentence_of_the_page(ran: Ran) -> None:
    page = ran.results.report()
    assert page == ran.folder / "results" / "report.html"
    text = html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))
    sentence = ran.results.verdict("A")
    assert "A" in sentence and sentence in text
    assert ran.results.verdict("B") in text and ran.results.verdict("B") != sentence
    with pytest.raises(relay.RelayError, match="no target"):
        ran.results.verdict("Z")


def test_a_notebook_shows_the_comparison(ran: Ran) -> None:
    shown = ran.results._repr_html_()
    for row in ran.printed["rows"]:
        if row["selected"]:
            assert f">{row['dice_volume']:.1f} / {row['dice']:.1f} (" in shown
    lines = re.findall(r"<tr>(.*?)</tr>", shown.partition("</table>")[0])
    labels = [re.sub(r"<[^>]+>", "", re.match(r"<th.*?</th>", line)[0]) for line in lines]  # type: ignore[index]
    assert "B →" in labels and "Target alone" in labels
    assert "→ A</th>" in shown and "→ B</th>" in shown


def test_without_pandas_one_sentence_says_what_to_install(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for name in ("rows", "scores", "folds", "patients", "curves"):
        with pytest.raises(relay.RelayError, match=r"pip install 'prostate-relay\[python\]'"):
            getattr(ran.results, name)
    assert ran.results.verdict("A") and ran.results._repr_html_()


def test_a_mask_is_the_commands_bit_for_bit(ran: Ran) -> None:
    out = ran.folder / "mask.nii.gz"
    with contextlib.redirect_stdout(io.StringIO()):
        assert relay_here("predict", ran.weights, ran.image, "-o", out, "--device", "cpu") == 0
    wanted = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
    assert 0 < wanted.sum() < wanted.size
    model = relay.Model.load(ran.weights, device="cpu")
    image = sitk.ReadImage(str(ran.image))
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    for _ in range(2):  # the network is the same after it has drawn
        mask = model.predict(image)
        assert isinstance(mask, sitk.Image) and mask.GetPixelID() == sitk.sitkUInt8
        assert np.array_equal(sitk.GetArrayFromImage(mask), wanted)
        assert mask.GetSpacing() == image.GetSpacing() and mask.GetDirection() == image.GetDirection()
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == before
    x, y, z = image.GetSpacing()
    drawn = model.predict(sitk.GetArrayFromImage(image), (z, y, x))
    assert drawn.dtype == np.uint8 and np.array_equal(drawn, wanted)
    assert model.card.site == "A" and model.card.study == "mine"


def test_an_image_that_cannot_be_used_is_refused_in_a_sentence(ran: Ran) -> None:
    model = relay.Model.load(ran.weights, device="cpu")
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(ran.image)))
    flat = sitk.GetImageFromArray(array[0])
    for given, words in (
        ((array, None), "needs its spacing"),
        ((array, (3.0, 1.0)), "needs its spacing"),
        ((array, (3.0, 0.0, 1.0)), "needs its spacing"),
        ((array[0], (3.0, 1.0, 1.0)), "2 axes"),
        ((array > 1, (3.0, 1.0, 1.0)), "type bool"),
        ((np.zeros_like(array), (3.0, 1.0, 1.0)), "same value"),
        ((array, (1.0, 1.0, 3.0)), "not axial"),
        ((flat,), "no plain volume"),
        ((sitk.GetImageFromArray(array),), "states no spacing"),
    ):
        with pytest.raises(relay.RelayError, match=words):
            model.predict(*given)
    assert model.predict(array[:4], (1.0, 1.0, 1.0)).shape == array[:4].shape  # of 1 mm, as the caller says


def test_errors_are_the_commands_sentences(ran: Ran, tmp_path: Path) -> None:
    with pytest.raises(relay.RelayError, match=r"holds no results\.json"):
        relay.load(tmp_path)
    with pytest.raises(relay.RelayError, match="no study file"):
        relay.Study.load(tmp_path / "none.toml")
    with pytest.raises(relay.RelayError, match=r'the key "nmae" is unknown; did you mean "name"'):
        relay.Study(nmae="mine", sites=["A", "B"])
    with pytest.raises(relay.RelayError, match="no file is given for B"):
        relay.simulate("demo", {"A": ran.sites["A"]}, tmp_path / "out")
    with pytest.raises(relay.RelayError, match="model card"):
        relay.Model.load(tmp_path / "model.safetensors")
    with pytest.raises(relay.RelayError, match="No weights file"):
        relay.Model.load()


def test_a_study_of_keywords_is_that_of_the_file(ran: Ran) -> None:
    import tomllib

    path = ran.folder / "study.toml"
    made, read = relay.Study(**tomllib.loads(STUDY)), relay.Study.load(path)
    assert made.settings == read.settings == load_study(path)
    assert made.digest == read.digest == load_study(path).digest
    assert made.sites == ("A", "B") and tomllib.loads(made.toml())["name"] == made.name == "mine"
    assert relay.Study.load("demo").name == "demo"


def blocks() -> Iterator[str]:
    yield from re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_block_of_the_page_runs(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ran.folder)
    found = list(blocks())
    assert len(found) == PAGE.read_text(encoding="utf-8").count("```python") >= 4
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for block in found:
            exec(compile(block, str(PAGE), "exec"), names)


def test_the_page_names_every_column(ran: Ran) -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = set(ran.results.rows.columns)
    for name in ("scores", "patients", "curves"):
        for column in set(getattr(ran.results, name).columns) - rows:
            assert f"`{column}`" in page, column


def test_csv_files_hold_the_frames(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert relay_here("export", ran.folder / "results", "--csv", ran.folder / "csv") == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == [
        f"{name}.csv" for name in ("rows", "scores", "folds", "patients", "curves")
    ]
    for path in paths:
        frame = getattr(ran.results, path.stem)
        read = pd.read_csv(path, float_precision="round_trip", keep_default_na=True)
        assert list(read.columns) == list(frame.columns) and len(read) == len(frame) > 0
        for column in frame.columns:
            for one, other in zip(read[column], frame[column], strict=True):
                assert (pd.isna(one) or one == "") == (pd.isna(other) or other == "")
                assert pd.isna(one) or str(one) == str(other) or one == other or float(one) == float(other), column
    (ran.folder / "a-file").write_text("", encoding="utf-8")
    with pytest.raises(relay.RelayError, match="cannot be written"):
        relay_here("export", ran.folder / "results", "--csv", ran.folder / "a-file")
