"""The settings of evolution strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_agg.evolution import EvolutionAgents, PopulationEvaluator
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.validation import check_count, check_flag, unknown_choice
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.server_loop.config import EpisodicConfig

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


class ESConfig(EpisodicConfig):
    """Defines evolution strategies: agents try out noise on the parameters and tell what it returned, if their gate lets them.

    >>> config = ESConfig().environment("CartPole-v1").training(communication="deviation", expected_messages=10)
    >>> config.evolution.make_gate().expected_messages
    10
    """

    model_defaults: ClassVar[dict[str, Any]] = {
        "fcnet_hiddens": [64, 64],
        "fcnet_activation": "tanh",
        "action_noise_stdev": 0.1,
    }
    model_settings = frozenset(model_defaults)

    def __init__(self, algo_class: type | None = None) -> None:
        from rllib_agg.es.algorithm import ES

        super().__init__(algo_class=algo_class or ES)
        defaults = EvolutionSettings()
        self.population = defaults.population
        self.noise_stdev = defaults.noise_stdev
        self.lr = defaults.lr
        self.fitness = defaults.fitness
        self.antithetic = defaults.antithetic
        self.optimizer: Any = defaults.optimizer
        self.optimizer_kwargs: Mapping[str, Any] = {}
        self.l2_coeff = defaults.l2_coeff
        self.communication = defaults.communication
        self.expected_messages: int | None = None
        self.communication_kwargs: Mapping[str, Any] = {}
        self.normalize_observations = False

    def training(
        self,
        *,
        noise_stdev: float = UNSET,
        fitness: str = UNSET,
        antithetic: bool = UNSET,
        optimizer: Any = UNSET,
        optimizer_kwargs: Mapping[str, Any] = UNSET,
        l2_coeff: float = UNSET,
        communication: str = UNSET,
        expected_messages: int | None = UNSET,
        communication_kwargs: Mapping[str, Any] = UNSET,
        normalize_observations: bool = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training.

        :param noise_stdev: sigma, standard deviation of the noise on the parameters.
        :param fitness: What a return counts: ``raw``, ``centered`` (less the mean) or ``ranks``.
        :param antithetic: Agents in pairs try out the same noise with opposite signs.
        :param optimizer: ``adam``, ``sgd`` or ``momentum``.
        :param optimizer_kwargs: The optimizer's own settings, see :mod:`rl_agg.evolution.optimizers`.
        :param l2_coeff: Pulls parameters towards 0.
        :param communication: Who sends its return: ``every``, ``espc``, ``random`` or ``deviation``.
        :param expected_messages: m, how many should; for any but ``every``.
        :param communication_kwargs: The gate's own settings, see :mod:`rl_agg.gates`.
        :param normalize_observations: By mean and standard deviation, which those who speak send along.
        :param kwargs: Those of :meth:`EpisodicConfig.training` and RLlib's own, of which ``gamma`` and ``lr`` count.
        """
        super().training(**kwargs)
        return self.take(
            noise_stdev=noise_stdev,
            fitness=fitness,
            antithetic=antithetic,
            optimizer=optimizer,
            optimizer_kwargs=optimizer_kwargs,
            l2_coeff=l2_coeff,
            communication=communication,
            expected_messages=expected_messages,
            communication_kwargs=communication_kwargs,
            normalize_observations=normalize_observations,
        )

    def faithful(self, experiment: str = "cartpole") -> Self:
        """Set what the report's experiments set: returns as they are, no pairs, and the numbers of one experiment.

        :param experiment: ``cartpole``, ``ant`` or ``grid``.
        :raises ValueError: if it is none of these.
        """
        if experiment not in REPORTED:
            raise unknown_choice("experiment", experiment, REPORTED)
        given = REPORTED[experiment]
        self.change_model(given["model"])
        return self.training(fitness="raw", antithetic=False, **given["training"])

    @property
    def evolution(self) -> EvolutionSettings:
        """What centre and agents agree on.

        :raises ValueError: if one of the settings cannot be.
        """
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

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """A multi-layer perceptron."""
        from rllib_agg.es.module import ESModule

        return RLModuleSpec(module_class=ESModule)

    @property
    def model_derived(self) -> dict[str, Any]:
        """What is done with a module's actions."""
        return {"normalize_actions": self.normalize_actions}

    def validate(self) -> None:
        """Check the settings.

        :raises ValueError: naming the one that is wrong.
        """
        super().validate()
        _ = self.evolution  # builds, and so checks, all of them
        check_flag("normalize_observations", self.normalize_observations)
        hidden = self.model_config["fcnet_hiddens"]
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise ValueError(f"fcnet_hiddens must be a list of sizes, got {hidden!r}")
        for size in hidden:
            check_count("each of fcnet_hiddens", size, least=1)
        if self.normalize_observations and getattr(self.rl_module_spec, "load_state_path", None) is not None:
            raise ValueError(
                "a module does not know how many observations its statistics are of, so load_state_path does not go with "
                "normalize_observations=True; restore the whole algorithm"
            )
