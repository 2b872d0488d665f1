"""Show a study to a person at the hospital, and approve or leave the study: `relay site approve` and `leave`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from client.data.survey import Counted, Survey, divide, divided_as
from client.data.survey import count as count_patients
from client.governance import audit_log, egress
from client.governance.approval import Approval, approvals, approve, leave, study_of
from client.governance.disclosure import disclosure_of, onward_of
from client.governance.released_sets import (
    PatientSets,
    released,
    sets_behind_description,
    tells_of_too_few,
    too_few_together,
)
from client.site_config import SiteConfig
from common.config.study import Study, load_study
from common.errors import RelayError
from common.fingerprint import format_fingerprint, parse_fingerprint
from common.model.network import check_network
from common.text import count, moment, short_bytes
from deploy.console import bar
from deploy.site.approval_words import changes, words

LARGEST_ELSEWHERE = 10_000
"""The most training slices of another site in a fold, unless --others sets another limit: the slices of about 600
patients."""
DIGITS = 20
"""The least number of a hash's digits for a comparison over the telephone."""


def approve_study(
    site: SiteConfig,
    study: Study,
    *,
    yes: bool = False,
    again: bool = False,
    heard: str = "",
    largest_elsewhere: int = LARGEST_ELSEWHERE,
    as_json: bool = False,
    ask: Callable[[], str] | None = None,
) -> int:
    """Show a study in plain words, and approve the study if the person says yes.

    Args:
        site: the hospital's settings.
        study: the study.
        yes: approve without asking.
        again: also approve an already approved study: each of its stages may then be answered once more.
        heard: at least 20 digits of the hash, read out by the coordinator; empty: not compared.
        largest_elsewhere: the most training slices of another site in a fold.
        as_json: print JSON; approve only together with `yes`.
        ask: asks the person in front of the screen; None where nobody sits there.

    Returns:
        The exit code, 0.

    Raises:
        RelayError: the study cannot be approved here, or the person did not say yes.
    """
    _check(site, study)
    compare(study.digest, heard)
    counted = _counted(site, study)
    surveys = [divide(site, counted, variant) for variant in study.variants]
    _check_minimum(site, surveys)
    _check_together(site, study, counted)
    disclosure = disclosure_of(
        site.name, study, surveys, largest_elsewhere=largest_elsewhere, patient_scores=site.patient_scores
    )
    known = approvals(site)
    standing = next((record for record in known if record.study == study.digest and not record.left), None)
    before = next((record for record in reversed(known) if record.name == study.name), None)
    differences = changes(before, study, disclosure, study_of(site, before)) if before else []
    text = words(study, site, surveys, disclosure, onward_of(site.name, study), largest_elsewhere=largest_elsewhere)
    if not as_json:
        print("\n".join([*text, "", *(differences or [f'No study named "{study.name}" was approved here before.'])]))
        if standing and not again:
            print(f"\nIt is approved already ({standing.by}, {moment(standing.at)}). Nothing was changed.")
            print("With --again each of its stages may be answered once more, and other limits hold.")
            return 0
        if not yes and (ask is None or ask().strip().lower() != "yes"):
            raise RelayError(
                "Not approved; nothing was changed."
                if ask
                else "Nobody is there to ask; read what is written above, and add --yes to approve it."
            )
    if (again or standing is None) and (yes or not as_json):
        standing = approve(site, study, largest_elsewhere=largest_elsewhere, disclosure=disclosure)
    if as_json:
        answer = {
            "study": study.name,
            "digest": study.digest,
            "hash": format_fingerprint(study.digest),
            "text": text,
            "disclosure": disclosure.model_dump(mode="json"),
            "fewest_patients": min(survey.fewest for survey in surveys),
            "changes": differences,
            "approved": standing is not None,
        }
        print(json.dumps(answer, indent=1, ensure_ascii=False))
    else:
        print(f"\nApproved. Site {site.name} answers the coordinator's orders of this study from now on.")
    return 0


