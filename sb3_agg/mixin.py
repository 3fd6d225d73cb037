"""Aggregation across the sub-environments of any SB3 on-policy algorithm, without a copy of its ``train()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from rl_agg import Exchange, Scheme, Signals
from rl_agg.codecs import Compression
from rl_agg.optimizers import fuse
from rl_agg.validation import check_count, check_flag
from rl_agg.weighting import Weighting
from sb3_agg.agents_mixin import MINIBATCHES, AgentsMixin
from sb3_agg.closed_form.training import OBJECTIVES, train_in_closed_form
from sb3_agg.hooks.base import Update
from sb3_agg.hooks.local import LocalUpdate
from sb3_agg.hooks.per_agent import PerAgentUpdate
from sb3_agg.hooks.weighted import WeightedUpdate
from sb3_agg.inheritance import check_overrides
from sb3_agg.local_mixin import LocalModelsMixin
from sb3_agg.patching import is_stock, temporarily
from sb3_agg.rollouts.losses import ppo_losses
from sb3_agg.rollouts.minibatches import Minibatches
from sb3_agg.rollouts.returns import (
    RolloutLength,
    RolloutReturns,
    explained_variance,
    finite_agents,
    normalize_advantages_per_agent,
)

ADVANTAGE_NORMS = ("agent", "stock")


class AggregationMixin(AgentsMixin, LocalModelsMixin):
    """Weigh each sub-environment's gradient by a rule. Put it before an on-policy algorithm in the list of bases.

    :param policy: As the algorithm's.
    :param env: As the algorithm's. Each of its A sub-environments is an agent.
    :param aggregation: How much each agent counts: a rule of :data:`rl_agg.RULES` (``sum``, ``mean``, ``samples``,
        ``r_weighted``, ``l_weighted``, ...), a combiner of :data:`rl_agg.COMBINERS` (``median``, ``trimmed_mean``, ``krum``,
        ``geometric_median``, ``mixtailor``, ``torchjd:NAME``), a callable ``signals -> weights [A]`` or a
        :class:`rl_agg.Combiner`; or a scheme of :data:`rl_agg.LOCAL_SCHEMES` (``fedavg``, ``fedprox``, ``actor_sum``,
        ``actor_mean``, ``a_pps``, ``rs_pps``, ``pp_pps``), which stands for a rule and a payload.
    :param aggregation_kwargs: Settings of what is named, and for a rule ``normalize``.
    :param communication: Which agents transmit: a gate of :data:`rl_agg.GATES` (``every``, ``lag``, ``random``).
    :param communication_kwargs: Settings of the gate.
    :param compression: How a message is encoded: a codec of :data:`rl_agg.CODECS` (``identity``, ``float16``, ``bfloat16``,
        ``top_k``, ``random_k``, ``sign``, ``quantize``, ``ternary``), or several, one for what the other leaves:
        ``("top_k", "float16")``.
    :param compression_kwargs: Settings of the codec, and ``error_feedback`` (``"classic"``, ``"ef21"`` or ``False``), which is
        ``"classic"`` where the codec is lossy.
    :param payload: What agents send: ``"gradients"``, or ``"parameters"``: each agent then has parameters of its own, and the
        policy holds their average. Or a :class:`~rl_agg.payloads.Payload`.
    :param interval: Of gradients, optimiser steps between two exchanges, with gradients accumulated in between; of parameters,
        updates (rollouts with all their epochs) between two merges.
    :param broadcast_compression: The codec of the parameters that the learner sends to the agents, or several. Agents act by,
        and differentiate at, what they decode, which the policy holds.
    :param broadcast_compression_kwargs: Settings of that codec.
    :param budget_bytes_per_update: Bytes that all agents together may send in an update (a rollout with all its epochs), on
        average: ``fraction`` of ``top_k`` and ``random_k``, or else ``xi`` of ``lag`` and ``expected_messages`` of ``random``,
        follow it.
    :param attack: Agents that send something else, for tests: an :class:`~rl_agg.attacks.Attack` or its settings.
    :param advantage_norm: ``"agent"`` normalises each agent's advantages over its own rollout; ``"stock"`` across agents in
        each minibatch, as SB3 does. ``normalize_advantage=False`` switches both off.
    :param minibatches: ``"stratified"`` takes equal parts of every agent's rollout into each minibatch, as near to
        ``batch_size`` as these allow; ``"stock"`` keeps SB3's order. ``batch_size=None`` puts every agent's whole rollout into
        one minibatch, as in the paper.
    :param min_episodes: > 0: collect until every agent has finished that many episodes and made ``n_steps`` steps, or the
        ``total_timesteps`` of ``learn()`` are used up.
    :param fused_optimizer: Let torch's Adam run as one kernel where the policy's optimiser is Adam and ``optimizer_kwargs``
        does not say otherwise.
    :param closed_form: Act and update by derivatives that are written out instead of torch's graph, where the policy is an
        ``MlpPolicy`` of which nothing was replaced: the same numbers up to rounding, several times as fast. Elsewhere the log
        says once why not.
    :param kwargs: Every other argument of the algorithm.
    :raises ValueError: if the rule, a setting or a choice is unknown.

    Source: Holen et al. (2023), algorithms 1 to 3.
    """

    sample_losses: ClassVar[Callable[..., torch.Tensor]] = staticmethod(ppo_losses)
    """The algorithm's loss per sample, see :mod:`sb3_agg.rollouts.losses`."""
    provides = frozenset({"explained_variance"})
    minibatches_class: ClassVar[type[Minibatches]] = Minibatches

    exchange: Exchange
    """Carries out what ``aggregation``, ``communication``, ``compression``, ``payload``, ``interval``,
    ``broadcast_compression`` and ``budget_bytes_per_update`` ask for."""
    normalize_advantage: bool
    _n_updates: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not issubclass(cls, OnPolicyAlgorithm):
            bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not AggregationMixin)
            raise TypeError(
                f"{cls.__name__}: aggregation weighs the gradients of an on-policy rollout (PPO, A2C, MaskablePPO, "
                f"RecurrentPPO); {bases} has none. OffPolicyAggregationMixin is for DQN, QRDQN, SAC, TD3, DDPG and TQC"
            )
        check_overrides(cls, AggregationMixin)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *args: Any,
        broadcast_compression: Compression = "identity",
        broadcast_compression_kwargs: dict[str, Any] | None = None,
        budget_bytes_per_update: float | None = None,
        advantage_norm: str = "agent",
        min_episodes: int = 0,
        fused_optimizer: bool = True,
        closed_form: bool = True,
        **kwargs: Any,
    ) -> None:
        self.broadcast_compression = broadcast_compression
        self.broadcast_compression_kwargs = broadcast_compression_kwargs
        self.budget_bytes_per_update = budget_bytes_per_update
        self.advantage_norm = advantage_norm
        self.min_episodes = min_episodes
        self.fused_optimizer = fused_optimizer
        self.closed_form = closed_form
        self._whole_rollouts = "batch_size" in kwargs and kwargs["batch_size"] is None
        if self._whole_rollouts:
            # PPO's constructor wants a number, and this one splits every rollout evenly. Its buffers know None
            kwargs["batch_size"] = max(2, kwargs.get("n_steps", 2))
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        if self._whole_rollouts:
            vars(self)["batch_size"] = None
        self._open_settings()
        self._check_settings()
        scheme = self._make_scheme()
        self._built["fused_optimizer"] = self.fused_optimizer
        if scheme.payload.local:
            self._check_local_models(scheme)
        self.exchange = self._make_exchange(scheme)
        self.ledger = self.exchange.ledger
        super()._setup_model()  # type: ignore[misc]
        if self.fused_optimizer:
            fuse(self.policy.optimizer)
        self._set_up_logging()
        self._set_up_closed_form()
        self._set_up_local_models()
        self._fit_to_agents(agent_returns=True, agent_weights=isinstance(scheme.rule, Weighting))
        self._rollout_returns = RolloutReturns(self.n_envs)
        self._awaits_train = self._is_learning = False
        self._updates_before: int | None = None
        self._reached: set[str] = set()

    def _make_scheme(self, **more: Any) -> Scheme:
        return super()._make_scheme(
            broadcast_compression=self.broadcast_compression,
            broadcast_compression_kwargs=self.broadcast_compression_kwargs,
            budget_bytes_per_update=self.budget_bytes_per_update,
            **more,
        )

    def _check_settings(self) -> None:
        self._check_choices(advantage_norm=ADVANTAGE_NORMS, minibatches=MINIBATCHES)
        check_count("min_episodes", self.min_episodes, least=0)
        for name in ("fused_optimizer", "closed_form"):
            check_flag(name, getattr(self, name))

    def _check_learning(self) -> None:
        """Refuse settings that cannot learn; called when learning starts, as a loaded model may only act."""
        self._check_settings()  # they may have been set since
        if self.exchange.scheme.payload.local:
            self._check_local_models(self.exchange.scheme)
        self.exchange.check()
        super()._check_learning()
        if self.minibatches != "stratified":
            return
        batch_size = getattr(self, "batch_size", None)
        if batch_size is not None and batch_size % self.n_envs:
            below = batch_size // self.n_envs * self.n_envs
            sizes = " or ".join(str(size) for size in (below, below + self.n_envs) if size)
            self._warn_once(
                f"batch_size={batch_size} does not split evenly among {self.n_envs} agents: minibatches hold equally many "
                f"samples of each rather than exactly {batch_size}; choose {sizes} for minibatches of one size, or "
                "minibatches='stock'",
            )
        get = type(self.rollout_buffer).get  # type: ignore[attr-defined]
        if not is_stock(get):
            raise ValueError(
                f"minibatches='stratified' would be served in place of those of {get.__qualname__}(); choose "
                "minibatches='stock', or a rollout_buffer_class whose get() is SB3's"
            )

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        """As SB3's, but a ``train()`` that went round the aggregation raises."""
        self._is_learning = True
        self._reached.clear()
        try:
            learned: Self = super().learn(*args, **kwargs)  # type: ignore[misc]
            self._check_trained()
        finally:
            self._is_learning = False
        return learned

    @property
    def _needs(self) -> frozenset[str]:
        return self.exchange.scheme.needs

    # Collecting -----------------------------------------------------------------------------------------------------------

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[int, BaseCallback]:
        self._check_learning()
        self._awaits_train, self._updates_before = False, None
        if reset_num_timesteps:  # a new run, for which SB3 forgets its episodes too
            self._forget_returns()
        set_up: tuple[int, BaseCallback] = super()._setup_learn(  # type: ignore[misc]
            total_timesteps, callback, reset_num_timesteps, *args, **kwargs
        )
        return set_up

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
        *args: Any,
        **kwargs: Any,
    ) -> bool:
        """Collect as SB3 does, noting each agent's returns, and longer where ``min_episodes`` asks for it."""
        self._check_trained()
        self._reached.add("collect_rollouts")
        stretches = self.min_episodes > 0
        self._rollout_returns = RolloutReturns(env.num_envs, only_reported=stretches and self._has_monitor())
        if stretches:
            n_rollout_steps = RolloutLength(n_rollout_steps, rollout_buffer, self._episodes_are_missing)
        else:
            rollout_buffer.buffer_size = n_rollout_steps  # a rollout before may have been longer
        with self._own_acting():
            collected: bool = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps, *args, **kwargs)  # type: ignore[misc]
        self._awaits_train = collected and self._is_learning  # whoever collects by hand need not train
        self._updates_before = self._n_updates
        return collected

    def _check_trained(self) -> None:
        if self._awaits_train or self._updates_before not in (None, self._n_updates):
            raise RuntimeError(
                f"{type(self).__name__}.train() did not call AggregationMixin.train(), so nothing was aggregated; call "
                "super().train(), and name the mixin before the algorithm in the bases"
            )

    def _check_collected(self) -> None:
        returns = "returns" in self._needs or self.min_episodes > 0
        needed = {"collect_rollouts": returns or self._local_models is not None, "_update_info_buffer": returns}
        for name in needed:
            if self._is_learning and needed[name] and name not in self._reached:
                raise RuntimeError(
                    f"{type(self).__name__}.{name}() did not call AggregationMixin.{name}(), so the agents' returns, or the "
                    f"parameters that they act by, are not theirs; call super().{name}() there, and self.{name}() in a loop "
                    "of your own"
                )

    def _episodes_are_missing(self) -> bool:
        enough = self._rollout_returns.num_episodes.min() >= self.min_episodes
        return not enough and self.num_timesteps < self._total_timesteps  # type: ignore[attr-defined]

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_] | None = None) -> None:
        super()._update_info_buffer(infos, dones)  # type: ignore[misc]
        self._reached.add("_update_info_buffer")
        if self._acting is not None and dones is not None:
            self._acting.note_step(infos, dones)
        if dones is not None and not self._rollout_returns.add(infos, dones):
            self._warn_of_missing_returns()

    # Updating -------------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Update the policy by the algorithm's own ``train()``, each agent's gradient weighed by the rule."""
        self._awaits_train, self._updates_before = False, None
        self._check_built()
        self._check_collected()
        self._follow_policy()
        buffer: RolloutBuffer = self.rollout_buffer  # type: ignore[attr-defined]
        signals = self._signals(buffer)
        self.exchange.begin_update(signals)
        present = (~signals.masked()).cpu().numpy()
        self._warn_about(signals, present)
        if not present.any():
            self.exchange.end_update()
            self._record(None)
            return
        # A single step has no spread, and is normalised across agents
        per_agent = self.normalize_advantage and self.advantage_norm == "agent" and buffer.buffer_size > 1
        if per_agent:
            normalize_advantages_per_agent(buffer)
        minibatches = self.minibatches_class(buffer, present, stratified=self.minibatches == "stratified")
        update = self._make_update(signals, minibatches)
        form = self._find_closed_form(steps=self._local_models is None)
        with temporarily(self, normalize_advantage=self.normalize_advantage and not per_agent):
            if form is not None:
                train_in_closed_form(self, form, OBJECTIVES[self._stock_train](self), update)
            else:
                with update.hooked(self.policy):
                    super().train()  # type: ignore[misc]
        if not update.num_evaluated:
            raise RuntimeError(f"{type(self).__name__}.train() never called policy.evaluate_actions, so nothing was weighed")
        update.finish()
        self.exchange.end_update()
        self._record(update)
        if self._local_models is not None:
            self._record_local_models(self._local_models)

    @property
    def _stock_train(self) -> Callable[..., None]:
        """The ``train()`` that is next to ours in the order of classes."""
        classes = type(self).__mro__
        after = classes[classes.index(AggregationMixin) + 1 :]
        train: Callable[..., None] = next(vars(kind)["train"] for kind in after if "train" in vars(kind))
        return train

    def _make_update(self, signals: Signals, minibatches: Minibatches) -> Update:
        parts = (self.exchange, signals, minibatches, self._sample_losses, self.max_grad_norm)
        if self._local_models is not None:
            return LocalUpdate(*parts, policy=self.policy, models=self._local_models)
        if self.exchange.weights_only:
            return WeightedUpdate(*parts)
        return PerAgentUpdate(*parts, policy=self.policy)

    def _signals(self, buffer: RolloutBuffer) -> Signals:
        returns = self._rollout_returns.means(self.agent_returns)
        self.agent_returns = np.where(np.isinf(returns), self.agent_returns, returns)
        device = self.device  # type: ignore[attr-defined]
        explains = "explained_variance" in self.exchange.scheme.needs
        return Signals(
            returns=torch.as_tensor(returns, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device),
            num_samples=torch.full((self.n_envs,), float(buffer.buffer_size), device=device),
            present=torch.as_tensor(finite_agents(buffer), device=device),
            explained_variance=explained_variance(buffer).to(device) if explains else None,
        )

    def _sample_losses(self, *args: Any) -> torch.Tensor:
        return type(self).sample_losses(self, *args)
