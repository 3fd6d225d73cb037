"""Schemes in which every agent has parameters of its own, and their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from rl_agg.validation import build, check_count, check_flag, check_number, unknown_choice

MOMENTS = ("keep", "merge", "reset")


@dataclass(frozen=True)
class LocalScheme:
    """A scheme in which each agent has its own parameters."""

    def check(self, num_agents: int) -> None:
        """Refuse a number of agents that the settings do not fit.

        :param num_agents: A.
        :raises ValueError: naming the setting and the number.
        """


@dataclass(frozen=True)
class FedAvg(LocalScheme):
    r"""Average the parameters after several local steps, each agent by its share of samples.

    :math:`\theta \leftarrow \sum_a \frac{n_a}{\sum_b n_b} \theta_a` after ``interval`` updates.

    :param interval: Updates (rollouts with all their epochs) between two averages, >= 1. In between, each agent acts by its
        own parameters.
    :param local_epochs: Epochs that each agent makes of an update's, one number for each agent; ``None``: all of them. An
        agent that stops early counts as much as the others.
    :param moments: What becomes of an agent's optimiser moments when parameters are averaged: ``"keep"`` leaves each agent its
        own, ``"merge"`` averages them as the parameters, ``"reset"`` starts afresh.
    :raises ValueError: if a setting is out of range.

    Source: McMahan et al. (2017), algorithm 1; equation 7 in Holen et al. (2023).
    """

    interval: int = 1
    local_epochs: Sequence[int] | None = None
    moments: str = "keep"

    def __post_init__(self) -> None:
        check_count("interval", self.interval, least=1)
        if self.moments not in MOMENTS:
            raise unknown_choice("moments", self.moments, MOMENTS)
        epochs: Any = self.local_epochs
        if epochs is not None and (
            isinstance(epochs, str)
            or not isinstance(epochs, Sequence)
            or any(isinstance(n, bool) or not isinstance(n, Integral) or int(n) < 0 for n in epochs)
        ):
            raise ValueError(f"local_epochs must be one integer >= 0 for each agent, got {epochs!r}")

    def check(self, num_agents: int) -> None:
        """Refuse ``local_epochs`` of another number of agents."""
        if self.local_epochs is not None and len(self.local_epochs) != num_agents:
            raise ValueError(f"local_epochs must be one integer for each of {num_agents} agents, got {self.local_epochs!r}")


@dataclass(frozen=True)
class FedProx(FedAvg):
    r"""FedAvg with agents that are drawn to the parameters they started from.

    Each local loss gains :math:`\frac{\mu}{2} \lVert \theta_a - \theta \rVert^2`.

    :param mu: :math:`\mu` >= 0; 0 is FedAvg.
    :param interval: As for :class:`FedAvg`.
    :param local_epochs: As for :class:`FedAvg`.
    :param moments: As for :class:`FedAvg`.
    :raises ValueError: if a setting is out of range.

    Source: Li et al. (2020), equation 2 and algorithm 2.
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("mu", self.mu, least=0)


@dataclass(frozen=True)
class ActorSum(LocalScheme):
    r"""Each agent steps with its own gradient and the sum of all: :math:`g_a + \sum_b g_b`.

    :param same_init: Let all agents start from the same parameters; otherwise each draws its own.

    Source: Holen et al. (2023), ActorSum.
    """

    same_init: bool = True

    def __post_init__(self) -> None:
        check_flag("same_init", self.same_init)


@dataclass(frozen=True)
class ActorMean(ActorSum):
    r"""Each agent steps with its own gradient and the mean of all: :math:`g_a + \frac{1}{A} \sum_b g_b`.

    :param same_init: As for :class:`ActorSum`.

    Source: Holen et al. (2023), ActorAvg.
    """


LOCAL_SCHEMES: dict[str, type[LocalScheme]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "actor_sum": ActorSum,
    "actor_mean": ActorMean,
}
"""Schemes of local models by name."""


def make_scheme(name: str, settings: Mapping[str, Any]) -> LocalScheme:
    """Build a scheme by name.

    :param name: A name from :data:`LOCAL_SCHEMES`.
    :param settings: Its settings.
    :raises ValueError: if the name, a setting or a value is unknown.
    """
    if name not in LOCAL_SCHEMES:
        raise unknown_choice("scheme", name, LOCAL_SCHEMES)
    return build(name, LOCAL_SCHEMES[name], settings)
