"""Routes with L2-SP: every hop's parameters are pulled towards the received ones.

Since model and task stay the same, no parameter is new, and the term is FedProx's proximal term, whose anchor is the
stage's start weights. Batch norm's scales and shifts are pulled like all parameters; its statistics are none.

Source: Li, Grandvalet and Davoine, Explicit Inductive Bias for Transfer Learning with Convolutional Networks, ICML
2018.
"""

from dataclasses import replace

from common.config.study import Study
from common.plan.methods.route_variant import route_variant
from common.plan.routes import Setting, settings_of


def _settings(study: Study) -> list[Setting]:
    return [replace(setting, pull=weight) for setting in settings_of(study) for weight in study.methods.l2_sp.weight]


METHOD = route_variant(
    key="l2-sp", title="pulled towards the received weights (L2-SP)", short="L2-SP", settings=_settings
)
