"""Small populations on CartPole, on RLlib and without it."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.population import open_environments
from rl_agg.seeding import stream
from rllib_agg import ESConfig

GATED = {"communication": "espc", "expected_messages": 4, "fitness": "raw"}


def tiny_es(num_env_runners: int = 0, **training: Any) -> ESConfig:
    return (
        ESConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=num_env_runners)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .training(population=10, noise_stdev=0.1, lr=0.05, **training)
        .fault_tolerance(delay_between_env_runner_restarts_s=0.0, env_runner_health_probe_timeout_s=20.0)
        .debugging(seed=3)
    )


def core(updates: int, **settings: Any) -> EvolutionStrategy:
    """The same run without Ray."""
    evaluator = PopulationEvaluator(open_environments("CartPole-v1", {}), hidden=[8])
    size = 4 if settings.pop("normalize_observations", False) else None
    config = tiny_es(**settings)
    start = evaluator.network.initial(stream("start", 3))
    strategy = EvolutionStrategy(start, run=3, observation_size=size, settings=config.evolution)
    agents = EvolutionAgents(evaluator, config.evolution)
    for _ in range(updates):
        strategy.receive(agents.run(strategy.broadcast(), np.arange(11)))
    return strategy
