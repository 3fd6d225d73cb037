"""Tabular algorithms on env runners: distributed Q-learning, its event-triggered kind, approximate value iteration, and
TD-EF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from rl_agg.codecs import Compression
from rl_agg.tabular import (
    DaviaAgents,
    DaviaLearner,
    DaviaSettings,
    QAgents,
    QLearner,
    QSettings,
    TabularEpisodes,
    TdefAgents,
    TdefLearner,
    TdefSettings,
)
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.server_loop.population import PopulationAlgorithm, PopulationConfig
from rllib_agg.tabular.module import LinearModule, TableModule


class TabularConfig(PopulationConfig):
    """What they have in common: agents that act greedily except for a share of random actions."""

    settings_class: ClassVar[type[QSettings | DaviaSettings | TdefSettings]] = QSettings
    agents_class: ClassVar[type[QAgents | DaviaAgents | TdefAgents]] = QAgents
    default_module = TableModule

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.gamma = 0.9
        self.take(**vars(self.settings_class()))

    def training(
        self,
        *,
        epsilon: float = UNSET,
        communication: str = UNSET,
        communication_kwargs: Mapping[str, Any] = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training.

        :param epsilon: The agents' share of random actions.
        :param communication: The gate, by its name in :data:`rl_agg.GATES`; ``every`` sends all.
        :param communication_kwargs: Settings of the gate.
        :param kwargs: Those of :meth:`PopulationConfig.training` and RLlib's own, of which ``gamma`` and ``lr`` count.
        """
        super().training(**kwargs)
        return self.take(epsilon=epsilon, communication=communication, communication_kwargs=communication_kwargs)

    @property
    def settings(self) -> QSettings | DaviaSettings | TdefSettings:
        """Settings that server and agents share; ``ValueError`` if one is out of range."""
        return self.collect(self.settings_class)

    def open_agents(self, worker_index: int = 0) -> QAgents | DaviaAgents | TdefAgents:
        """Make what runs episodes."""
        environments = self.open_environments(worker_index)
        episodes = TabularEpisodes(environments, gamma=self.gamma, max_episode_steps=self.max_episode_steps)
        return self.agents_class(episodes, self.settings)  # type: ignore[arg-type]

    def validate(self) -> None:
        """Check the settings."""
        _ = self.settings  # builds, and so checks, all of them; the module's are derived from some
        super().validate()
        if self.explore:
            raise ValueError(f"{type(self).__name__}'s agents explore by epsilon; leave explore=False")


class TabularAlgorithm(PopulationAlgorithm):
    """Keeps what the server learned in the module."""

    server: QLearner | DaviaLearner | TdefLearner

    @property
    def server_settings(self) -> dict[str, Any]:
        """Arguments that every server takes."""
        return {"gamma": self.config.gamma, "run": self.config.draw_run(), "settings": self.config.settings}

    def write_module(self) -> None:
        """Parameters, and the action values they stand for."""
        self.module.write(self.server.theta, self.server.action_values)


class DQLConfig(TabularConfig):
    """Defines distributed Q-learning: every agent sends all samples of its episode.

    >>> DQLConfig().environment("rl_agg/SimpleGrid-v0").training(lr=1.0).settings.lr
    1.0
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or DQL)

    def training(self, *, initial_value: float = UNSET, **kwargs: Any) -> Self:
        """Set up the training.

        :param initial_value: Of every cell and action; 0 makes agents explore where rewards are negative.
        :param kwargs: Those of :meth:`TabularConfig.training`.
        """
        super().training(**kwargs)
        return self.take(initial_value=initial_value)


class DQL(TabularAlgorithm):
    """Distributed Q-learning."""

    config_class = DQLConfig
    server: QLearner

    def make_server(self) -> QLearner:
        """A table."""
        return QLearner(self.agents.episodes.shape, **self.server_settings)


class EBCDQLConfig(DQLConfig):
    """Defines event-based communication in distributed Q-learning: agents send samples of large error.

    ``communication_kwargs`` are ``rho``, ``beta`` and ``epsilon``, see :class:`~rl_agg.gates.TdErrorTrigger`. A gate of your
    own derives from :class:`~rl_agg.gates.TransitionGate`.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or EBCDQL)
        self.communication = "td_error"


