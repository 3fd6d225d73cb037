"""The settings of tabular algorithms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor

from rl_agg.tabular import DaviaAgents, DaviaSettings, QAgents, QSettings, TabularEpisodes
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.server_loop.config import EpisodicConfig


class TabularConfig(EpisodicConfig):
    """What they have in common: agents that act greedily but for a share of random actions."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.population = 5
        self.gamma = 0.9
        self.epsilon = 0.1
        self.communication_kwargs: Mapping[str, Any] = {}

    def training(self, *, epsilon: float = UNSET, communication_kwargs: Mapping[str, Any] = UNSET, **kwargs: Any) -> Self:
        """Set up the training.

        :param epsilon: The agents' share of random actions.
        :param communication_kwargs: Settings of the gate.
        :param kwargs: Those of :meth:`EpisodicConfig.training` and RLlib's own, of which ``gamma`` and ``lr`` count.
        """
        super().training(**kwargs)
        return self.take(epsilon=epsilon, communication_kwargs=communication_kwargs)

    @property
    def settings(self) -> QSettings | DaviaSettings:
        """What centre and agents agree on.

        :raises ValueError: if one of them cannot be.
        """
        raise NotImplementedError

    def open_episodes(self, worker_index: int) -> TabularEpisodes:
        """Make what runs episodes on a table."""
        environments = self.open_environments(worker_index)
        return TabularEpisodes(environments, gamma=self.gamma, max_episode_steps=self.max_episode_steps)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """A table."""
        from rllib_agg.tabular.module import TableModule

        return RLModuleSpec(module_class=TableModule)

    def validate(self) -> None:
        """Check the settings.

        :raises ValueError: naming the one that is wrong.
        """
        _ = self.settings  # builds, and so checks, all of them; the module's are derived from some
        super().validate()
        if self.explore:
            raise ValueError(f"{type(self).__name__}'s agents explore by epsilon; leave explore=False")


class DQLConfig(TabularConfig):
    """Defines distributed Q-learning: every agent sends all samples of its episode.

    >>> DQLConfig().environment("rl_agg/SimpleGrid-v0").training(lr=1.0).settings.lr
    1.0
    """

    triggered: ClassVar[bool] = False
    """Whether agents send only samples of large error."""

    def __init__(self, algo_class: type | None = None) -> None:
        from rllib_agg.tabular.algorithm import DQL

        super().__init__(algo_class=algo_class or DQL)
        self.lr = QSettings().lr
        self.initial_value = QSettings().initial_value

    def training(self, *, initial_value: float = UNSET, **kwargs: Any) -> Self:
        """Set up the training.

        :param initial_value: Of every cell and action; 0 makes agents explore where rewards are negative.
        :param kwargs: Those of :meth:`TabularConfig.training`.
        """
        super().training(**kwargs)
        return self.take(initial_value=initial_value)

    @property
    def settings(self) -> QSettings:
        """What centre and agents agree on."""
        return self.collect(QSettings)

    def open_agents(self, worker_index: int = 0) -> QAgents:
        """Make what runs episodes."""
        return QAgents(self.open_episodes(worker_index), self.settings)


class EBCDQLConfig(DQLConfig):
    """Defines event-based communication in distributed Q-learning: agents send samples of large error.

    ``communication_kwargs`` are ``rho``, ``beta`` and ``epsilon``, see :class:`~rl_agg.gates.TdErrorTrigger`.
    """

    triggered = True

    def __init__(self, algo_class: type | None = None) -> None:
        from rllib_agg.tabular.algorithm import EBCDQL

        super().__init__(algo_class=algo_class or EBCDQL)


class DAVIAConfig(TabularConfig):
    """Defines distributed approximate value iteration: agents send gradients of large gain. The environment must have a model.

    ``communication_kwargs`` are ``lambda_``, ``rho`` and ``num_updates``, see :class:`~rl_agg.gates.GainThreshold`.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from rllib_agg.tabular.algorithm import DAVIA

        super().__init__(algo_class=algo_class or DAVIA)
        self.lr = DaviaSettings().lr
        self.features: ArrayLike | None = None

    def training(self, *, features: ArrayLike | None = UNSET, **kwargs: Any) -> Self:
        """Set up the training.

        :param features: Of each cell ``[C, D]``; ``None``: one of their own for each.
        :param kwargs: Those of :meth:`TabularConfig.training`.
        """
        super().training(**kwargs)
        if isinstance(features, np.ndarray | Tensor):  # which RLlib's configs cannot compare
            features = features.tolist()
        return self.take(features=features)

    @property
    def settings(self) -> DaviaSettings:
        """What centre and agents agree on."""
        return self.collect(DaviaSettings)

    def open_agents(self, worker_index: int = 0) -> DaviaAgents:
        """Make what runs episodes."""
        return DaviaAgents(self.open_episodes(worker_index), self.settings)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """A linear function."""
        from rllib_agg.tabular.module import LinearModule

        return RLModuleSpec(module_class=LinearModule)

    @property
    def model_derived(self) -> dict[str, Any]:
        """How many features there are, if not one for each cell."""
        return {} if self.features is None else {"num_features": np.shape(self.features)[-1]}
