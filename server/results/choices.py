"""Choices left open by the paper, and this study's settings for these choices, printed with every result."""

from __future__ import annotations

from collections.abc import Iterator

from common.config.methods import FederatedConfig
from common.config.study import Study
from common.model.network import declared
from common.plan import Plan, asked_for
from common.plan.graph import Average, Soup
from common.plan.routes import settings_of
from common.scores import deciding
from common.strategies import STRATEGIES
from common.text import count, either, listed

BATCH_NORM = {
    "precise": "its statistics are estimated anew from the training slices before weights are scored or leave a site",
    "running": "its statistics are averages over the training steps; after a short stage they lag behind the weights",
}
"""The remark on each setting of batch normalisation."""


OF_AVERAGES = {
    "average": "the sites' means and variances averaged like weights, without the variance between sites",
    "re-estimate": "estimated anew at each target from its training slices, as a route ends with",
    "local": "its tensors stay at their site and are put back at every visit, at first those of the first weights",
}
"""The remark on each way to the statistics of batch normalisation in an average."""


ON_ROUTES = {
    "travel": "its tensors go with the weights",
    "local": "its tensors stay at their site, and are put back at a second visit; at a first visit they are those of"
    " the first weights, and a site that has not been visited yet scores with these",
}
"""The remark on each way of batch normalisation on routes and laps."""


ANNEALING = {
    "stage": "every training of a route has a cosine of its own; the paper does not say",
    "route": "one cosine over a whole route, over laps and over the target alone restarted",
}
"""The remark on each annealing of routes."""


def open_choices(study: Study, plan: Plan) -> list[tuple[str, str, str]]:
    """Return for each open choice its subject, this study's setting, and a remark."""
    grid, training, split = study.preprocessing, study.training, study.split
    side = grid.pixels * grid.spacing_mm
    rounds, dice = ", ".join(_rounds(plan)), deciding(training.slices).title
    choices = [
        ("slices", training.slices, _slices(study)),
        ("loss", training.loss, "the paper names none"),
        ("augmentation", training.augmentation, "the paper names none"),
        (
            "input",
            f"{grid.pixels} × {grid.pixels} pixels of {grid.spacing_mm:g} mm, {side:g} mm about the image's centre"
            + _boxes(study),
            "the paper gives neither size nor resampling",
        ),
        ("patients held out for the test", *_tested(study)),
        ("clean-up", *_clean_up(study)),
        ("epoch kept", training.keep, f"by {dice} of the validation patients; the paper does not say"),
        ("a source's fold handed on", split.source, "best-fold: the source's best by its own validation patients"),
        ("fold reported", "best by validation at the target", "for every method alike, before any test score is read"),
        _standardised(study),
        ("batch normalisation", training.batch_norm, BATCH_NORM[training.batch_norm]),
        ("precision", training.precision, "the paper names none"),
        ("first layer", "one grey channel", "ImageNet's three summed: what three equal channels give"),
    ]
    choices += [
        (
            "optimizer",
            "SGD with Nesterov momentum" if training.recipe == "nnunet" else "Adam",
            "its moments begin at zero in every training: no state of it travels with the weights",
        ),
        ("annealing", study.methods.sequential.annealing, ANNEALING[study.methods.sequential.annealing]),
        ("second and later trainings", *_later(study)),
        *_on_routes(study),
        *_brakes(study),
    ]
    if rounds:
        choices.append(("federated rounds", rounds, "beyond the paper; by default the longest route's gradient steps"))
        choices.append(("batch normalisation of averages", *_of_averages(study)))
        weighting: dict[str, list[str]] = {}
        for part in study.methods.federated:
            weighting.setdefault(STRATEGIES[part.strategy].weighting, []).append(STRATEGIES[part.strategy].title)
        ways = [f"{', '.join(titles)}: {way}" for way, titles in weighting.items()]
        choices.append(("averages", "; ".join(ways if len(ways) > 1 else weighting), OF_ROUNDS))
    choices += [method.handled for method in asked_for(study) if method.handled]
    if any(declared(model).stays for model in study.networks):
        choices.append(("parts of a network that belong to a site", "kept there", OF_PARTS))
    if study.methods.pooled_subsets:
        choices.append(("data of some sites", "every union of two sites or more", OF_UNIONS))
    if study.methods.leave_out:
        choices.append(("models of an unseen site", "chosen by the other sites", OF_UNSEEN))
    return choices + _of_strategies(study)


