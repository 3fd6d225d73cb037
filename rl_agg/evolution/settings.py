"""The settings of an evolution strategy, checked once, at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rl_agg.evolution.fitness import FITNESS
from rl_agg.evolution.optimizers import OPTIMIZERS, SGD, Adam
from rl_agg.gates import FitnessGate, make_fitness_gate
from rl_agg.population.reports import AGENT_ID
from rl_agg.validation import check_count, check_flag, check_number, check_settings, unknown_choice

LARGEST_POPULATION = int(np.iinfo(AGENT_ID).max)


@dataclass(frozen=True)
class EvolutionSettings:
    """What centre and agents agree on.

    :param population: A, agents, each one episode in an update.
    :param noise_stdev: sigma > 0, standard deviation of the noise on the parameters.
    :param lr: Step size > 0.
    :param fitness: ``raw``, ``centered`` or ``ranks``, see :mod:`rl_agg.evolution.fitness`.
    :param antithetic: Agents in pairs try out the same noise with opposite signs.
    :param optimizer: ``adam``, ``sgd`` or ``momentum``.
    :param optimizer_kwargs: The optimizer's own settings, see :mod:`rl_agg.evolution.optimizers`.
    :param l2_coeff: >= 0, pulls parameters towards 0.
    :param communication: Who sends its return, a name from :data:`rl_agg.gates.FITNESS_GATES`.
    :param expected_messages: m, how many should; for any gate but ``every``.
    :param communication_kwargs: The gate's own settings.
    :raises ValueError: if one of them cannot be.
    """

    population: int = 50
    noise_stdev: float = 0.05
    lr: float = 0.01
    fitness: str = "centered"
    antithetic: bool = True
    optimizer: str = "adam"
    optimizer_kwargs: Mapping[str, Any] = field(default_factory=dict)
    l2_coeff: float = 0.005
    communication: str = "every"
    expected_messages: int | None = None
    communication_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_count("population", self.population, least=1, most=LARGEST_POPULATION)
        check_flag("antithetic", self.antithetic)
        if self.antithetic and self.population % 2:
            raise ValueError(f"antithetic=True pairs agents, so population must be even, got {self.population}")
        check_number("noise_stdev", self.noise_stdev, above=0)
        check_number("l2_coeff", self.l2_coeff, least=0)
        if not isinstance(self.fitness, str) or self.fitness not in FITNESS:
            raise unknown_choice("fitness", self.fitness, FITNESS)
        if self.fitness != "raw" and self.population < 2:
            raise ValueError(f"fitness {self.fitness!r} compares agents, so population must be at least 2")
        self.make_optimizer(1)
        self.make_gate()

    def make_optimizer(self, num_parameters: int) -> SGD | Adam:
        """The optimizer of P parameters."""
        if not isinstance(self.optimizer, str) or self.optimizer not in OPTIMIZERS:
            raise unknown_choice("optimizer", self.optimizer, OPTIMIZERS)
        kind = OPTIMIZERS[self.optimizer]
        check_settings(self.optimizer, kind, self.optimizer_kwargs, given=2)
        return kind(num_parameters, self.lr, **self.optimizer_kwargs)

    def make_gate(self) -> FitnessGate:
        """The gate, as it is before the first update."""
        return make_fitness_gate(self.communication, self.population, self.expected_messages, self.communication_kwargs)
