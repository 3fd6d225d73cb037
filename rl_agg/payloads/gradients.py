"""Gradients as payload."""

from dataclasses import dataclass

from rl_agg.payloads.base import Payload
from rl_agg.validation import check_flag


@dataclass(frozen=True)
class Gradients(Payload):
    """Agents send the gradient of their own mean loss at common parameters, and all step with the merged one."""

    content = "gradients"
    kind = "gradients"


@dataclass(frozen=True)
class GradientsWithOwn(Payload):
    r"""Each agent has parameters of its own and steps with :math:`g_a + \bar g`, its own and the merged gradient.

    :param same_init: Let all agents start from the same parameters; otherwise each draws its own.

    Source: Holen et al. (2023), ActorSum and ActorAvg.
    """

    content = "gradients"
    kind = "gradients"
    answer = "gradients"
    local = True

    same_init: bool = True

    def __post_init__(self) -> None:
        check_flag("same_init", self.same_init)
