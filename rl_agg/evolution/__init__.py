"""Evolution strategies with gates and a ledger, with or without Ray. They maximise.

>>> import numpy as np
>>> strategy = EvolutionStrategy(np.zeros(3), population=20, noise_stdev=0.1, lr=0.1, run=0)
>>> for _ in range(100):
...     candidates = strategy.ask()  # [20, 3]
...     strategy.tell(-np.square(candidates - 1.0).sum(axis=1))
>>> np.abs(strategy.theta - 1.0).max() < 0.1
np.True_
>>> strategy.ledger.messages
2000
"""

from rl_agg.evolution.evaluation import Outcomes, PopulationEvaluator
from rl_agg.evolution.mlp import ACTIVATIONS, MLP
from rl_agg.evolution.optimizers import OPTIMIZERS
from rl_agg.evolution.strategy import EvolutionStrategy
from rl_agg.evolution.workers import EvolutionAgents

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "OPTIMIZERS",
    "EvolutionAgents",
    "EvolutionStrategy",
    "Outcomes",
    "PopulationEvaluator",
]
