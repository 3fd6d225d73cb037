r"""Known schemes in which every agent has parameters of its own, as choices on the axes.

==============  ====================  ==================  ==========================
scheme          rule                  payload             schedule
==============  ====================  ==================  ==========================
``fedavg``      samples               parameters          every ``interval`` updates
``fedprox``     samples               parameters          every ``interval`` updates
``a_pps``       mean                  parameters          every ``interval`` updates
``rs_pps``      reward_shares         parameters          every ``interval`` updates
``pp_pps``      reward_shares         some layers'        every ``interval`` updates
``actor_sum``   sum                   gradients_with_own  every step
``actor_mean``  mean                  gradients_with_own  every step
==============  ====================  ==================  ==========================

Source: McMahan et al. (2017); Li et al. (2020); Zhang et al. (2024), section 4; Holen et al. (2023), section 2.1 and table 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rl_agg.payloads import GradientsWithOwn, Parameters, Payload
from rl_agg.registry import Registry
from rl_agg.validation import check_count


class LocalScheme(ABC):
    """A rule and a payload under one name."""

    rule: ClassVar[str]
    """A name of :data:`rl_agg.RULES`."""

    interval: int = 1
    """Updates between two exchanges."""

    @abstractmethod
    def payload(self) -> Payload:
        """What is exchanged."""


@dataclass(frozen=True)
class FedAvg(LocalScheme):
    r"""Average the parameters after several local steps, each agent by its share of samples.

    :math:`\theta \leftarrow \sum_a \frac{n_a}{\sum_b n_b} \theta_a` after ``interval`` updates.

    :param interval: Updates (rollouts with all their epochs) between two averages, >= 1. In between, each agent acts by its
        own parameters.
    :param local_epochs: As for :class:`~rl_agg.payloads.Parameters`.
    :param moments: As for :class:`~rl_agg.payloads.Parameters`.
    :raises ValueError: if a setting is out of range.

    Source: McMahan et al. (2017), algorithm 1; equation 7 in Holen et al. (2023).
    """

    rule = "samples"

    interval: int = 1
    local_epochs: Sequence[int] | None = None
    moments: str = "keep"

    def __post_init__(self) -> None:
        check_count("interval", self.interval, least=1)
        self.payload()

    def payload(self) -> Payload:
        """Parameters, with all settings but the interval."""
        return Parameters(**{name: value for name, value in vars(self).items() if name != "interval"})


@dataclass(frozen=True)
class FedProx(FedAvg):
    r"""FedAvg with a proximal term that draws agents to the parameters they started from.

    Each local loss gains :math:`\frac{\mu}{2} \lVert \theta_a - \theta \rVert^2`.

    :param mu: :math:`\mu` >= 0; 0 is FedAvg, whose settings it has as well.
    :raises ValueError: if a setting is out of range.

    Source: Li et al. (2020), equation 2 and algorithm 2.
    """

    mu: float = 0.01


@dataclass(frozen=True)
class AveragePPS(FedAvg):
    r"""A-PPS: average all parameters evenly, :math:`\theta \leftarrow \sum_a \theta_a / A`; settings as :class:`FedAvg`.

    Source: Zhang et al. (2024), section 4.1.
    """

    rule = "mean"


@dataclass(frozen=True)
class RewardPPS(FedAvg):
    r"""RS-PPS: average all parameters by reward, :math:`\theta \leftarrow \sum_a \frac{R_a}{\sum_b R_b} \theta_a`.

    Settings as :class:`FedAvg`.

    Source: Zhang et al. (2024), section 4.2.
    """

    rule = "reward_shares"


@dataclass(frozen=True)
class PartialPPS(RewardPPS):
    """PP-PPS: average some layers' parameters by reward; the others stay an agent's own.

    :param layers: Names of the modules that are merged. Other settings as :class:`FedAvg`.

    Source: Zhang et al. (2024), section 4.3.
    """

    layers: tuple[str, ...] = ("head",)


@dataclass(frozen=True)
class ActorSum(LocalScheme):
    r"""Each agent steps with its own gradient and the sum of all: :math:`g_a + \sum_b g_b`.

    :param same_init: Let all agents start from the same parameters; otherwise each draws its own.

    Source: Holen et al. (2023), ActorSum.
    """

    rule = "sum"

    same_init: bool = True

    def __post_init__(self) -> None:
        self.payload()

    def payload(self) -> Payload:
        """Gradients, to which each agent adds its own."""
        return GradientsWithOwn(self.same_init)


@dataclass(frozen=True)
class ActorMean(ActorSum):
    r"""Each agent steps with its own gradient and the mean of all: :math:`g_a + \frac{1}{A} \sum_b g_b`.

    Settings as :class:`ActorSum`.

    Source: Holen et al. (2023), ActorAvg.
    """

    rule = "mean"


LOCAL_SCHEMES: Registry[type[LocalScheme]] = Registry(
    "local scheme",
    "aggregation",
    {
        "fedavg": FedAvg,
        "fedprox": FedProx,
        "actor_sum": ActorSum,
        "actor_mean": ActorMean,
        "a_pps": AveragePPS,
        "rs_pps": RewardPPS,
        "pp_pps": PartialPPS,
    },
)
"""Schemes by name."""
