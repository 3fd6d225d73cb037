"""The settings of QMIX's training and their defaults."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from rl_agg.codecs import Compression
from rl_agg.scheme import Aggregation
from rl_agg.validation import build, check_choice
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.qmix.presets import DEFAULTS, MODELS, PRESETS, UPDATES_OF_TARGETS, WEIGHTS_OF_QTRAN
from rllib_agg.qmix.replay import ReplaySettings
from rllib_agg.server_loop.config import ServerConfig


class QMIXSettings(ServerConfig):
    """What can be set. An update's batch, ``train_batch_size_per_learner``, counts episodes."""

    model_defaults: ClassVar[dict[str, Any]] = {
        "hidden_dim": 64,
        "hypernet_dim": 64,
        "central_dim": 256,
        "orthogonal_init": False,
        "mixer_init_scale": 0.1,
    }
    model_settings = frozenset(model_defaults)
    average_decay: Any
    credit: Any
    epsilon: Any
    mixer: Any
    mixing_embed_dim: Any
    parameter_sharing: Any
    replay_buffer_config: Any

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.take(**copy.deepcopy(DEFAULTS))
        self.num_envs_per_env_runner, self.num_torch_threads = 8, 1
        self.rollouts_per_iteration = self.agent_ids = self.credit = None
        self.num_steps_sampled_before_learning_starts = 0
        self.store_buffer_in_checkpoints, self.merge_targets, self.within_type = True, False, False
        self.communication, self.compression, self.broadcast_compression = "every", "identity", "identity"
        self.parameter_sharing_kwargs = self.communication_kwargs = self.compression_kwargs = None
        self.broadcast_compression_kwargs = self.budget_bytes_per_update = None
        self.shared_layers, self.moments = None, "keep"
        self.weighting = self.weighting_alpha = None
        self.take(**WEIGHTS_OF_QTRAN)

    def training(
        self,
        *,
        mixer: str | None = UNSET,
        mixing_embed_dim: int = UNSET,
        weighting: str | None = UNSET,
        weighting_alpha: float | None = UNSET,
        lambda_opt: float = UNSET,
        lambda_nopt: float = UNSET,
        double_q: bool = UNSET,
        target_network_update_freq: int = UNSET,
        tau: float = UNSET,
        average_decay: float | None = UNSET,
        td_lambda: float = UNSET,
        bootstrap_at_time_limit: bool | None = UNSET,
        reward_scale: float = UNSET,
        reward_normalization: str | None = UNSET,
        normalize_states: bool = UNSET,
        epsilon: Any = UNSET,
        num_steps_sampled_before_learning_starts: int = UNSET,
        updates_per_episode: float = UNSET,
        rollouts_per_iteration: int | None = UNSET,
        replay_buffer_config: Mapping[str, Any] = UNSET,
        store_buffer_in_checkpoints: bool = UNSET,
        agent_ids: bool | None = UNSET,
        num_torch_threads: int = UNSET,
        parameter_sharing: Aggregation = UNSET,
        parameter_sharing_kwargs: Mapping[str, Any] | None = UNSET,
        communication: str = UNSET,
        communication_kwargs: Mapping[str, Any] | None = UNSET,
        compression: Compression = UNSET,
        compression_kwargs: Mapping[str, Any] | None = UNSET,
        broadcast_compression: Compression = UNSET,
        broadcast_compression_kwargs: Mapping[str, Any] | None = UNSET,
        budget_bytes_per_update: float | None = UNSET,
        sharing_interval: int = UNSET,
        shared_layers: Sequence[str] | None = UNSET,
        same_init: bool = UNSET,
        credit: str | None = UNSET,
        within_type: bool = UNSET,
        merge_targets: bool = UNSET,
        moments: str = UNSET,
        reward_buffer_size: int = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training.

        :param mixer: ``qmix``, ``vdn`` (the sum), ``qtran`` (the sum agrees with a joint network at the best actions), or
            ``None``: each agent learns from the team's reward by itself.
        :param mixing_embed_dim: Units of the mixer, or of QTRAN's joint networks.
        :param weighting: Which joint actions count fully in the loss of ``mixer="qmix"``: ``optimistic`` (OW-QMIX) or
            ``central`` (CW-QMIX), see :mod:`rllib_agg.qmix.weighted`; ``None``: all.
        :param weighting_alpha: What the others count, in (0, 1]; ``None``: 0.5 with ``optimistic``, 0.75 with ``central``.
        :param lambda_opt: Weight of QTRAN's loss at greedy joint actions, see :mod:`rllib_agg.qmix.qtran`.
        :param lambda_nopt: Weight of its loss at joint actions that were taken.
        :param double_q: Choose the next actions by the online networks, and evaluate them by the targets.
        :param target_network_update_freq: Gradient steps between two updates of the targets.
        :param tau: How far an update moves them towards the online networks; 1: all the way.
        :param average_decay: Without exploration, act by an average of the networks over gradient steps, with this share of
            the old at each, in [0, 1); ``None``: act by the last ones.
        :param td_lambda: Between one-step targets, 0, and Monte Carlo targets, 1.
        :param bootstrap_at_time_limit: Whether the target of an episode that was cut off includes its last value. Without it
            the time limit counts as an end: wrong for tasks whose limit is only technical, but values then stay bounded by
            rewards where most episodes are cut off. ``None``: as the environment says, see
            :class:`~rllib_agg.envs.team.interface.TeamSpec`.
        :param reward_scale: Factor on rewards in the loss.
        :param reward_normalization: ``scale``: divide rewards by their deviation in recent episodes, as many as the replay
            holds; ``standardize``: and subtract their mean first; ``None``: take them as they are.
        :param normalize_states: Standardise the states that the mixer sees, in the same way.
        :param epsilon: The share of random actions: a number, or ``[[env steps, number], ...]``, interpolated linearly.
        :param num_steps_sampled_before_learning_starts: Env steps; there must be a batch of episodes in any case.
        :param updates_per_episode: Gradient steps per episode.
        :param rollouts_per_iteration: Groups of ``num_envs_per_env_runner`` episodes in an iteration, distributed over the env
            runners; ``None``: four for each env runner.
        :param replay_buffer_config: See :class:`~rllib_agg.qmix.replay.ReplaySettings`: ``capacity`` in episodes, ``dtype``,
            ``max_gb``.
        :param store_buffer_in_checkpoints: Without it, checkpoints are small, and a restored run has to fill it again.
        :param agent_ids: Give networks a one-hot agent number as input; ``None``: only a network that agents share.
        :param num_torch_threads: For acting and learning.
        :param parameter_sharing: ``none``, ``full`` (one network for all agents), ``a_pps``, ``rs_pps`` or ``pp_pps``, see
            :mod:`rl_agg.local_schemes`; or any rule or combiner, see :data:`~rl_agg.scheme.Aggregation`.
        :param parameter_sharing_kwargs: Settings of the rule or combiner.
        :param communication: Which agents send their networks at a merge: a gate, see :data:`rl_agg.GATES`.
        :param communication_kwargs: Its settings.
        :param compression: How networks are encoded: see :data:`~rl_agg.codecs.Compression`.
        :param compression_kwargs: Its settings, and ``error_feedback``.
        :param broadcast_compression: The codec of the merged networks that agents get back.
        :param broadcast_compression_kwargs: Its settings.
        :param budget_bytes_per_update: What the agents of a group together may send in an update, which is a gradient step, on
            average: see :mod:`rl_agg.byte_budget`.
        :param sharing_interval: Gradient steps between two merges.
        :param shared_layers: What is merged, of ``feature``, ``rnn`` and ``head``; ``None``: all, or with ``pp_pps`` the
            head. The paper's code for ``pp_pps`` is ``a_pps`` of the other two.
        :param same_init: Let all agents begin with the same parameters: networks that differ in how their units are ordered
            have no meaningful average.
        :param credit: How rewards are attributed to agents: ``contribution``, ``env`` or ``team``; ``None``: the first of
            them that the environment supports where the rule reads returns, otherwise ``team``.
        :param within_type: Merge only agents of one type.
        :param merge_targets: Merge the targets as well.
        :param moments: What becomes of the optimiser's moments of merged parameters: ``keep``, ``merge`` or ``reset``.
        :param reward_buffer_size: Number of episodes over which an agent's rewards are summed.
        :param kwargs: RLlib's own, of which ``gamma``, ``lr``, ``grad_clip`` and ``train_batch_size_per_learner`` count.
        """
        super().training(**kwargs)
        if hasattr(epsilon, "tolist"):  # an array, which RLlib's configs cannot compare
            epsilon = epsilon.tolist()
        return self.take_arguments(locals())

    def preset(self, name: str) -> Self:
        """Set all that a source sets: ``paper``, ``pymarl2`` or ``epymarl``, see :data:`~rllib_agg.qmix.presets.PRESETS`.

        :raises ValueError: if it is none of these.
        """
        check_choice("preset", name, PRESETS)
        self.change_model({**self.model_defaults, **MODELS[name]})
        return self.training(**copy.deepcopy(PRESETS[name]))

    def faithful(self, targets: str = "hard") -> Self:
        """Set what table 1 of the PPS-QMIX paper sets.

        :param targets: Updated ``hard``, every 200 gradient steps, or ``soft``; the table has both.
        :raises ValueError: if it is none of these.
        """
        check_choice("targets", targets, UPDATES_OF_TARGETS)
        return self.preset("paper").training(**UPDATES_OF_TARGETS[targets])

    @property
    def epsilon_schedule(self) -> list[tuple[float, float]]:
        """Env steps and the share of random actions there."""
        if isinstance(self.epsilon, Sequence):
            return [(float(step), float(value)) for step, value in self.epsilon]
        return [(0.0, float(self.epsilon))]

    @property
    def replay_settings(self) -> ReplaySettings:
        """How much is kept; ``ValueError`` if a setting is unknown or out of range."""
        return build("replay_buffer_config", ReplaySettings, self.replay_buffer_config)
