"""A study file: read strictly, written out whole, named by its content."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from common.config.methods import FederatedConfig
from common.config.study import Study, load_study, study_toml
from common.config.toml import from_table
from common.errors import RelayError

SITES = 'sites = ["A", "B", "C"]\n'
REPO = Path(__file__).parents[3]


def complaint(tmp_path: Path, text: str) -> str:
    """What is said of a study file, without what every such sentence begins with."""
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RelayError) as error:
        load_study(path)
    sentence = str(error.value)
    assert str(path) in sentence
    assert "\n" not in sentence and sentence[-1] in ".?"
    return sentence.replace(f"In the study file {path}, ", "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", 'the key "sites" is missing; add it.'),
        (SITES + "sedd = 1", 'the key "sedd" is unknown; did you mean "seed"?'),
        (SITES + "[training]\nbach = 1", 'the key "training.bach" is unknown; did you mean "batch"?'),
        (
            SITES + "[preprocessing.n4]\nzzz = 1",
            'the key "preprocessing.n4.zzz" is unknown; known keys here: convergence, enabled, iterations, shrink.',
        ),
        (
            SITES + '[[methods.federated]]\nstrateg = "fedavg"',
            'the key "methods.federated.0.strateg" is unknown; did you mean "strategy"?',
        ),
        (SITES + 'seed = "3"', '"seed" is "3", but input should be a valid integer.'),
        (SITES + "seed = 1.0", '"seed" is 1.0, but input should be a valid integer.'),
        (SITES + "seed = true", '"seed" is true, but input should be a valid integer.'),
        (SITES + "seed = -1", '"seed" is -1, but input should be greater than or equal to 0.'),
        (SITES + "synthetic = 1", '"synthetic" is 1, but input should be a valid boolean.'),
        (SITES + 'name = "a\\u001b[2Jb"', '"name": this holds a line end or another character that is not shown'),
        (SITES + 'about = "a\\nApproved."', '"about": this holds a line end or another character that is not shown'),
        (SITES + "name = 1", '"name" is 1, but input should be a valid string.'),
        (SITES + "training = 3", '"training" is 3, but input should be an object.'),
        (
            SITES + "[training]\nlearning_rate = nan",
            '"training.learning_rate" is NaN, but input should be a finite number.',
        ),
        (
            SITES + "[training]\nlearning_rate = -inf",
            '"training.learning_rate" is -Infinity, but input should be a finite number.',
        ),
        (SITES + "[training]\nepochs = 0", '"training.epochs" is 0, but input should be greater than or equal to 1.'),
        (SITES + "[training]\nbatch = 1", '"training.batch" is 1, but input should be greater than or equal to 2.'),
        (SITES + "[preprocessing]\npixels = 33", '"preprocessing.pixels" is 33, but input should be a multiple of 32.'),
        (SITES + "[split]\nfolds = 1", '"split.folds" is 1, but input should be greater than or equal to 2.'),
        (SITES + "[split]\nuse_folds = 9", '"split": use_folds is 9, but there are only 5 folds.'),
        (SITES + '[methods.sequential]\nroutes = "some"', '"methods.sequential.routes" is "some", but input'),
        (
            f'sites = {[f"S{k}" for k in range(40)]}\n[methods.sequential]\nroutes = "halving"',
            "halving would begin with 60840 routes, and 40000 are the most; set a smaller max_hops, or routes to",
        ),
        (
            SITES + '[methods.sequential]\nroutes = [["A", "B"], ["B", 1]]',
            '"methods.sequential.routes.1.1" is 1, but input should be a valid string.',
        ),
        (
            SITES + '[methods.sequential]\nroutes = [["B", "X", "A"]]',
            "the route B → X → A names site X, which is not among the study's sites (A, B, C).",
        ),
        (SITES + '[methods.sequential]\nroutes = [["B"]]', "a route needs a source and a target, such as"),
        (
            SITES + '[methods.sequential]\nroutes = [["B", "B"]]',
            "the route B → B hands a model to the site that has it.",
        ),
        (
            SITES + "[[methods.federated]]\nlocal_epochs = [1, 1]",
            '"methods.federated.0": local_epochs is an empty list, or a value stands twice in it.',
        ),
        (
            SITES + '[[methods.federated]]\nstrategy = "fedprox"\nproximal_mu = []',
            '"methods.federated.0": proximal_mu is an empty list, or a value stands twice in it.',
        ),
        (
            SITES + '[[methods.federated]]\nlocal_epochs = "one"',
            '"methods.federated.0.local_epochs.0" is "one", but input should be a valid integer.',
        ),
        (SITES + '[models]\nencoders = ["resnet18", "resnet18"]', '"models": one of the encoders stands twice.'),
        (SITES + '[models]\nencoder_weights = ["none", "none"]', '"models": one of the encoder weights stands twice.'),
        (
            SITES + "[[methods.federated]]\nrounds = 100000000",
            '"methods.federated.0.rounds" is 100000000, but input should be less than or equal to 1000.',
        ),
        (
            SITES + "[training]\nepochs = 100000000",
            '"training.epochs" is 100000000, but input should be less than or equal to 10000.',
        ),
        (SITES + "repeats = 0", '"repeats" is 0, but input should be greater than or equal to 1.'),
        (
            'sites = ["A", "X"]\npaper = "table-3"',
            "the paper's sites are named A, B and C; name this study's so, or leave out paper.",
        ),
        (SITES + "[[methods.federated]]\n[[methods.federated]]", '"methods.federated": each strategy may stand once.'),
        ("sites = []", '"sites" is [], but tuple should have at least 1 item'),
        (
            'sites = ["A"]',
            'a study of A alone has nobody to share with; add sites, or set "federated" to [], "pooled" to false',
        ),
        (
            SITES + "[methods]\npooled = false\npooled_subsets = true",
            "pooled_subsets trains on unions of sites beside all data; set pooled to true, or pooled_subsets to false.",
        ),
        (
            'sites = ["A", "B"]\n[methods]\npooled_subsets = true',
            "pooled_subsets needs three sites: with two, the only union is all data; set it to false.",
        ),
        ('sites = "A"', '"sites" is "A", but input should be a valid array.'),
        ('sites = ["A", "B", "A"]', '"sites": a site stands twice.'),
        ('sites = ["A", "pooled"]', '"sites": "pooled" is the name of all data together; give the site another name.'),
        ('sites = ["A", "../B"]', '"sites.1" is "../B", but string should match pattern'),
        ('sites = ["A", "B\\n"]', '"sites.1" is "B\\n", but string should match pattern'),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_the_key(tmp_path: Path, text: str, sentence: str) -> None:
    assert complaint(tmp_path, text).startswith(sentence)


@pytest.mark.parametrize("text", ["sites = [", "a = 1\na = 2", "seed = 1" + "0" * 5000, "x = " + "[" * 5000, "\ufeff="])
def test_a_file_that_is_no_toml_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    assert "is not valid TOML" in complaint(tmp_path, text)


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(RelayError, match=str(path)):
            load_study(path)
    (tmp_path / "latin.toml").write_bytes(b'name = "Universit\xe4t"')
    with pytest.raises(RelayError, match=r"latin\.toml is not written in UTF-8"):
        load_study(tmp_path / "latin.toml")


def parts_of(kind: type[BaseModel]) -> list[type[BaseModel]]:
    found = [kind]
    for field in kind.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += parts_of(field.annotation)
    return found


def test_no_part_of_a_study_forgives() -> None:
    for part in parts_of(Study):
        config = part.model_config
        assert config.get("strict") and config.get("frozen") and config.get("extra") == "forbid", part
        assert config.get("allow_inf_nan") is False, part


def test_a_study_cannot_be_changed() -> None:
    study = Study(sites=("A", "B"))
    with pytest.raises(ValidationError):
        study.training.epochs = 3  # type: ignore[misc]


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
LINE = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=40)
"""Of what a terminal shows."""
TABLES = st.fixed_dictionaries(
    {"sites": st.lists(st.from_regex(r"\A[A-Z][a-z0-9_-]{0,5}\Z"), min_size=2, max_size=5, unique=True)},
    optional={
        "name": LINE.filter(bool),
        "about": LINE,
        "seed": st.integers(0, 2**80),
        "synthetic": st.booleans(),
        "model": st.fixed_dictionaries({}, optional={"encoder_weights": LINE}),
        "split": st.fixed_dictionaries({}, optional={"test_fraction": st.floats(0.01, 0.99), "seed": st.integers(0)}),
        "training": st.fixed_dictionaries(
            {},
            optional={
                "learning_rate": st.floats(1e-300, 1e300),
                "leg_minutes": st.floats(0, 1e300),
                "epochs": st.integers(1, 10_000),
                "loss": st.sampled_from(["dice+bce", "dice", "bce"]),
            },
        ),
        "preprocessing": st.fixed_dictionaries(
            {}, optional={"n4": st.fixed_dictionaries({"iterations": st.lists(st.integers(1), min_size=1, max_size=4)})}
        ),
    },
)


@given(TABLES)
def test_a_study_is_read_back_from_the_file_that_it_is_written_to(table: dict[str, Any]) -> None:
    study = from_table(tomllib.loads(tomli_w.dumps(table)), Study, "a test")
    again = from_table(tomllib.loads(study_toml(study)), Study, "a test")
    assert again == study
    assert again.digest == study.digest
    assert len(study.digest) == 64


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | TEXT, st.lists, max_leaves=4))
def test_whatever_stands_in_a_key_gives_a_study_or_a_sentence(value: Any) -> None:
    keys = ("name", "seed", "sites", "model", "split", "synthetic")
    for table in (
        *({"sites": ["A", "B"], key: value} for key in keys),
        {"sites": ["A", "B"], "training": {"learning_rate": value, "batch": value}},
        {"sites": ["A", "B"], "methods": {"federated": value, "sequential": {"routes": value}}},
        {"sites": ["A", "B"], "preprocessing": {"n4": {"iterations": value}}},
    ):
        with suppress(RelayError):  # and no other
            assert isinstance(from_table(table, Study, "a test"), Study)


def test_the_digest_is_of_the_content_whatever_the_files_layout(tmp_path: Path) -> None:
    texts = [
        'sites = ["A", "B"]\nseed = 1\n[training]\nepochs = 3\nlearning_rate = 1.0\n',
        'seed=1 # a remark\nsites = [\n "A",\n "B"]\ntraining.epochs = 3\ntraining.learning_rate = 1\n',
        'sites = ["A", "B"]\n[training]\nlearning_rate = 1e0\nepochs = 3\n[model]\narchitecture = "UnetPlusPlus"\n',
    ]
    digests = set()
    for text in texts:
        (tmp_path / "study.toml").write_text(text)
        digests.add(load_study(tmp_path / "study.toml").digest)
    assert len(digests) == 1


def test_every_key_that_is_changed_gives_another_digest() -> None:
    study = Study(sites=("A", "B"))
    seen = {study.digest}
    others: list[dict[str, Any]] = [
        {"name": "other"},
        {"about": "."},
        {"seed": 2},
        {"sites": ("B", "A")},
        {"synthetic": True},
        {"model": {"architecture": "Unet"}},
        {"preprocessing": {"n4": {"shrink": 5}}},
        {"split": {"source": "same-fold"}},
        {"training": {"leg_minutes": 3.0}},
        {"training": {"batch_norm": "running"}},
        {"methods": {"unadapted": True}},
        {"absence": {"then": "skip"}},
        {"collapse": 0.2},
        {"equivalence_margin": 0.5},
        {"largest_step": 3.0},
    ]
    for change in others:
        digest = Study.model_validate({"sites": ("A", "B"), **change}).digest
        assert digest not in seen
        seen.add(digest)


def test_the_digest_is_the_same_in_every_version() -> None:
    """Sites have approved studies by this name: whoever changes it asks every site to approve anew."""
    study = Study(sites=("A", "B"), model={"encoder": "resnet18"}, seed=7)  # type: ignore[arg-type]
    assert study.digest == "385dce2b71314894074bb9b3de5bb77a6c9bdfc00c7e1280f92b69af3738eee4"
    assert study.model_copy(update={"licence": "CC BY 4.0"}).digest != study.digest


@pytest.mark.parametrize("path", sorted((REPO / "deploy" / "studies").glob("*.toml")), ids=lambda path: path.name)
def test_the_studies_that_come_along_can_be_read(path: Path) -> None:
    study = load_study(path)
    assert from_table(tomllib.loads(study_toml(study)), Study, "a test") == study


def test_an_average_has_both_kinds_of_statistics_unless_a_study_says_otherwise() -> None:
    def batch_norm(**part: object) -> tuple[str, ...]:
        study = from_table({"sites": ["A", "B"], "methods": {"federated": [part]}}, Study, "a test")
        again = from_table(tomllib.loads(study_toml(study)), Study, "a test")
        assert again == study
        return study.methods.federated[0].batch_norm

    assert batch_norm() == ("average", "re-estimate")
    assert batch_norm(batch_norm="average") == ("average",)
    assert batch_norm(batch_norm=["re-estimate"]) == ("re-estimate",)
    for wrong in (["average", "average"], []):
        with pytest.raises(RelayError, match="batch_norm is an empty list, or a value stands twice in it"):
            batch_norm(batch_norm=wrong)
    with pytest.raises(RelayError, match="re-estimate"):
        batch_norm(batch_norm="none")


def test_tensors_stay_where_every_round_begins_with_an_average() -> None:
    def part_of(**part: object) -> FederatedConfig:
        return from_table({"sites": ["A", "B"], "methods": {"federated": [part]}}, Study, "a test").methods.federated[0]

    assert part_of(batch_norm="local").batch_norm == ("local",)
    assert part_of().ditto_lambda == () and part_of(ditto_lambda=0.5).ditto_lambda == (0.5,)
    for strategy in ("feddc", "cyclicfl"):
        for setting in ({"batch_norm": ["average", "local"]}, {"ditto_lambda": [0.1]}):
            with pytest.raises(RelayError, match=f"needs rounds that all begin with an average, which {strategy} has"):
                part_of(strategy=strategy, **setting)
    for wrong in (0.0, [0.1, 0.1]):
        with pytest.raises(RelayError, match="ditto_lambda"):
            part_of(ditto_lambda=wrong)


def test_two_sites_leave_nothing_of_a_trimmed_mean() -> None:
    table = {"sites": ["A", "B"], "methods": {"federated": [{"strategy": "fedtrimmedavg"}]}}
    with pytest.raises(RelayError, match="three"):
        from_table(table, Study, "a test")


def test_repeats_and_networks_are_plain_studies_of_their_own() -> None:
    study = Study.model_validate(
        {
            "sites": ("A", "B"),
            "seed": 5,
            "repeats": 2,
            "split": {"seed": 7},
            "models": {
                "encoders": ("resnet18", "resnet34"),
                "architectures": ("Unet", "DeepLabV3"),
                "encoder_weights": ("imagenet", "none"),
            },
        }
    )
    variants = study.variants
    assert [
        (one.seed, one.split.seed, one.model.encoder, one.model.architecture, one.model.encoder_weights)
        for one in variants
    ] == [
        (5 + repeat, 7 + repeat, encoder, architecture, start)
        for repeat in (0, 1)
        for encoder in ("resnet18", "resnet34")
        for architecture in ("Unet", "DeepLabV3")
        for start in ("imagenet", "none")
    ]
    assert len({one.digest for one in variants}) == 16
    for one in variants:
        assert one.variants == (one,), "a variant is a plain study"
        plain = Study.model_validate(
            {
                "sites": ("A", "B"),
                "seed": one.seed,
                "split": {"seed": one.split.seed},
                "model": {
                    "encoder": one.model.encoder,
                    "architecture": one.model.architecture,
                    "encoder_weights": one.model.encoder_weights,
                },
            }
        )
        assert plain.digest == one.digest, "and may as well be run by itself"


def test_a_study_that_compares_no_starts_has_the_digest_of_before() -> None:
    assert "encoder_weights" not in Study.model_validate({"sites": ("A", "B")}).model_dump(mode="json")["models"]
    given = Study.model_validate({"sites": ("A", "B"), "models": {"encoder_weights": ("imagenet", "none")}})
    assert from_table(tomllib.loads(study_toml(given)), Study, "a test") == given
    assert [one.model.encoder_weights for one in given.variants] == ["imagenet", "none"]


def test_splits_and_training_seeds_are_crossed() -> None:
    table = {"sites": ["A", "B"], "seed": 5, "repeats": 2, "split": {"seed": 7}, "training": {"seeds": [4, 1, 9]}}
    study = from_table(table, Study, "a test")
    variants = study.variants
    assert [(one.split.seed, one.seed) for one in variants] == [(7, 4), (7, 1), (7, 9), (8, 4), (8, 1), (8, 9)]
    for one in variants:
        assert one.variants == (one,), "a variant is a plain study"
        plain = {"sites": ["A", "B"], "seed": one.seed, "split": {"seed": one.split.seed}}
        assert from_table(plain, Study, "a test").digest == one.digest, "and may as well be run by itself"
    (single,) = from_table({**table, "repeats": 1, "training": {"seeds": [3]}}, Study, "a test").variants
    assert (single.split.seed, single.seed) == (7, 3)
    assert from_table(tomllib.loads(study_toml(study)), Study, "a test") == study
    with pytest.raises(RelayError, match="a seed stands twice"):
        from_table({**table, "training": {"seeds": [3, 3]}}, Study, "a test")


def test_shares_of_the_targets_patients_are_listed_once() -> None:
    def methods(**part: object) -> Any:
        return from_table({"sites": ["A", "B"], "methods": part}, Study, "a test").methods

    assert methods(train_fraction=[1, 0.5, 0.25]).parts == (0.25, 0.5)
    assert methods(train_fraction=0.5).parts == (0.5,)
    assert methods().parts == ()
    assert "train_fraction" not in methods().model_dump(mode="json"), "its digest is that of before"
    for wrong in ([0.5, 0.5], [0.0], [1.5]):
        with pytest.raises(RelayError, match="train_fraction"):
            methods(train_fraction=wrong)


def test_a_rotating_test_is_a_plain_study_a_rotation() -> None:
    table = {"sites": ["A", "B"], "split": {"test": "rotate", "test_fraction": 0.25}, "training": {"seeds": [3, 4]}}
    study = from_table(table, Study, "a test")
    assert from_table(tomllib.loads(study_toml(study)), Study, "a test") == study
    assert [(one.seed, one.split.rotation) for one in study.variants] == [(s, r) for s in (3, 4) for r in range(4)]
    assert len({one.digest for one in study.variants}) == 8
    for one in study.variants:
        assert one.variants == (one,), "a variant is a plain study"
        assert from_table(tomllib.loads(study_toml(one)), Study, "a test") == one
    rotations = {0.2: 5, 0.1: 10, 0.15: 7, 0.34: 3, 0.5: 2, 0.9: 2}
    for fraction, number in rotations.items():
        table["split"] = {"test": "rotate", "test_fraction": fraction}
        assert from_table(table, Study, "a test").split.rotations == number
    plain = from_table({"sites": ["A", "B"]}, Study, "a test")
    assert plain.split.rotations == 1
    assert not {"test", "rotation"} & set(plain.model_dump(mode="json")["split"]), "its digest is that of before"


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"split": {"rotation": 0}}, 'only a study with test = "rotate" has rotations'),
        ({"split": {"rotation": 5, "test": "rotate"}}, "rotation is 5, but there are only 5, counted from 0"),
        ({"split": {"test": "rotate"}, "methods": {"scored_on": "validation"}}, "tests every patient"),
    ],
)
def test_a_rotation_without_a_test_is_refused(table: dict[str, Any], why: str) -> None:
    with pytest.raises(RelayError, match=why):
        from_table({"sites": ["A", "B"], **table}, Study, "a test")


def test_a_study_without_either_is_its_own_variant() -> None:
    study = Study.model_validate({"sites": ("A", "B")})
    assert study.variants == (study,)


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ({"local_epochs": 3}, ((3, 0.0),)),
        ({"local_epochs": (1, 5)}, ((1, 0.0), (5, 0.0))),
        ({"strategy": "fedprox"}, ((1, 0.1),)),
        (
            {"strategy": "fedprox", "local_epochs": (1, 5), "proximal_mu": (0.01, 1.0)},
            ((1, 0.01), (1, 1.0), (5, 0.01), (5, 1.0)),
        ),
        ({"strategy": "fedmedian", "proximal_mu": (0.01, 1.0)}, ((1, 0.0),)),
    ],
)
def test_what_is_tried_of_a_strategy(part: dict[str, Any], settings: tuple[tuple[int, float], ...]) -> None:
    study = Study.model_validate({"sites": ("A", "B"), "methods": {"federated": (part,)}})
    assert study.methods.federated[0].settings == settings


def test_the_papers_tables_stand_beside_studies_of_its_slices_alone() -> None:
    table = {"sites": ["A", "B", "C"], "paper": "table-3"}
    with pytest.raises(RelayError, match='set training.slices = "chosen"'):
        from_table(table, Study, "a test")
    assert from_table({**table, "training": {"slices": "chosen"}}, Study, "a test").paper == "table-3"


def test_a_hundred_sites_may_be_tried_greedily() -> None:
    sites = tuple(f"S{n}" for n in range(100))
    assert Study.model_validate({"sites": sites, "methods": {"sequential": {"routes": "greedy", "max_hops": 5}}})
