"""Remarks on the strength of the results, a sentence or two under each table and chart."""

from __future__ import annotations

import math
from typing import Any

from common.plan import Section
from common.scores import DICE, OF_ZONES
from common.text import count, listed, points, whole
from server.report.budget import Growth
from server.report.contrasts import Family
from server.report.gland import Gland
from server.report.networks import Networks
from server.report.opening import drawn, held_out, synthetic_sentence
from server.report.paper import Table3
from server.report.table import Comparison, routes_taken
from server.report.wording import figure, sequential_setting, small
from server.results.schema import Results

COVERAGE = {6: 89, 30: 92}
"""By number of patients, the per cent of 95 % intervals that contain the true mean of lognormally distributed values;
from a simulation, repeated in the tests."""


def _setting(results: Results, part: str, name: str) -> Any:
    """Return a setting of the study, or None."""
    settings = results.study.get(part)
    return settings.get(name) if isinstance(settings, dict) else None


def _runs(results: Results) -> str:
    """Return the folds and repeats of the study: "5 folds", "5 folds in each of 3 repeats"."""
    folds, repeats = results.folds, len(results.repeats)
    return count(folds, "fold") if repeats == 1 else f"{count(folds, 'fold')} in each of {repeats} repeats"


def _first(results: Results) -> str:
    """Return the note on drawing only the first repeat or rotation, for a study with several of them."""
    several = [
        name for name, number in (("repeat", len(results.repeats)), ("rotation", results.rotations)) if number > 1
    ]
    return f" The first {listed(several)} is drawn." if several else ""


def _rotating(results: Results) -> str:
    """Return the note on the models behind a figure where the test rotates; empty where it does not."""
    if results.rotations < 2:
        return ""
    return (
        f" Each figure is of {results.rotations} rotations' models: every patient is scored once, by the models of the"
        " rotation that held the patient out, and each rotation chose by its own validation patients."
        f" {_shared(results.rotations)} The intervals are over all patients with these models as they are, as if"
        " patients of one rotation had nothing in common; they do not say how another split would have come out."
    )


def _shared(rotations: int) -> str:
    """Return how many training patients two rotations have in common: (rotations - 2) / (rotations - 1) of one's."""
    if rotations == 2:
        return "The two rotations have no training patient in common."
    return f"Two rotations share {'about half' if rotations == 3 else 'most'} of their training patients."


def _selected_by(results: Results) -> str:
    """Return the note on the selections by validation patients, whose own scores are therefore too high."""
    selected = ["the fold"] if results.folds > 1 else []
    if _setting(results, "training", "keep") != "last":
        selected.append("the epoch kept")
    if any(stage.kind == "average" for stage in results.stages):
        selected.append("the round")
    return f" The same patients chose {listed(selected)}, so these figures are on the high side." if selected else ""


def of_comparison(results: Results, table: Comparison) -> str:
    """Return the remark under the comparison."""
    one_fold = table.folds < 2
    if not table.tested:
        return (
            "These are validation patients"
            + ("" if one_fold else ", of the fold selected for each figure and so not the same everywhere")
            + f"; no test patient was looked at.{_selected_by(results)}"
            " They serve to choose between methods and do not say how well the selected one does."
            + synthetic_sentence(results)
        )
    which = "" if one_fold else f", that of {table.folds} folds with the best validation {table.score.title}"
    if table.repeats > 1:
        return (
            f"Each figure is a mean over {table.repeats} repeats ({drawn(results)}),"
            f" of one model a repeat{which}; ± is the standard deviation over the repeats. The repeats draw their test"
            " patients from the same hospitals' patients and are not independent of one another: the ± is no"
            f" interval.{_rotating(results)}{synthetic_sentence(results)}"
        )
    if table.rotations > 1:
        return (
            f"Each figure is one trained model a rotation{which}, on {held_out(results)}, all of the hospitals'"
            f" patients.{_rotating(results)}{synthetic_sentence(results)}"
        )
    return (
        f"Each figure is one trained model{which}, on {held_out(results)}. It does not show what another split of the"
        f" patients or another training would have given.{synthetic_sentence(results)}"
    )


