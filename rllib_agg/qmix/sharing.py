"""What a QMIXConfig's agents exchange, from its settings."""

from __future__ import annotations

from typing import Any

from rl_agg import COMBINERS, LOCAL_SCHEMES, RULES, Scheme, Weighting
from rl_agg.combiners import TORCHJD
from rl_agg.local_schemes import LocalScheme, PartialPPS
from rl_agg.payloads import Parameters
from rl_agg.scheme import make_scheme
from rl_agg.validation import unknown_choice
from rllib_agg.qmix.networks import LAYERS

PERIODIC = ("a_pps", "rs_pps", "pp_pps")
"""Rules, and layers, under the names of Zhang et al. (2024)."""

NOTHING = ("none", "full")
"""Networks of each agent's own, and one for all."""

AXES = ("communication", "communication_kwargs", "compression", "compression_kwargs")


def make_sharing(config: Any) -> Scheme | None:
    """The scheme by which a QMIXConfig's agents exchange parameters; ``None`` for :data:`NOTHING`.

    :raises ValueError: if a choice or a setting is unknown, or two do not go together.
    """
    sharing, layers = config.parameter_sharing, config.shared_layers
    axes = {name: getattr(config, name) for name in AXES}
    if layers is None and isinstance(sharing, str) and sharing == "pp_pps":
        layers = PartialPPS.layers
    payload = Parameters(layers=layers, moments=config.moments)
    payload.selected(LAYERS)
    if isinstance(sharing, str):
        if sharing in NOTHING:
            for name, value in {"parameter_sharing_kwargs": config.parameter_sharing_kwargs, **axes}.items():
                if value not in (None, {}, "every", "identity"):
                    raise ValueError(
                        f"parameter_sharing={sharing!r} exchanges nothing, but {name}={value!r} was given; leave one out"
                    )
            return None
        choices = (*NOTHING, *PERIODIC, *RULES, *COMBINERS, f"{TORCHJD}NAME")
        if sharing not in choices and not sharing.startswith(TORCHJD):
            raise unknown_choice("parameter_sharing", sharing, choices)
    if isinstance(sharing, LocalScheme):
        raise ValueError(
            f"parameter_sharing={sharing!r} has settings of its own; give one of {', '.join(PERIODIC)}, with "
            "sharing_interval, shared_layers and moments"
        )
    rule = LOCAL_SCHEMES[sharing].rule if isinstance(sharing, str) and sharing in PERIODIC else sharing
    settings = config.parameter_sharing_kwargs
    scheme = make_scheme(rule, settings, payload=payload, interval=config.sharing_interval, **axes)
    if isinstance(scheme.rule, Weighting) and isinstance(scheme.rule.rule, str) and "losses" in scheme.needs:
        raise ValueError(
            f"parameter_sharing={sharing!r} reads each agent's loss, but the networks of a team learn from one loss; choose a "
            "rule that reads returns, or a combiner"
        )
    return scheme


def weighs_rewards(scheme: Scheme | None) -> bool:
    """Whether merges depend on each agent's reward."""
    return scheme is not None and "returns" in scheme.needs