def _tested(study: Study) -> tuple[str, str]:
    """Return how test patients are held out, and the remark on it."""
    share = f"{100 * study.split.test_fraction:g} %"
    if study.split.test == "rotate":
        each = "every patient is tested once, by the models that never saw the patient"
        return f"{study.split.rotations} sets in turn", f"{each}; the paper holds out one set of 20 %"
    return f"{share}, held out throughout", "the paper's 20 % too, but it does not name them"


def _standardised(study: Study) -> tuple[str, str, str]:
    if study.preprocessing.standardise == "volume":
        return "standardisation", "each volume by its own mean and deviation", "the paper does not say by what"
    return "pooled statistics", "each member's own", "a member's patients are standardised as they are scored"


def _boxes(study: Study) -> str:
    """Return what a study in three dimensions adds to the input; nothing in two."""
    model = study.model
    return f", in boxes of {model.depth} slices, {model.slice_spacing_mm:g} mm apart" if model.dimensions == 3 else ""


def _slices(study: Study) -> str:
    """Return the remark on the slices to train on."""
    if study.model.dimensions == 3:
        return "of each patient the box about the volume's centre; the paper has selected slices, one by one"
    if study.training.slices == "chosen":
        return f"those whose mask holds more than {study.preprocessing.minimum_mask_pixels} pixels, as in the paper"
    share = f"{100 * study.training.empty_share:g} %"
    return f"all slices with gland, and in each epoch {share} of those without; the paper has selected slices alone"


def _clean_up(study: Study) -> tuple[str, str]:
    """Return the setting of the clean-up, and the remark on it."""
    if not study.postprocessing.clean_up:
        return "none", "segmentations are scored as the network draws them; the paper names no clean-up"
    return "tried", "largest part, holes filled; kept for a model where its validation patients gain by it"


def _later(study: Study) -> tuple[str, str]:
    """Return the rates, warm-ups and freezing of second and later trainings, and the remark on them."""
    part = study.methods.sequential
    rates = either(f"{rate:g}" for rate in part.learning_rate or (study.training.learning_rate,))
    warmups = either(map(str, part.warmup_epochs))
    encoder = either("frozen" if one == "encoder" else "trained" for one in part.freeze)
    number = len(settings_of(study))
    chose = f"of {number} settings each target's validation patients choose" if number > 1 else "not varied"
    whom = "for routes, laps, the target restarted, and the target after an average or all data alike"
    return f"rate {rates}, {warmups} epochs of warm-up, encoder {encoder}", f"{chose}; {whom}"