def of_grid(results: Results) -> list[str]:
    """Return what the study's grid and its rule for slices take from the glands, a sentence each."""
    found = []
    limits = [f"{figure(site.ceiling)} % at {site.name}" for site in results.sites if site.ceiling]
    if limits:
        found.append(
            "The experts' own masks, taken to the study's grid and back as a model's output is, reach a volume Dice of"
            f" {listed(limits)}: a model on this grid can hardly do better."
        )
    cut = [f"{site.cut_patients} at {site.name}" for site in results.sites if site.cut_patients]
    if cut:
        found.append(f"The gland of some patients reaches beyond the study's grid and is cut off there: {listed(cut)}.")
    below = sum(site.below or 0 for site in results.sites)
    if below:
        pixels = _setting(results, "preprocessing", "minimum_mask_pixels")
        one = below == 1
        them, they = ("it", "it counts") if one else ("them", "they count")
        rule = f"no model was trained on {them}, and {they}" if results.score is DICE else they
        found.append(
            f"{count(below, 'slice')} with gland of at most {pixels} pixels:"
            f" {rule} in the volume Dice alone, in no mean over slices."
        )
    return found


def of_spread(results: Results) -> str:
    """Return the remark under the spread over folds and repeats."""
    what = "test" if results.tested else "validation"
    if results.rotations > 1:
        return (
            f"Mean ± standard deviation of the test {results.score.title} over {_runs(results)} and"
            f" {results.rotations} rotations. Each rotation is tested on other patients: ± holds the difference between"
            " patients as well as that between trainings, and says not how sure the figure is."
        )
    same = (
        " All folds of a split are tested on the same patients: ± is how far training on other patients moves a figure,"
        " not how sure the figure is."
        if results.tested
        else " Each fold has validation patients of its own."
    )
    return f"Mean ± standard deviation of the {what} {results.score.title} over {_runs(results)}.{same}"


def of_networks(results: Results, table: Networks) -> str:
    """Return the remark under a table of networks."""
    runs = max(cell.runs for cell in table.cells)
    cells = sorted(table.cells, key=lambda cell: -cell.mean)
    close = sum(cells[0].mean - cell.mean < (cells[0].std or 0.0) for cell in cells[1:])
    text = (
        f"Mean ± standard deviation over {count(runs, 'training')} a network, on validation patients of {table.target}."
    )
    others = len(cells) - 1
    if runs > 1 and cells[0].std is not None:
        whom = (
            "The other network lies"
            if others == 1
            else f"{close} of the other {others} networks {'lies' if close == 1 else 'lie'}"
        )
        text += (
            f" {whom} within one standard deviation of the best: which of these is better is not settled."
            if close
            else " No other network lies within one standard deviation of the best. That is no test, for the trainings"
            " share their patients."
        )
    if table.paper:
        text += " The paper's figures are of its own split and training."
        if results.synthetic:
            text += " They are of real patients."
    return text + synthetic_sentence(results)


def of_paper(results: Results, table: Table3) -> str:
    """Return the remark under the paper's Table III."""
    text = "The paper tests on one split, 20 % of 30, 30 and 19 patients, and does not name them."
    if results.synthetic:
        return (
            f"{text} Its figures are of real patients, ours of synthetic ones: side by side they show that the table"
            " can be filled, and neither confirm nor refute it."
        )
    return (
        f"{text} Ours are other test patients or another draw of them, and this study's open choices (listed under"
        " “The study as run”) need not be the paper's: a difference between the two columns has no one cause."
        + (" The order of the methods is what could agree." if table.orders else "")
    )


def of_contrasts(results: Results, family: Family) -> str:
    """Return the remark under the contrasts."""
    number = sum(not contrast.few_rounds for contrast in family.contrasts)
    behind = {contrast.together.patients for contrast in family.contrasts}
    patients, most = min(behind, default=0), max(behind, default=0)
    sentences = []
    if patients:
        sentences.append(
            f"{patients if patients == most else f'{patients} to {most}'} patients stand behind each line, each"
            " counted once"
            + (
                " although several repeats may hold it out; who one repeat holds out has trained the models of another."
                if family.repeats > 1
                else "."
            )
        )
    if patients and number:
        sentences.append(
            f"The smallest p that they could give is {small(family.attainable / number)},"
            f" times {count(number, 'comparison')} {small(family.attainable)}."
        )
    if family.why_none:
        sentences.append(family.why_none)
    if family.tests:
        sentences.append(
            "p: sign-flip permutation test within patients, stratified over hospitals, corrected by Holm's method for"
            f" {count(number, 'comparison')}; the intervals are not corrected. A large p does not say that two methods"
            " are equal."
        )
    if results.rotations > 1:
        sentences.append(
            "Patients of one rotation are scored by the same models, of which neither interval nor test knows anything."
        )
    sentences.append(
        "The trained models are taken as they are: "
        + (
            "with these repeats, how often the sign stayed the same says more of another training than p does."
            if family.repeats > 1
            else "what another training of the same methods would have given is not in these figures."
        )
    )
    return " ".join(sentences) + synthetic_sentence(results)