class EBCDQL(DQL):
    """Event-based communication in distributed Q-learning."""

    config_class = EBCDQLConfig


def _listed(matrix: Any) -> Any:
    """Arrays as lists, because RLlib's configs cannot compare arrays."""
    return matrix.tolist() if isinstance(matrix, np.ndarray | Tensor) else matrix


def _num_features(features: ArrayLike | None) -> dict[str, Any]:
    """How many there are, for a module, if not one for each cell."""
    return {} if features is None else {"num_features": np.shape(features)[-1]}


class DAVIAConfig(TabularConfig):
    """Defines distributed approximate value iteration: agents send gradients of large gain. The environment must have a model.

    ``communication_kwargs`` are ``lambda_``, ``rho`` and ``num_updates``, see :class:`~rl_agg.gates.GainThreshold`.
    """

    settings_class, agents_class, default_module = DaviaSettings, DaviaAgents, LinearModule
    features: ArrayLike | None

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or DAVIA)

    def training(self, *, features: ArrayLike | None = UNSET, **kwargs: Any) -> Self:
        """Set up the training.

        :param features: Of each cell ``[C, D]``; ``None``: one feature for each cell.
        :param kwargs: Those of :meth:`TabularConfig.training`.
        """
        super().training(**kwargs)
        return self.take(features=_listed(features))

    @property
    def model_derived(self) -> dict[str, Any]:
        """How many features there are, if not one for each cell."""
        return _num_features(self.features)


class DAVIA(TabularAlgorithm):
    """Distributed approximate value iteration."""

    config_class = DAVIAConfig
    server: DaviaLearner

    def make_server(self) -> DaviaLearner:
        """A linear function, with the model to act on it."""
        return DaviaLearner(self.agents.features, self.agents.model, **self.server_settings)


class TDEFConfig(TabularConfig):
    """Defines TD-EF: agents send compressed directions of temporal-difference learning, with error feedback.

    >>> TDEFConfig().training(compression="sign", lr=0.5).settings.scheme.error_feedback
    'classic'
    """

    settings_class, agents_class, default_module = TdefSettings, TdefAgents, LinearModule
    policy: str | ArrayLike
    features: ArrayLike | None

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or TDEF)

    def training(
        self,
        *,
        policy: str | ArrayLike = UNSET,
        features: ArrayLike | None = UNSET,
        compression: Compression = UNSET,
        compression_kwargs: Mapping[str, Any] = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training.

        :param policy: Whose values are sought: ``uniform``, or probabilities of actions ``[C, U]``. ``greedy``: control, the
            values of actions of the best policy.
        :param features: Of each cell ``[C, D]``; ``None``: one feature for each cell.
        :param compression: How directions are encoded; see :data:`~rl_agg.codecs.Compression`.
        :param compression_kwargs: Settings of ``compression``, and ``error_feedback``.
        :param kwargs: Those of :meth:`TabularConfig.training`; ``epsilon`` is of ``greedy`` agents.
        """
        super().training(**kwargs)
        self.take(compression=compression, compression_kwargs=compression_kwargs)
        return self.take(policy=_listed(policy), features=_listed(features))

    @property
    def model_derived(self) -> dict[str, Any]:
        """How many features there are, if not one for each cell, and whether each action has parameters."""
        is_control = isinstance(self.policy, str) and self.policy == "greedy"
        return {**_num_features(self.features), **({"per_action": True} if is_control else {})}


class TDEF(TabularAlgorithm):
    """Temporal-difference learning with compressed updates and error feedback."""

    config_class = TDEFConfig
    server: TdefLearner

    def make_server(self) -> TdefLearner:
        """A linear function of cells, or one for each action."""
        agents = self.agents
        return TdefLearner(agents.features, agents.policy, agents.episodes.shape[1], **self.server_settings)
