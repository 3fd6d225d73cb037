"""The settings of QMIX, VDN and independent Q-learning."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_agg.payloads import PERIODIC_SHARINGS, PeriodicSharing
from rl_agg.validation import build, unknown_choice
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.envs.team.registry import make_team_env
from rllib_agg.envs.team.team import TeamEnv, TeamSpec
from rllib_agg.qmix.checks import check_config, check_shape
from rllib_agg.qmix.env_runner import TeamEnvRunner
from rllib_agg.qmix.episodes import precision
from rllib_agg.qmix.learner import QMIXLearner
from rllib_agg.qmix.networks import AgentNetworks
from rllib_agg.qmix.paper import MODEL, TABLE_1, UPDATES_OF_TARGETS
from rllib_agg.qmix.replay import ReplaySettings
from rllib_agg.qmix.rollout import TeamPlayers
from rllib_agg.server_loop.config import CentralConfig

BY_REWARD = ("rs_pps", "pp_pps")
"""Where it matters what each agent earned."""

CREDITS_BY_REWARD = ("contribution", "env")
"""What is asked for there, the best first."""


class QMIXConfig(CentralConfig):
    """Defines QMIX: a team of recurrent networks whose values a monotonic mixer makes one.

    An update's batch, ``train_batch_size_per_learner``, counts episodes.

    >>> config = QMIXConfig().environment("matrix/two_step").training(mixer="vdn", parameter_sharing="a_pps")
    >>> config.sharing_for(config.open_agents().env.spec).interval
    300
    """

    model_defaults: ClassVar[dict[str, Any]] = {"hidden_dim": 64, "hypernet_dim": 64, "orthogonal_init": False}
    model_settings = frozenset(model_defaults)

    def __init__(self, algo_class: type | None = None) -> None:
        from rllib_agg.qmix.algorithm import QMIX

        super().__init__(algo_class=algo_class or QMIX)
        self.env_runner_cls = TeamEnvRunner
        self.num_envs_per_env_runner = 8
        self.gamma, self.lr, self.grad_clip = 0.99, 5e-4, 10.0
        self.train_batch_size_per_learner = 32
        self.mixer: str | None = "qmix"
        self.mixing_embed_dim = 32
        self.double_q = True
        self.target_network_update_freq = 200
        self.tau = 1.0
        self.td_lambda = 0.0
        self.bootstrap_at_time_limit = True
        self.reward_scale = 1.0
        self.epsilon: Any = [[0, 1.0], [50_000, 0.05]]
        self.num_steps_sampled_before_learning_starts = 0
        self.updates_per_episode = 1.0
        self.rollouts_per_iteration: int | None = None
        self.replay_buffer_config: Mapping[str, Any] = {}
        self.store_buffer_in_checkpoints = True
        self.agent_ids: bool | None = None
        self.num_torch_threads = 1
        self.parameter_sharing = "none"
        self.sharing_interval = 300
        self.shared_layers: Sequence[str] = ("head",)
        self.same_init = True
        self.credit: str | None = None
        self.within_type = False
        self.merge_targets = False
        self.moments = "keep"
        self.reward_buffer_size = 96

    def training(
        self,
        *,
        mixer: str | None = UNSET,
        mixing_embed_dim: int = UNSET,
        double_q: bool = UNSET,
        target_network_update_freq: int = UNSET,
        tau: float = UNSET,
        td_lambda: float = UNSET,
        bootstrap_at_time_limit: bool = UNSET,
        reward_scale: float = UNSET,
        epsilon: Any = UNSET,
        num_steps_sampled_before_learning_starts: int = UNSET,
        updates_per_episode: float = UNSET,
        rollouts_per_iteration: int | None = UNSET,
        replay_buffer_config: Mapping[str, Any] = UNSET,
        store_buffer_in_checkpoints: bool = UNSET,
        agent_ids: bool | None = UNSET,
        num_torch_threads: int = UNSET,
        parameter_sharing: str = UNSET,
        sharing_interval: int = UNSET,
        shared_layers: Sequence[str] = UNSET,
        same_init: bool = UNSET,
        credit: str | None = UNSET,
        within_type: bool = UNSET,
        merge_targets: bool = UNSET,
        moments: str = UNSET,
        reward_buffer_size: int = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training.

        :param mixer: ``qmix``, ``vdn`` (the sum), or ``None``: each agent learns from the team's reward by itself.
        :param mixing_embed_dim: Units of the mixer.
        :param double_q: Choose the next actions by the online networks, and judge them by the targets.
        :param target_network_update_freq: Gradient steps between two updates of the targets.
        :param tau: How far an update draws them; 1: all the way.
        :param td_lambda: Between one step's targets, 0, and those of all, 1.
        :param bootstrap_at_time_limit: Whether an episode that was cut off goes on in its last value. Without it what comes
            after the limit counts as nothing: not what a task says whose limit is no part of it, but values stay bound to
            rewards where most episodes are cut off.
        :param reward_scale: What rewards are multiplied by before they are learned from. Values begin near 1, and first
            drift up where returns are far smaller: 10 makes SMAX's returns those of SMAC.
        :param epsilon: The share of random actions: a number, or ``[[env steps, number], ...]`` with lines between.
        :param num_steps_sampled_before_learning_starts: Env steps; there must be a batch of episodes in any case.
        :param updates_per_episode: Gradient steps for each episode that was played.
        :param rollouts_per_iteration: Groups of ``num_envs_per_env_runner`` episodes in an iteration, which env runners share
            out; ``None``: one for each env runner.
        :param replay_buffer_config: See :class:`~rllib_agg.qmix.replay.ReplaySettings`: ``capacity`` in episodes, ``dtype``,
            ``max_gb``.
        :param store_buffer_in_checkpoints: Without it, checkpoints are small, and a restored run has to fill it again.
        :param agent_ids: Tell networks which agent they act for; ``None``: only one that is shared.
        :param num_torch_threads: For acting and learning.
        :param parameter_sharing: ``none``, ``full`` (one network for all agents), ``a_pps``, ``rs_pps`` or ``pp_pps``, see
            :mod:`rl_agg.payloads`.
        :param sharing_interval: Gradient steps between two merges.
        :param shared_layers: What ``pp_pps`` merges, of ``feature``, ``rnn`` and ``head``: by the paper the head, by its
            code the other two.
        :param same_init: Let all agents begin with the same parameters: networks that differ in how their units are ordered
            have no meaningful average.
        :param credit: Whose merit rewards are: ``contribution``, ``env`` or ``team``; ``None``: for ``rs_pps`` and ``pp_pps``
            the first of them that the environment can tell.
        :param within_type: Merge only agents of one type.
        :param merge_targets: Merge the targets as well.
        :param moments: What becomes of the optimiser's moments of merged parameters: ``keep``, ``merge`` or ``reset``.
        :param reward_buffer_size: Over how many episodes an agent's rewards are summed up.
        :param kwargs: RLlib's own, of which ``gamma``, ``lr``, ``grad_clip`` and ``train_batch_size_per_learner`` count.
        """
        super().training(**kwargs)
        if hasattr(epsilon, "tolist"):  # an array, which RLlib's configs cannot compare
            epsilon = epsilon.tolist()
        given = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        return self.take(**given)

    def faithful(self, targets: str = "hard") -> Self:
        """Set what table 1 of the PPS-QMIX paper sets.

        :param targets: Updated ``hard``, every 200 gradient steps, or ``soft``; the table has both.
        :raises ValueError: if it is none of these.
        """
        if targets not in UPDATES_OF_TARGETS:
            raise unknown_choice("targets", targets, UPDATES_OF_TARGETS)
        self.change_model(MODEL)
        return self.training(**TABLE_1, **UPDATES_OF_TARGETS[targets])

    @property
    def epsilon_schedule(self) -> list[tuple[float, float]]:
        """Env steps and the share of random actions there."""
        if isinstance(self.epsilon, Sequence):
            return [(float(step), float(value)) for step, value in self.epsilon]
        return [(0.0, float(self.epsilon))]

    @property
    def replay_settings(self) -> ReplaySettings:
        """How much is kept.

        :raises ValueError: if a setting is unknown or out of range.
        """
        return build("replay_buffer_config", ReplaySettings, self.replay_buffer_config)

    def sharing_for(self, spec: TeamSpec) -> PeriodicSharing | None:
        """When and how agents merge, ``None``: they do not.

        :raises ValueError: if a setting is out of range.
        """
        if self.parameter_sharing not in PERIODIC_SHARINGS:
            return None
        return PeriodicSharing(
            self.parameter_sharing,
            interval=self.sharing_interval,
            shared_layers=tuple(self.shared_layers),
            moments=self.moments,
            targets=self.merge_targets,
            types=spec.agent_types if self.within_type else None,
        )

    def credit_for(self, spec: TeamSpec) -> str:
        """Whose merit rewards are in an environment."""
        if self.credit is not None:
            return self.credit
        choices = CREDITS_BY_REWARD if self.parameter_sharing in BY_REWARD else ()
        return next((credit for credit in choices if credit in spec.credits), "team")

    def open_team(self) -> TeamEnv:
        """Make the environment's copies, with the best credit that they can tell.

        :raises ValueError: if there is no such environment, credit or setting.
        """
        by_reward = self.parameter_sharing in BY_REWARD
        choices = [self.credit] if self.credit is not None else [*(CREDITS_BY_REWARD if by_reward else ()), "team"]
        for credit in choices[:-1]:
            with contextlib.suppress(ValueError):  # whatever else is wrong is told by the last of them
                return self._make(credit)
        return self._make(choices[-1])

    def _make(self, credit: str) -> TeamEnv:
        return make_team_env(self.env, self.num_envs_per_env_runner, credit=credit, settings=dict(self.env_config))

    def open_agents(self, worker_index: int = 0) -> TeamPlayers:
        """Make what plays.

        :param worker_index: Not looked at: which env runner plays changes nothing.
        """
        env = self.open_team()
        check_shape(self, env.spec)
        networks = AgentNetworks(
            env.spec.num_agents,
            env.spec.num_actions,
            env.spec.observation_size,
            hidden=self.model_config["hidden_dim"],
            **self._kind_of_networks,
        )
        return TeamPlayers(env, networks, dtype=precision(self.replay_settings.dtype), threads=self.num_torch_threads)

    @property
    def _kind_of_networks(self) -> dict[str, bool]:
        shared = self.parameter_sharing == "full"
        return {"shared": shared, "agent_ids": shared if self.agent_ids is None else self.agent_ids}

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The agents' networks and the mixer."""
        from rllib_agg.qmix.module import QMIXModule

        return RLModuleSpec(module_class=QMIXModule)

    @property
    def model_derived(self) -> dict[str, Any]:
        """What the module has to know besides."""
        return {"mixer": self.mixer, "mixing_embed_dim": self.mixing_embed_dim, **self._kind_of_networks}

    def get_default_learner_class(self) -> type:
        """Learns from whole episodes."""
        return QMIXLearner

    def validate(self) -> None:
        """Check the settings.

        :raises ValueError: naming the one that is wrong.
        """
        super().validate()
        check_config(self)