def of_posteriors(results: Results, family: Family) -> str:
    """Return the remark under the probabilities of differences."""
    several = any(len(contrast.at) > 1 for contrast in family.contrasts)
    text = (
        "From a hierarchical model (Benavoli et al. 2017, Corani et al. 2017):"
        f" {'patients within hospitals, hospitals about a common mean' if several else 'patients of one hospital'}"
        f"{', trainings beside' if family.repeats > 1 else ''}. Practically the same: a difference of at most"
        f" {points(family.margin)}, as {'the study says' if 'equivalence_margin' in results.study else 'by default'}."
        " Each patient counts once"
        f"{', whatever the number of slices' if results.score is DICE else ''}."
    )
    if several:
        text += (
            " At a hospital stand the same three probabilities; hospitals learn from one another, so that one with few"
            " patients lies closer to the others than its own patients do. Of a further hospital so few hospitals say"
            " little, and what was supposed beforehand weighs."
        )
    return f"{text} The probabilities are not corrected for the number of comparisons."


def of_variance(results: Results) -> str:
    """Return the remark under the sources of variance."""
    few = len(results.repeats)
    return (
        "Estimated by the method of moments from"
        f" {count(few, 'repeat')} ({drawn(results)}); with so few, the shares of splits and seeds are rough, and one of"
        " 0 % may be small instead. Patients move every method alike, which a comparison on the same patients takes"
        " out; splits and seeds move one method and not another, which no number of patients takes out."
        f"{synthetic_sentence(results)}"
    )


def of_intervals(results: Results, table: Comparison) -> str:
    """Return the remark under the intervals."""
    if not table.tested:
        return "No interval is drawn: these patients chose fold and epoch." + synthetic_sentence(results)
    if not any(row.ci95 for row in results.rows):
        return (
            "Without intervals these dots cannot say how much the choice of test patients matters."
            + synthetic_sentence(results)
        )
    numbers = listed(f"{share} % with {patients}" for patients, share in COVERAGE.items())
    return (
        "An interval says how much the choice of test patients matters, not how another split or training would have"
        " come out. Where few patients do far worse than the others it is too narrow: of lognormally distributed"
        f" patients, such intervals hold the true mean in {numbers}, instead of 95 %. Overlapping intervals do not mean"
        f" that two methods are equal, for the same patients stand behind both.{synthetic_sentence(results)}"
    )


def of_zones(results: Results, table: Comparison) -> list[str]:
    """Return where the zones are drawn, and their Dice at each target; nothing where the study is of the gland.

    The Dice is that of the route that validation chose, or else of the first method.
    """
    known = [site for site in results.sites if site.zoned_patients is not None]
    if not known:
        return []
    drawn = [f"{site.zoned_patients} of {site.patients} patients of {site.name}" for site in known]
    alone = [site.name for site in known if not site.zoned_patients]
    found = [f"Both zones are drawn in {listed(drawn)}."]
    if alone:
        found[0] += (
            f" At {listed(alone)} the whole gland alone is drawn: trainings there hold the two zones together against"
            " it, and models are scored on the gland."
        )
    figures = []
    for column, target in enumerate(table.targets):
        selected = table.selected_at(column)
        cells = [(routes_taken(selected), selected)] if selected is not None else []
        cells += [(line.label, cell) for line, cell in table.column(column)]
        name, cell = next(iter(cells), ("", None))
        if cell is not None and any(cell.mean(score) is not None for score in OF_ZONES):
            scores = listed(f"{score.title} {figure(cell.mean(score))} %" for score in OF_ZONES)
            figures.append(f"of {name} at {target}: {scores}")
    if figures and table.tested:
        found.append(f"On the whole volumes of test patients with zones, {'; '.join(figures)}.")
    return found


