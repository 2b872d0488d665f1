"""Routes with learning without forgetting: the received weights teach on the site's own slices.

No image and no weights travel that a route would not send; the term itself is in `client.training.distillation`.

Source: Li and Hoiem, Learning without Forgetting, IEEE TPAMI 40, 2018.
"""

from dataclasses import replace

from common.config.study import Study
from common.plan.graph import Hop
from common.plan.methods.route_variant import route_variant
from common.plan.routes import Setting, settings_of


def _settings(study: Study) -> list[Setting]:
    part = study.methods.lwf
    return [
        replace(setting, hop=replace(setting.hop or Hop(), distillation=weight, temperature=part.temperature))
        for setting in settings_of(study)
        for weight in part.weight
    ]


METHOD = route_variant(key="lwf", title="learning without forgetting", short="LwF", settings=_settings)
