"""A stage's key: changed by all that determines its result, and by nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from common.config.model import ModelConfig
from common.config.study import Study
from common.plan.graph import BestElsewhere, Evaluate, FineTune, Schedule, Start
from common.plan.stage_key import ExecutionEnvironment, completed_digest, stage_key
from common.protocol.messages import STAGE_VERSION

WEIGHTS = "0" * 64
WORKPLACE = ExecutionEnvironment(fingerprint="f" * 64, torch="2.13.0", device="cpu", precision="float32")
TRAIN = FineTune("A", 1, Start(), Schedule(6, 0, 6, "best"))
SCORE = Evaluate("A", 1, "test", TRAIN)
LOCAL = dataclasses.replace(TRAIN, stays="batch-norm")
PERSONAL = dataclasses.replace(TRAIN, stays="everything", proximal_mu=0.1)
ESTIMATE = FineTune("A", 1, Start(), Schedule(0, 0, 0, "last"))


def study_of(**parts: Any) -> Study:
    return Study.model_validate({"sites": ("A", "B"), **parts})


def key(node: FineTune | Evaluate = TRAIN, *, study: Study | None = None, weights: str = WEIGHTS, **work: str) -> str:
    environment = dataclasses.replace(WORKPLACE, **work)
    return stage_key(node, study=study or study_of(), weights=weights, environment=environment)


def test_the_key_of_a_stage_is_what_it_was() -> None:
    """Ledgers and sites keep results by these.

    Whoever changes what a stage computes, or this hash, raises STAGE_VERSION and records the new values here:
    so no result of the old computation is ever taken for one of the new.
    """
    assert STAGE_VERSION == 8
    assert key() == "8e1cb1e4d694e816396f3c46bd538f7f7b0538224ee791f292ec5b4992be84f6"
    assert key(SCORE) == "ddeb7b33cfbafef5e10e041d291ea3780f446df2b3fd760636d21457d563c58c"
    without = FineTune("pooled", 1, Start(), Schedule(6, 0, 6, "best"), without=("B",))
    assert key(without) == "f743b592f67416eec320197319607cf39a9b553a0b371b93cbfdcef8023f70ff"
    assert key(ESTIMATE) == "6d5c07dedc1a6cb3d4733a59ee14f5936410fde744c4fcb0cf011d02a3e757fc"


CHANGES_ALL: list[dict[str, Any]] = [
    {"model": {"architecture": "Unet"}},
    {"model": {"encoder": "resnet18"}},
    {"model": {"decoder_attention": "scse"}},
    {"model": {"neighbours": 1}},
    {"model": {"architecture": "VNet", "dimensions": 3, "depth": 32, "slice_spacing_mm": 3.0}},
    {"model": {"target": "zones"}},
    {"preprocessing": {"pixels": 64}},
    {"preprocessing": {"minimum_mask_pixels": 1}},
    {"preprocessing": {"n4": {"shrink": 5}}},
    {"preprocessing": {"standardise": "volume"}},
    {"split": {"seed": 2}},
    {"split": {"test_fraction": 0.3}},
    {"split": {"folds": 4}},
    {"split": {"test": "rotate"}},
    {"split": {"rotation": 1, "test": "rotate"}},
    {"training": {"precision": "float32"}},
    {"training": {"threads": 2}},
    {"postprocessing": {"clean_up": False}},
    {"training": {"slices": "chosen"}},  # images are standardised with these slices' statistics
]
CHANGES_TRAINING: list[dict[str, Any]] = [
    {"seed": 2},
    {"training": {"batch": 8}},
    {"training": {"learning_rate": 1e-4}},
    {"training": {"final_learning_rate": 1e-5}},
    {"training": {"weight_decay": 1e-5}},
    {"training": {"loss": "dice"}},
    {"training": {"augmentation": "none"}},
    {"training": {"batch_norm": "running"}},
    {"training": {"recipe": "nnunet"}},
    {"training": {"empty_share": 1.0}},
]
CHANGES_NOTHING: list[dict[str, Any]] = [
    {"name": "other"},
    {"about": "other"},
    {"licence": "other"},
    {"sites": ("A", "B", "C")},
    {"synthetic": True},
    {"model": {"encoder_weights": "none"}},  # its content is in the weights' digest
    {"split": {"use_folds": 2}},
    {"split": {"source": "same-fold"}},
    {"training": {"epochs": 3}},  # the stage's own schedule says so
    {"training": {"keep": "last"}},
    {"training": {"leg_minutes": 0.0}},  # legs change nothing
    {"methods": {"pooled": False}},
    {"sites": ("A", "B", "C"), "methods": {"pooled_subsets": True}},
    {"repeats": 3},  # each is a plain study with seeds of its own
    {"training": {"seeds": (2, 3)}},  # so is each of these
    {"models": {"encoders": ("resnet18",)}},  # so is each network
    {"models": {"architectures": ("Unet",)}},
    {"models": {"encoder_weights": ("none",)}},
    {"paper": "table-3", "training": {"slices": "chosen"}},
    {"absence": {"wait_hours": 1.0}},  # what ran equal is equal
    {"absence": {"then": "skip"}},
    {"absence": {"methods": {"fedavg": {"then": "skip"}}}},
    {"collapse": 0.5},
    {"equivalence_margin": 0.5},
    {"largest_step": 3.0},
]


def test_the_dimensions_and_the_box_change_every_key() -> None:
    boxes = [{}, {"dimensions": 3}, {"dimensions": 3, "depth": 32}, {"dimensions": 3, "slice_spacing_mm": 3.0}]
    studies = [study_of(model={"architecture": "VNet", **box}) for box in boxes]
    for node in (TRAIN, SCORE, ESTIMATE):
        assert len({key(node, study=study) for study in studies}) == len(boxes)


@pytest.mark.parametrize("change", CHANGES_ALL, ids=str)
def test_what_every_result_depends_on_changes_every_key(change: dict[str, Any]) -> None:
    for node in (TRAIN, SCORE, ESTIMATE):
        assert key(node, study=study_of(**change)) != key(node)


@pytest.mark.parametrize("change", CHANGES_TRAINING, ids=str)
def test_how_a_network_is_trained_changes_the_key_of_training_alone(change: dict[str, Any]) -> None:
    assert key(study=study_of(**change)) != key()
    for node in (SCORE, ESTIMATE):
        assert key(node, study=study_of(**change)) == key(node)


@pytest.mark.parametrize("change", CHANGES_NOTHING, ids=str)
def test_what_no_result_depends_on_changes_no_key(change: dict[str, Any]) -> None:
    before = study_of(training={"slices": "chosen"}) if "paper" in change else study_of()  # the paper's are chosen
    for node in (TRAIN, SCORE, ESTIMATE):
        assert key(node, study=study_of(**change)) == key(node, study=before)


def test_every_part_of_a_study_stands_in_one_of_these_lists() -> None:
    """A new key of a study has to be put into one, so that somebody thinks about it."""
    told = {
        (part, *inner) if isinstance(inner, dict) else (part,)
        for change in CHANGES_ALL + CHANGES_TRAINING + CHANGES_NOTHING
        for part, inner in change.items()
    } | {("model", "package")}
    for part, field in Study.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        if part in ("methods", "preprocessing") or inner is None:
            assert any(entry[0] == part for entry in told), part
        else:
            assert {name for entry in told if entry[0] == part for name in entry[1:]} == set(inner)


def test_the_hash_of_a_plug_ins_package_changes_every_key() -> None:
    def study(package: str) -> Study:
        return study_of().model_copy(update={"model": ModelConfig.model_construct(package=package)})

    for node in (TRAIN, SCORE, ESTIMATE):
        assert key(node, study=study("")) == key(node)
        assert len({key(node, study=study(package)) for package in ("", "a" * 64, "b" * 64)}) == 3


def test_data_machine_weights_site_and_fold_change_the_key() -> None:
    keys = [
        key(),
        key(SCORE),
        key(weights="1" * 64),
        key(fingerprint="e" * 64),
        key(torch="2.14.0"),
        key(device="cuda"),
        key(precision="bfloat16"),
        key(dataclasses.replace(TRAIN, site="B")),
        key(dataclasses.replace(TRAIN, fold=0)),
        key(dataclasses.replace(TRAIN, proximal_mu=0.1)),
        key(dataclasses.replace(TRAIN, without=("B",))),
        key(dataclasses.replace(TRAIN, without=("B", "C"))),
        key(LOCAL),
        key(PERSONAL),
        key(dataclasses.replace(TRAIN, schedule=Schedule(6, 0, 5, "best"))),
        key(dataclasses.replace(TRAIN, schedule=Schedule(6, 0, 6, "last"))),
        key(dataclasses.replace(SCORE, split="validation")),
        key(dataclasses.replace(SCORE, fold=0)),
    ]
    assert len(set(keys)) == len(keys)


def test_the_parts_with_which_a_training_begins_change_its_key() -> None:
    def with_parts(parts: str) -> str:
        return stage_key(TRAIN, study=study_of(), weights=WEIGHTS, environment=WORKPLACE, parts=parts)

    assert with_parts("") == key()
    assert len({with_parts(parts) for parts in ("", "1" * 64, "2" * 64)}) == 3


def test_tensors_that_stay_are_named_by_the_digest_of_the_start_weights() -> None:
    """What a site completes is another start than the file alone, and than the same file completed otherwise."""
    shared, own, other = "1" * 64, "2" * 64, "3" * 64
    names = {completed_digest(shared, own), completed_digest(shared, other), completed_digest(other, own), shared, own}
    assert len(names) == 5 and all(len(name) == 64 for name in names)
    assert (completed_digest(shared, ""), completed_digest("", own)) == (shared, own)


def test_a_node_without_later_fields_is_what_it_was() -> None:
    """Sites note their answers, and results their stages, by a node's identity."""
    assert TRAIN.id == "f4b9bb41b9ec9c4415279f7d9587b19d773802c02f22d316ed53bfe21ecfcd83"
    assert len({node.id for node in (TRAIN, LOCAL, PERSONAL, dataclasses.replace(LOCAL, before=LOCAL))}) == 4


def test_a_model_that_never_saw_the_site_is_scored_as_by_a_study_without_clean_up() -> None:
    """So no score with a clean-up that the site's own validation patients chose is ever taken for it."""
    unseen = Evaluate("A", 1, "test", BestElsewhere((TRAIN,), "", "validation", ("B", "C")))
    assert key(unseen) != key(SCORE)
    assert key(unseen) == key(SCORE, study=study_of(postprocessing={"clean_up": False}))


def test_a_share_of_the_patients_changes_the_key_of_training_and_of_scoring_there() -> None:
    part = dataclasses.replace(TRAIN, share=0.5)
    assert len({key(), key(part), key(dataclasses.replace(part, share=0.25))}) == 3
    here, elsewhere = (Evaluate(site, 1, "test", part) for site in "AB")
    assert key(here) != key(SCORE), "images are standardised by the training patients"
    assert key(elsewhere) == key(dataclasses.replace(SCORE, site="B"))


def test_the_same_work_has_the_same_key_whatever_way_its_weights_came() -> None:
    other = FineTune("A", 1, FineTune("B", 0, Start(), Schedule(9, 0, 9, "last")), TRAIN.schedule)
    assert key(other) == key()
