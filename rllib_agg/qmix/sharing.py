"""What a QMIXConfig's agents exchange, from its settings."""

from __future__ import annotations

from typing import Any

from rl_agg import Scheme, Weighting
from rl_agg.local_schemes import PartialPPS
from rllib_agg.aggregation import parameter_sharing
from rllib_agg.qmix.networks import LAYERS

NOTHING = ("none", "full")
"""Networks of each agent's own, and one for all."""

OF_MERGES = ("within_type", "merge_targets")
"""What only merges have, without what sweeps over parameter_sharing have in common, such as sharing_interval."""


def make_sharing(config: Any) -> Scheme | None:
    """The scheme by which a QMIXConfig's agents exchange parameters; ``None`` for :data:`NOTHING`.

    :raises ValueError: if a choice or a setting is unknown, or two do not go together.
    """
    scheme = parameter_sharing.make_sharing(config, head=PartialPPS.layers, nothing=NOTHING, layers=LAYERS)
    if scheme is None:
        for name in OF_MERGES:
            if getattr(config, name):
                raise ValueError(
                    f"parameter_sharing={config.parameter_sharing!r} exchanges nothing, but {name}=True was given; "
                    "leave one out"
                )
        return None
    if isinstance(scheme.rule, Weighting) and isinstance(scheme.rule.rule, str) and "losses" in scheme.needs:
        raise ValueError(
            f"parameter_sharing={config.parameter_sharing!r} reads each agent's loss, but the networks of a team learn from "
            "one loss; choose a rule that reads returns, or a combiner"
        )
    return scheme


def weighs_rewards(scheme: Scheme | None) -> bool:
    """Whether merges depend on each agent's reward."""
    return scheme is not None and "returns" in scheme.needs