def of_gland(results: Results, gland: Gland) -> str:
    """Return the remark under errors of volume, thirds and patients with a low Dice."""
    sentences = []
    if gland.measured:
        sentences.append(
            "Errors of opposite sign cancel in the mean error. What a model draws below the apex or above the base is"
            " in none of the thirds; it counts in the volume error, the volume Dice and the slices without gland."
        )
    if gland.without_thirds:
        sentences.append(f"A gland of fewer than three slices has no thirds: {gland.without_thirds}.")
    if gland.listed:
        sentences.append(
            f"{gland.below} % is a mark to look at a patient, not a limit for use: a small gland loses more Dice by the"
            " same error."
        )
    sentences.append(f"No interval is given: the figures describe {held_out(results)}.")
    return " ".join(sentences) + synthetic_sentence(results)


def of_calibration(results: Results) -> str:
    """Return the remark under the calibration errors."""
    return (
        "The mean over test patients of each patient's own error; too high a probability in one patient does not cancel"
        " too low a one in another. Nothing was chosen by it, and a clean-up changes masks, not probabilities. An"
        " ensemble's probability is the mean of its members'. A small error does not make a good model: one that gives"
        " every voxel the same true share is calibrated and finds no gland. No interval is given: the figures describe"
        f" {held_out(results)}.{synthetic_sentence(results)}"
    )


def of_own_patients(results: Results) -> str:
    """Return the remark under the tables of shares of own patients."""
    return (
        "Each share is one draw of the target's patients, and trains for as many epochs as all of them, so with fewer"
        " gradient steps: another draw of so few patients may come out otherwise. The intervals are over test patients"
        f" and are not corrected for the number of lines.{synthetic_sentence(results)}"
    )


def of_budget(results: Results) -> str:
    """Return the remark under the table of costs."""
    parts = [f"all {_runs(results)}"] if results.folds > 1 or len(results.repeats) > 1 else []
    if len(results.models) > 1:
        parts.append(f"{len(results.models)} networks")
    parts.append("every route, round and candidate that was discarded")
    text = (
        f"To obtain all rows: {listed(parts)} included. Stages that methods share count in each of them, and once in"
        " Everything."
    )
    if any(stage.kind == "re-estimate" for stage in results.stages):
        text += " An average whose batch-norm statistics are estimated at a target counts among the scorings."
    if any(row.kind.section is Section.ALL_DATA for row in results.rows):
        text += " Bytes are those of weights: the images that all data in one place would have to move are not in them."
    if results.forgetting:
        text += " Everything also holds the scoring of what is forgotten."
    return text + " Steps of different hospitals and batches are counted alike; they do not take the same time."


def of_budget_curves(results: Results) -> str:
    """Return the remark under the charts of Dice against cost."""
    mixed = any(stage.kind == "average" for stage in results.stages)
    text = (
        f"Best validation {results.score.title} so far, in the selected fold, at what had been spent by then; a route's"
        f" line begins when the route reaches the target.{_selected_by(results)}"
        " Of two lines that end close together neither is shown to be better."
    )
    if mixed:
        text += (
            " Within a stage Dice is that of the study's grid, for averages that of the native grid, which may differ"
            " by a little."
        )
    return text + " Scoring is not counted." + _first(results) + synthetic_sentence(results)


def of_maps(results: Results) -> str:
    """Return the remark under the route maps."""
    what = "test patients" if results.tested else "validation patients"
    chance = (
        "a gain or loss of less than the intervals above may be chance"
        if any(row.ci95 for row in results.rows)
        else "without intervals nothing says how large a gain or loss chance alone would make"
    )
    return f"One model a stop, on each hospital's {what}: {chance}.{_first(results)}{synthetic_sentence(results)}"


def of_growth(results: Results, found: list[Growth]) -> str:
    """Return the remark under the table of routes found in the course of the study."""
    taken, of_all = sum(one.trainings for one in found), sum(one.of_all for one in found)
    if sequential_setting(results, "routes") == "halving":
        how = (
            "Every rung trains anew, and stages of fewer epochs are trainings too. A route that comes late, being good"
            " only with many epochs, was dropped early: these figures cannot say whether there was one."
        )
    else:
        how = (
            "A route that grows sees only the best source of each hop: a better route that begins with a worse source"
            " is never tried, and these figures cannot say whether there was one."
        )
    return f"{taken} trainings in place of {of_all}.{_steps_saved(results)} {how}"


