"""A site's file: what it says is what the site does, and every mistake in it is told in one sentence."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.data.layouts import Statement
from client.site_config import SiteConfig, load_site
from common.errors import RelayError
from deploy.site.template import site_template

PLAIN = 'name = "A"\nlayout = "nifti-pairs"\nimages = "data"\n'


def written(folder: Path, text: str, name: str = "site.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_taken_from_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        tmp_path / "hospital",
        'name = "B"\nlayout = "nci-isbi"\nimages = "a/images"\nmasks = "../labels"\nfolder = "/srv/relay-b"\n',
    )
    monkeypatch.chdir(tmp_path)
    site = load_site(Path("hospital/site.toml"))
    assert site.images == tmp_path / "hospital" / "a" / "images"
    assert site.masks == tmp_path / "labels"
    assert site.folder == Path("/srv/relay-b")


def test_the_private_folder_lies_beside_the_file_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert load_site(written(tmp_path, PLAIN)).folder == tmp_path / ".relay-A"


@pytest.mark.parametrize("layout", ["", 'layout = "auto"\n'])
@pytest.mark.parametrize("masks", ["", 'masks = "labels"\n'])
def test_a_layout_that_is_not_named_is_recognised_with_or_without_a_folder_of_labels(
    tmp_path: Path, layout: str, masks: str
) -> None:
    site = load_site(written(tmp_path, f'name = "A"\nimages = "data"\n{layout}{masks}'))
    assert site.layout == "auto"
    assert site.masks == (tmp_path / "labels" if masks else None)


@pytest.mark.parametrize("layout", ["i2cvb", "nifti-pairs", "promise12", "decathlon", "prostate158"])
def test_every_layout_with_masks_beside_the_images_needs_the_images_alone(tmp_path: Path, layout: str) -> None:
    assert load_site(written(tmp_path, PLAIN.replace("nifti-pairs", layout))).layout == layout


def test_what_leaves_is_least_by_default(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, PLAIN))
    assert not site.patient_scores
    assert site.bad_patients == "leave-out"


@pytest.mark.parametrize("before", [None, 0o755, 0o777])
def test_the_private_folder_is_closed_to_others(tmp_path: Path, before: int | None) -> None:
    site = load_site(written(tmp_path, PLAIN))
    if before is not None:
        site.folder.mkdir()
        site.folder.chmod(before)
    assert site.private() == site.folder
    assert stat.S_IMODE(site.folder.stat().st_mode) == 0o700


def test_a_file_in_the_way_of_the_private_folder_is_told(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, PLAIN))
    site.folder.write_text("", encoding="utf-8")
    with pytest.raises(RelayError, match="private folder .*relay-A"):
        site.private()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PLAIN + "core = 2\n", r'"core" is unknown; did you mean "cores"'),
        (PLAIN + 'cores = "2"\n', '"cores"'),
        (PLAIN + "cores = -1\n", '"cores"'),
        (PLAIN + "cores = true\n", '"cores"'),
        (PLAIN + "patient_scores = 1\n", '"patient_scores"'),
        (PLAIN + "minimum_patients = 0\n", '"minimum_patients"'),
        (PLAIN + 'device = "gpu"\n', "'cuda'"),
        (PLAIN + 'bad_patients = "ignore"\n', "leave-out"),
        (PLAIN + 'series = "T2("\n', "regular expression"),
        (PLAIN + 'masks = "labels"\n', "beside the images"),
        (PLAIN + 'members = ["a.toml"]\n', "pooled"),
        (PLAIN + 'folder = "."\n', "folder of its own"),
        (PLAIN + 'folder = "data"\n', "folder of its own"),
        (PLAIN.replace("nifti-pairs", "nifti"), "nifti-pairs"),
        (PLAIN.replace("nifti-pairs", "nci-isbi"), '"masks" is missing'),
        (PLAIN.replace('"A"', '"1st site"'), '"name"'),
        (PLAIN.replace('"A"', "1"), '"name"'),
        (PLAIN.replace('"A"', '"pooled"'), "members"),
        ('layout = "i2cvb"\nimages = "data"\n', '"name" is missing'),
        (PLAIN.replace("nifti-pairs", "Auto"), "auto, decathlon"),
        (PLAIN.replace("nifti-pairs", ""), "auto, decathlon"),
        ('name = "A"\n', '"images" is missing'),
        ('name = "A"\nlayout = "auto"\nmasks = "labels"\n', '"images" is missing'),
        ('name = "A"\nlayout = "promise12"\nimages = "data"\nmasks = "labels"\n', "beside the images"),
        ('name = "A"\nlayout = "i2cvb"\n', '"images" is missing'),
        ("name = A\n", "TOML"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_the_file(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(RelayError, match=told) as caught:
        load_site(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RelayError, match="no site file .*nowhere.toml"):
        load_site(tmp_path / "nowhere.toml")


def test_the_pooled_site_unites_its_members(tmp_path: Path) -> None:
    for name in "AB":
        written(tmp_path / name, PLAIN.replace('"A"', f'"{name}"'))
    site = load_site(written(tmp_path, 'name = "pooled"\nmembers = ["A/site.toml", "B/site.toml"]\n'))
    assert site.pooled
    members = site.member_sites()
    assert [member.name for member in members] == ["A", "B"]
    assert [member.images for member in members] == [tmp_path / name / "data" for name in "AB"]
    assert load_site(tmp_path / "A" / "site.toml").member_sites() == ()


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ('["a.toml", "nowhere.toml"]', "nowhere.toml"),
        ('["a.toml", "a.toml"]', 'named "A"'),
        ('["pooled.toml"]', "pooled site itself"),
        ("[]", "members"),
        ('"a.toml"', "members"),
    ],
)
def test_wrong_members_are_told_before_anything_runs(tmp_path: Path, members: str, told: str) -> None:
    written(tmp_path, PLAIN, "a.toml")
    written(tmp_path, 'name = "pooled"\nmembers = ["a.toml"]\n', "pooled.toml")
    path = written(tmp_path, f'name = "pooled"\nmembers = {members}\n', "site.toml")
    with pytest.raises(RelayError, match=told):
        load_site(path)


def test_a_pooled_site_that_lists_itself_is_told(tmp_path: Path) -> None:
    with pytest.raises(RelayError, match="pooled site itself"):
        load_site(written(tmp_path, 'name = "pooled"\nmembers = ["site.toml"]\n'))


def test_a_site_is_a_value(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    assert load_site(path) == load_site(path)
    assert isinstance(load_site(path), SiteConfig)


def test_scores_of_single_patients_and_a_least_number_of_them_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(RelayError, match="patient_scores"):
        load_site(written(tmp_path, PLAIN + "patient_scores = true\nminimum_patients = 5\n"))


@pytest.mark.parametrize("key", ["images", "folder"])
def test_a_path_that_no_system_takes_is_told(tmp_path: Path, key: str) -> None:
    values = {"images": "data", "folder": "private"} | {key: "a\\u0000b"}
    lines = "".join(f'{name} = "{value}"\n' for name, value in values.items())
    with pytest.raises(RelayError, match="a path holds the character of number 0"):
        load_site(written(tmp_path, f'name = "A"\n{lines}'))


def test_a_path_whose_backslashes_became_other_characters_is_told(tmp_path: Path) -> None:
    with pytest.raises(RelayError, match="character of number 9.*single quotes"):
        load_site(written(tmp_path, 'name = "A"\nimages = "C:\\table"\n'))
    assert load_site(written(tmp_path, "name = 'A'\nimages = 'C:\\table'\n")).images.name == r"C:\table"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("labels = [0, 1]", "background"),
        ("labels = [1.5]", "labels"),
        ("labels = [1]\nmask_threshold = 0.5", "exclude"),
        ("spacing_mm = [3.0, 0.5]", "three distances"),
        ("spacing_mm = [0.0, 0.5, 0.5]", "three distances"),
        ('orientation = "LP"', "three letters"),
        ('orientation = "LRS"', "three letters"),
        ('orientation = "lps"', "three letters"),
        ('patient = "("', "regular expression"),
        ('patient = "abc"', "brackets"),
    ],
)
def test_a_wrong_statement_is_told(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(RelayError, match=told):
        load_site(written(tmp_path, f'name = "A"\nimages = "data"\n{line}\n'))


def test_a_new_site_file_explains_every_key_and_is_read_as_it_stands(tmp_path: Path) -> None:
    text = site_template("A")
    plain = load_site(written(tmp_path, text))
    for key in SiteConfig.model_fields:
        lines = (f"\n{key} = ", f"\n# {key} = ", f"\n# [{key}]\n")
        assert key == "members" or any(line in text for line in lines)
    assert plain.statement() == Statement() and plain.patient == ""
    uncommented = text.replace("# patient =", "patient =").replace("# labels =", "labels =")
    uncommented = uncommented.replace("# spacing_mm =", "spacing_mm =").replace("# orientation =", "orientation =")
    stated = load_site(written(tmp_path, uncommented))
    assert stated.statement() == Statement((3.0, 0.5, 0.5), "LPS", (1, 2)) and stated.patient == r"^(\d+)_"