def list_approvals(site: SiteConfig, *, as_json: bool) -> int:
    """Print the studies approved at a site, including studies left since.

    Args:
        site: the hospital's settings.
        as_json: print JSON.

    Returns:
        The exit code, 0.
    """
    found = approvals(site)
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in found], indent=1, ensure_ascii=False))
        return 0
    for record in found:
        state = f"left {moment(record.left)} by {record.left_by}" if record.left else "approved"
        print(f'{format_fingerprint(record.study)}  {moment(record.at)}  by {record.by}  "{record.name}"  {state}')
    if not found:
        print("No study was approved here yet: relay site approve SITE.toml STUDY.toml.")
    return 0


def leave_study(site: SiteConfig, which: str) -> int:
    """Take back the approval of a study, or of all studies.

    Args:
        site: the hospital's settings.
        which: a study file, or digits of a hash; empty: all studies that the site takes part in.

    Returns:
        The exit code, 0.

    Raises:
        RelayError: the site takes part in no such study.
    """
    records = [record for record in approvals(site) if not record.left]
    if which:
        records = [record for record in records if is_of(record, digits_of(which))]
    if not records:
        raise RelayError(
            f"Site {site.name} takes part in no study{f' {which}' if which else ''};"
            " relay site approve SITE.toml --list says in which it does."
        )
    for record in records:
        leave(site, record)
        print(f'Site {site.name} has left "{record.name}" ({format_fingerprint(record.study)}).')
        print(f"  {sent(site, record.variants)}")
    print(
        "From now on every order is refused, and nothing more leaves; a training that is running ends with its epoch,"
        " and is not sent. The coordinator hears of it with its next order, and does the rest of the study without.\n"
        "The logs stay (relay site audit). Caches and checkpoints go with relay site forget. To take part again:"
        " relay site approve."
    )
    return 0


def digits_of(which: str) -> str:
    """Return the digest of a study file, or the digits of a hash as a person typed them.

    Args:
        which: a path, or digits.

    Raises:
        RelayError: there is no such file and the text is no hash, or has fewer than 8 digits.
    """
    if Path(which).is_file():
        return load_study(Path(which)).digest
    digits = parse_fingerprint(which)
    if len(digits) < 8 or not set(digits) <= set("0123456789abcdef"):
        raise RelayError(f'"{which}" is no study file, and no hash; of a hash 8 digits at least are wanted.')
    return digits


def is_of(record: Approval, digits: str) -> bool:
    """Return whether digits begin the hash of an approved study, or of a variant of the study."""
    return any(digest.startswith(digits) for digest in (record.study, *record.variants))


def compare(digest: str, heard: str) -> None:
    """Compare a study's hash with the digits read out by the coordinator.

    Args:
        digest: the study's hash.
        heard: the digits; empty: nothing is compared.

    Raises:
        RelayError: the digits are fewer than 20, or differ from the hash.
    """
    digits = parse_fingerprint(heard)
    if not digits:
        return
    if len(digits) < DIGITS or not set(digits) <= set("0123456789abcdef"):
        raise RelayError(f'--hash wants the {DIGITS} digits that the coordinator reads out, and got "{heard}".')
    if not digest.startswith(digits):
        raise RelayError(
            f"The hash of this study is {format_fingerprint(digest)}: another one than the coordinator read out."
            " The file is another version, or was changed on its way. Nothing was approved."
        )


def _check(site: SiteConfig, study: Study) -> None:
    if site.pooled:
        raise RelayError("All data in one place belong to no hospital that could approve; name a hospital's own file.")
    if site.name not in study.sites:
        raise RelayError(
            f"The study is about the sites {', '.join(study.sites)}, and this is site {site.name}; ask the coordinator."
        )
    if study.methods.pooled:
        unions = ", and to leave out pooled_subsets" if study.methods.pooled_subsets else ""
        raise RelayError(
            'The study asks for all data in one place ("pooled"), which hospitals that are apart do not have; the'
            f" coordinator has to set pooled = false under [methods]{unions}."
        )
    for model in study.networks:
        check_network(model, study.preprocessing.pixels)