def _steps_saved(results: Results) -> str:
    """Return what a search for routes took in gradient steps, against all routes; empty where that is not known.

    The numbers cover all networks of a study.
    """
    for budget in results.budgets:
        every = budget.gradient_steps_of_all_routes
        if every:
            share = 100 * (1 - budget.gradient_steps / every)
            told = f"{share:.0f} % saved" if share >= 0 else f"{-share:.0f} % more, so that nothing was saved"
            return (
                f" In gradient steps, each stage counted once: {whole(budget.gradient_steps)}, where all routes would"
                f" have taken {whole(every)} ({told})."
            )
    return ""


def of_predictions(results: Results) -> str:
    """Return the remark under the tables of predictors."""
    fewest = min((entry.routes for one in results.predictions for entry in one.agreement), default=0)
    chance = ""
    if 1 < fewest < 8:
        chance = f" Of {fewest} routes, one order in {math.factorial(fewest)} has a τ of 1 by chance."
    return (
        "τ is 1 where both orders are the same, −1 where one is the reverse of the other, and about 0 without relation."
        f"{chance} The routes share sources and patients, so no p is given. Validation patients have also chosen each"
        f" route's epoch; test patients have chosen nothing.{synthetic_sentence(results)}"
    )


def of_forgetting(results: Results) -> str:
    """Return the remark under the tables of forgetting."""
    luck = (
        " Along a route without repetition a model is handed on from the fold that did best at its site, so that a"
        " change also holds the luck of that fold."
        if results.folds > 1 and _setting(results, "split", "source") == "best-fold"
        else ""
    )
    return (
        f"Test {results.score.title} of one chain of models on {held_out(results)}.{luck} It shows what this chain"
        f" kept, not what every model trained this way would keep.{synthetic_sentence(results)}"
    )


def of_curves(results: Results) -> str:
    """Return the remark under the learning curves."""
    kept = _setting(results, "training", "keep")
    chose = " These patients chose the epoch kept." if kept != "last" else ""
    return (
        "The curves show whether training had settled, on validation patients; they are not the"
        f" figures that methods are compared by.{chose}{_first(results)}{synthetic_sentence(results)}"
    )


def of_wire(results: Results) -> str:
    """Return the remark under the table of traffic."""
    return (
        "Bytes of weights, over all runs of this folder: what was sent again after a failure is in them; the numbers"
        " that travel beside the weights, and what the transport adds, are not."
    )


def of_hospitals(results: Results) -> str:
    """Return the remark under the table of hospitals."""
    left_out = sum(site.left_out for site in results.sites)
    counted = (("repeat", len(results.repeats)), ("rotation", results.rotations))
    several = [count(number, name) for name, number in counted if number > 1]
    floored = sum(row.below_floor for row in results.rows)
    untold = (
        f" {count(floored, 'score')} of models that draw too little of a hospital's validation patients stand at 0: the"
        " hospital tells no others (scoring_floor in its site file)."
        if floored
        else ""
    )
    split = f"The split is that of the first of {listed(several)}." if several else "One split."
    if not left_out:
        return f"{split} No hospital tells of a patient left out.{untold}{synthetic_sentence(results)}"
    return (
        f"{split} {count(left_out, 'patient')} could not be used and stand in no figure; why, each hospital's own"
        f" site.log says. What they would have changed is not known.{untold}{synthetic_sentence(results)}"
    )


def of_choices(results: Results) -> str:
    """Return the remark under the open choices."""
    return "Every figure of this page depends on these choices, and another choice was not tried" + (
        " except where a row lists several." if _setting(results, "methods", "federated") else "."
    )


def of_handling(results: Results) -> str:
    """Return the remark under the table of how every method was handled."""
    several = sum(len(entry.methods) for entry in results.handling)
    return (
        f"{count(several, 'method')}, read off the stages of each one's first row; those that were handled alike stand"
        " together. Test patients select nothing."
    )


def of_folds(results: Results) -> str:
    """Return the remark under the table of every fold."""
    if not results.tested:
        return "Validation figures of every fold; no test patient was looked at." + synthetic_sentence(results)
    without = sum(
        row.patients is not None and row.surface_patients is not None and 0 < row.surface_patients < row.patients
        for row in results.fold_rows
    )
    lost = (
        f" In {count(without, 'row')} some patients had nothing segmented and are missing from the distances, which"
        " flatters these: their number stands beside."
        if without
        else ""
    )
    what = "rotation" if results.rotations > 1 else "repeat"
    return (
        f"Distances are means over the patients of whom anything was segmented.{lost} Rows of one target and {what}"
        f" share their test patients and are not independent.{synthetic_sentence(results)}"
    )