def _on_routes(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield the ways of batch normalisation on routes and laps, where they are not the usual one alone."""
    words = study.methods.sequential.batch_norm
    if words != ("travel",):
        yield "batch normalisation on routes", listed(words), "; ".join(f"{word}: {ON_ROUTES[word]}" for word in words)


def _brakes(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yield the brakes on forgetting that are rows of the study."""
    if weights := study.methods.lwf.weight:
        setting = f"weight {either(f'{one:g}' for one in weights)}, temperature {study.methods.lwf.temperature:g}"
        statistics = "of its training slices" if study.training.batch_norm == "precise" else "received"
        remark = f"the received weights teach on the site's slices, with batch norm's statistics {statistics}"
        yield "learning without forgetting", setting, remark
    if weights := study.methods.l2_sp.weight:
        yield (
            "L2-SP",
            f"weight {either(f'{one:g}' for one in weights)}",
            "all parameters are pulled to the received ones",
        )


def _of_averages(study: Study) -> tuple[str, str]:
    """Return the ways to the statistics of batch normalisation in averages, and the remark on them."""
    titles: dict[tuple[str, ...], list[str]] = {}
    for part in study.methods.federated:
        titles.setdefault(tuple(sorted(part.batch_norm)), []).append(STRATEGIES[part.strategy].title)
    ways = [listed(words) for words in titles]
    if len(titles) > 1:
        ways = [f"{', '.join(of)}: {way}" for way, of in zip(ways, titles.values(), strict=True)]
    used = sorted({word for words in titles for word in words})
    return "; ".join(ways), "; ".join(f"{word}: {OF_AVERAGES[word]}" for word in used)


SERVER = {"learning_rate": "η", "momentum": "β", "second_moment": "β₂", "tau": "τ"}
"""The signs of the settings of a server's optimizer."""
OF_SERVERS = (
    "its gradient is the mean change of a round, weighted by training slices; statistics of batch normalisation are the"
    " plain mean; its moments go on from round to round, those of the sites' Adam start anew in each"
)
OF_CHAINS = (
    "after the other rounds the models change places, in an order drawn from the study's seed, with their batch-norm"
    " statistics; a mean is weighted by the training slices of each model's last site; Adam's moments start anew in"
    " each round"
)
OF_LAPS = (
    "one model goes from site to site, with its batch-norm statistics; the rounds after them go on from its end and in"
    " the same cosine annealing; Adam's moments start anew at each site"
)
OF_ROUNDS = (
    "the rounds are parts of one cosine annealing, Adam's moments start anew in each, and a round keeps its last epoch;"
    " each target's validation patients choose the round and the setting"
)
OF_PERSONAL = (
    "each goes on from its own of the round before, with the round's epochs and learning rates, and stays at its site"
    " with batch norm's statistics of its own; Adam's moments start anew in each round; scored at its site alone"
)
OF_UNSEEN = (
    "round, settings, route and fold by the mean validation score over the other sites; averages with averaged"
    " statistics of batch normalisation; routes and ensembles of one fold; no clean-up; images standardised as"
    " at the target itself"
)
OF_PARTS = (
    "training alone uses them; they begin with the seed's values, and are put back at the site's next visit; after a"
    " choice among several models, as of an average's round, they begin with the first values again"
)
OF_UNIONS = (
    "a target within the union chooses the fold, as for all data; for a target outside, the union's validation patients"
    " choose, and nothing is cleaned up"
)
BY_VALIDATION = "chosen by each target's validation patients; "


def _of_strategies(study: Study) -> list[tuple[str, str, str]]:
    """Return the choices for every strategy that differs from FedAvg in more than the mean."""
    choices = []
    for part in study.methods.federated:
        strategy, several = STRATEGIES[part.strategy], BY_VALIDATION if _tries_several(part) else ""
        if strategy.server is not None:
            rule = "; ".join(_settings(part))
            choices.append((f"server's optimizer of {strategy.title}", rule, several + OF_SERVERS))
        if part.ditto_lambda:
            pull = f"λ {listed(f'{value:g}' for value in part.ditto_lambda)}"
            of_several = BY_VALIDATION if len(part.ditto_lambda) > 1 else ""
            choices.append((f"personal models ({strategy.personal_title})", pull, of_several + OF_PERSONAL))
        if strategy.daisy_chain:
            every = f"averaged every {_numbers(part.average_every)}"
            choices.append((f"chain of {strategy.title}", every, several + OF_CHAINS))
        if strategy.laps_first:
            laps = f"the first {_numbers(part.laps)}, never the last"
            choices.append((f"laps of {strategy.title}", laps, several + OF_LAPS))
    return choices


def _numbers(rounds: tuple[int, ...]) -> str:
    """Return numbers of rounds in words: "2 rounds", "2 and 4 rounds"."""
    return listed([*map(str, rounds[:-1]), count(rounds[-1], "round")])


def _tries_several(part: FederatedConfig) -> bool:
    """Return whether a strategy is tried with several settings besides its local epochs."""
    return len(part.server_settings) * len(part.chains) > 1


def _settings(part: FederatedConfig) -> Iterator[str]:
    """Yield the values of each setting of the server's optimizer."""
    tried = [dict(settings) for settings in part.server_settings]
    for name in tried[0]:
        yield f"{SERVER[name]} {listed(list(dict.fromkeys(f'{settings[name]:g}' for settings in tried)))}"


def _rounds(plan: Plan) -> list[str]:
    """Return the federated settings tried in the study, in words."""
    found: dict[str, None] = {}
    for node in plan.nodes:
        if isinstance(node, Average) and not isinstance(node, Soup):
            schedule, mu = node.parts[0].schedule, node.parts[0].proximal_mu
            term = f", μ {mu:g}" if mu else ""
            rounds = schedule.total_epochs // schedule.epochs
            found[f"{STRATEGIES[node.strategy].title}: {rounds} rounds of {schedule.epochs} epochs{term}"] = None
    return list(found)