def _counted(site: SiteConfig, study: Study) -> Counted:
    """Read the site's patients once, and count their slices."""
    with bar(f"Counting the slices of site {site.name}", unit="patients", stream=sys.stderr) as progress:
        counted = count_patients(site, study, progress=progress)
    if counted.left_out and site.bad_patients == "stop":
        raise RelayError(
            f"Site {site.name} has {counted.left_out} patients that cannot be used, and its file says to stop at such"
            ' (bad_patients = "stop"); relay site check says what is wrong with them.'
        )
    return counted


def _check_minimum(site: SiteConfig, surveys: list[Survey]) -> None:
    for survey in surveys:
        for split, patients in (
            ("test", survey.test_patients),
            ("training", min(*survey.train_patients, *survey.part_patients)),
            ("validation", min(survey.validation_patients)),
        ):
            if patients < site.minimum_patients:
                raise RelayError(
                    f"Not approved: the smallest {split} split of this study has {patients} of this site's"
                    f" {survey.patients} patients, and minimum_patients = {site.minimum_patients} in the site file"
                    " lets no number of so few leave; ask the coordinator for fewer folds, or for larger splits."
                )


def _check_together(site: SiteConfig, study: Study, counted: Counted) -> None:
    """Refuse a study whose numbers, with all that left before, would tell of fewer patients than the site allows."""
    if site.minimum_patients <= 1:
        return
    persons = {name: f"{site.name}/{person}" for name, person in counted.persons.items() if person}
    asked = PatientSets()
    for variant in study.variants:
        divided, folds = divided_as(site, counted, variant), range(variant.split.folds)
        asked |= sets_behind_description(divided, persons)
        shares = [frozenset(divided.train(fold, share)) for share in variant.methods.parts for fold in folds]
        asked |= PatientSets(tuple(shares), persons)
    known = released(site)
    if too_few_together(site, known, asked):
        if tells_of_too_few(site, known):
            raise RelayError(
                f"Not approved: what left site {site.name} before tells of fewer than {site.minimum_patients} patients"
                " already, such as under a smaller minimum_patients, so that no further number can keep to it; set a"
                " smaller minimum_patients in the site file, or take no further part. No study can mend what has left."
            )
        several = f" in its {len(study.variants)} variants" if len(study.variants) > 1 else ""
        or_secret = ', or set split_key = "site" in the site file' if site.split_key == "public" else ""
        raise RelayError(
            f"Not approved: the numbers of this study{several}, together with all that left site {site.name} before,"
            f" would tell of fewer than {site.minimum_patients} patients (minimum_patients in the site file); ask the"
            f" coordinator for fewer repeats, rotations, shares or folds{or_secret}."
        )


def sent(site: SiteConfig, digests: Collection[str] | None = None) -> str:
    """Describe the messages sent from a site, which cannot be called back; simulations do not count.

    Args:
        site: the hospital's settings.
        digests: the digests of the variants whose messages count; None: all messages.
    """
    lines = audit_log.read(site.private() / egress.LOG).lines
    found = [line for line in lines if not line.get("simulation") and (digests is None or line.get("study") in digests)]
    if not found:
        return "Nothing of it has left this site." if digests is not None else "Nothing has left this site."
    weights = sum(bool(line.get("weights")) for line in found)
    sizes = [line.get("bytes", 0) for line in found]
    total = sum(size for size in sizes if isinstance(size, int))
    return (
        f"What left before cannot be called back: {count(len(found), 'message')}, {weights} with weights,"
        f" {short_bytes(total)} in all, are at the coordinator, and what others trained from these weights stays"
        " with them."
    )
