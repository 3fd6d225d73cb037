"""Evolution strategies on env runners.

Source: Salimans et al. (2017); Gunn (2023), section 2.4.4 and chapter 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from rl_agg import Weighting
from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.evolution.normalization import LARGEST
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.evolution.workers import EvolutionBroadcast
from rl_agg.rules import Rule
from rl_agg.seeding import stream
from rl_agg.validation import check_choice, check_count, check_flag
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.es.module import ESModule
from rllib_agg.server_loop.population import PopulationAlgorithm, PopulationConfig

REPORTED: dict[str, dict[str, Any]] = {
    "cartpole": {
        "training": {"population": 50, "optimizer": "adam", "lr": 0.01, "l2_coeff": 0.05, "noise_stdev": 0.05, "gamma": 1.0},
        "model": {"fcnet_hiddens": [8, 8]},
    },
    "ant": {
        "training": {"population": 50, "optimizer": "adam", "lr": 0.005, "l2_coeff": 0.05, "noise_stdev": 0.02, "gamma": 0.99},
        "model": {"fcnet_hiddens": [64, 64]},
    },
    "grid": {
        "training": {"population": 30, "optimizer": "momentum", "lr": 0.01, "l2_coeff": 0.0, "noise_stdev": 0.1, "gamma": 0.9},
        "model": {"fcnet_hiddens": [4, 4]},
    },
}
"""Gunn (2023), sections 4.6 and 4.7. Of the grids it does not give the learning rate, the momentum and the noise."""


class ESConfig(PopulationConfig):
    """Defines evolution strategies: agents run perturbed parameters and send the return, if their gate lets them.

    >>> config = ESConfig().environment("CartPole-v1").training(communication="deviation", expected_messages=10)
    >>> config.evolution.make_gate().expected_messages
    10
    """

    default_module = ESModule
    model_defaults: ClassVar[dict[str, Any]] = {
        "fcnet_hiddens": [64, 64],
        "fcnet_activation": "tanh",
        "action_noise_stdev": 0.1,
    }
    model_settings = frozenset(model_defaults)
    old_names: ClassVar[dict[str, str]] = {
        **PopulationConfig.old_names,
        "episodes_per_batch": "population",
        "stepsize": "lr",
        "noise_size": "not needed: there is no table of noise",
        "action_noise_std": ".rl_module(model_config={'action_noise_stdev': ...})",
        "eval_prob": "not needed: the server runs an episode in each update",
        "report_length": ".reporting(metrics_num_episodes_for_smoothing=...)",
    }

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ES)
        self.take(**vars(EvolutionSettings()))
        self.normalize_observations = False

    def training(
        self,
        *,
        noise_stdev: float = UNSET,
        fitness: str | Rule | Weighting = UNSET,
        fitness_kwargs: Mapping[str, Any] = UNSET,
        antithetic: bool = UNSET,
        optimizer: Any = UNSET,
        optimizer_kwargs: Mapping[str, Any] = UNSET,
        l2_coeff: float = UNSET,
        communication: str = UNSET,
        expected_messages: int | None = UNSET,
        communication_kwargs: Mapping[str, Any] = UNSET,
        broadcast: str = UNSET,
        budget_bytes_per_update: float | None = UNSET,
        novelty: str | None = UNSET,
        novelty_kwargs: Mapping[str, Any] = UNSET,
        reuse: int = UNSET,
        reuse_threshold: float | None = UNSET,
        normalize_observations: bool = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training.

        :param noise_stdev: sigma, standard deviation of the noise on the parameters.
        :param fitness: How much each return counts: ``raw``, ``centered`` (less the mean), ``ranks``, another rule of
            :data:`rl_agg.RULES` that weighs scores, or ``rule(signals, **settings) -> weights [A]``.
        :param fitness_kwargs: The rule's own settings, and ``normalize``.
        :param antithetic: Agents in pairs have the same noise with opposite signs.
        :param optimizer: ``adam``, ``sgd`` or ``momentum``.
        :param optimizer_kwargs: The optimizer's own settings, see :mod:`rl_agg.evolution.optimizers`.
        :param l2_coeff: Pulls parameters towards 0.
        :param communication: Which agents send their return: ``every``, ``espc``, ``random``, ``deviation`` or another gate of
            :data:`rl_agg.GATES` that decides about scores.
        :param expected_messages: m, the wanted number of messages in an update, for gates that have such a setting.
        :param communication_kwargs: The gate's own settings, see :mod:`rl_agg.gates`.
        :param broadcast: What the server sends: ``parameters``, or ``seeds``: env runners keep the parameters, and take each
            step by themselves. The parameters are the same to the bit.
        :param budget_bytes_per_update: Bytes that all agents together may send in an update, on average; ``expected_messages``
            follows it.
        :param novelty: Search for new behaviour: ``ns`` (novelty alone), ``nsr`` (and return) or ``nsra`` (whose weight
            adapts).
        :param novelty_kwargs: Its own settings, see :mod:`rl_agg.evolution.novelty`: ``behaviour``, ``neighbours``, of
            ``nsr`` and ``nsra`` ``weight``, of ``nsra`` ``change`` and ``patience``.
        :param reuse: Samples of how many earlier updates are used again, by their likelihood ratio.
        :param reuse_threshold: Least effective number of an earlier update's samples, as a share of them; ``None``: 0.2.
        :param normalize_observations: By mean and standard deviation, whose statistics senders add to their messages.
        :param kwargs: Those of :meth:`PopulationConfig.training` and RLlib's own, of which ``gamma`` and ``lr`` count.
        """
        super().training(**kwargs)
        return self.take_arguments(locals())

    def faithful(self, experiment: str = "cartpole") -> Self:
        """Set what the report's experiments set: raw returns, no antithetic pairs, and the numbers of one experiment.

        :param experiment: ``cartpole``, ``ant`` or ``grid``.
        :raises ValueError: if it is none of these.
        """
        check_choice("experiment", experiment, REPORTED)
        given = REPORTED[experiment]
        self.change_model(given["model"])
        return self.training(fitness="raw", antithetic=False, **given["training"])

    @property
    def evolution(self) -> EvolutionSettings:
        """Settings that server and agents share; ``ValueError`` if one is out of range."""
        return self.collect(EvolutionSettings)

    def open_agents(self, worker_index: int = 0) -> EvolutionAgents:
        """Make what runs episodes."""
        evaluator = PopulationEvaluator(
            self.open_environments(worker_index),
            hidden=self.model_config["fcnet_hiddens"],
            activation=self.model_config["fcnet_activation"],
            gamma=self.gamma,
            max_episode_steps=self.max_episode_steps,
            normalize_actions=self.normalize_actions,
            action_noise_stdev=self.model_config["action_noise_stdev"],
        )
        return EvolutionAgents(evaluator, self.evolution, explore=self.explore)

    @property
    def model_derived(self) -> dict[str, Any]:
        """How a module's actions are scaled."""
        return {"normalize_actions": self.normalize_actions}

    def validate(self) -> None:
        """Check the settings."""
        super().validate()
        check_flag("normalize_observations", self.normalize_observations)
        self.evolution.check_normalization(self.normalize_observations)  # building the settings checks them
        hidden = self.model_config["fcnet_hiddens"]
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise ValueError(f"fcnet_hiddens must be a list of sizes, got {hidden!r}")
        for size in hidden:
            check_count("each of fcnet_hiddens", size, least=1)
        if self.normalize_observations and getattr(self.rl_module_spec, "load_state_path", None) is not None:
            raise ValueError(
                "a module does not store how many observations its statistics are of, so load_state_path does not go with "
                "normalize_observations=True; restore the whole algorithm"
            )


class ES(PopulationAlgorithm):
    """Evolution strategies."""

    config_class = ESConfig
    server: EvolutionStrategy

    def make_server(self) -> EvolutionStrategy:
        """A strategy with initial parameters drawn from the run's number."""
        network, run = self.agents.evaluator.network, self.config.draw_run()
        return EvolutionStrategy(
            network.initial(stream("start", run)),
            run=run,
            observation_size=network.sizes[0] if self.config.normalize_observations else None,
            settings=self.config.evolution,
        )

    def whole_broadcast(self) -> EvolutionBroadcast:
        """With the parameters."""
        return self.server.whole_broadcast()

    def write_module(self) -> None:
        """Parameters, and mean and deviation of normalised observations."""
        statistics = self.server.statistics
        scale = None if statistics is None else (statistics.mean, statistics.deviation, np.float32(LARGEST))
        self.module.write(self.server.theta, scale)
