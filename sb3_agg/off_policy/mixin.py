"""Aggregation across the sub-environments of SB3's off-policy algorithms, without a copy of their ``train()``."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFrequencyUnit

from rl_agg import Exchange, Ledger, Scheme
from rl_agg.diagnostics import weight_summary
from rl_agg.optimizers import fuse
from rl_agg.validation import check_count, check_flag
from rl_agg.weighting import Weighting
from sb3_agg.agents_mixin import MINIBATCHES, AgentsMixin
from sb3_agg.inheritance import check_overrides
from sb3_agg.off_policy.algorithms import ALGORITHMS, Algorithm, algorithm_of
from sb3_agg.off_policy.hooks import Update
from sb3_agg.off_policy.minibatches import ReplayMinibatches
from sb3_agg.off_policy.per_agent import PerAgentUpdate
from sb3_agg.off_policy.returns import RecentReturns
from sb3_agg.off_policy.weighted import WeightedUpdate
from sb3_agg.vec_envs.normalize import AgentVecNormalize


class OffPolicyAggregationMixin(AgentsMixin):
    """Weigh each sub-environment's gradients by a rule. Put it before an off-policy algorithm in the list of bases.

    A sample's agent is the sub-environment that it came from. Actor and critics, each with its own optimiser, are exchanged by
    themselves, with the same weights.

    :param policy: As the algorithm's.
    :param env: As the algorithm's. Each of its A sub-environments is an agent.
    :param aggregation: As of :class:`~sb3_agg.mixin.AggregationMixin`, as are ``aggregation_kwargs``, ``communication``,
        ``communication_kwargs``, ``compression``, ``compression_kwargs`` and ``attack``. Agents have no parameters of their
        own here, so that ``fedavg`` and its like are refused.
    :param payload: ``"gradients"``, or a :class:`~rl_agg.payloads.Payload` that is made of them.
    :param interval: Optimiser steps between two exchanges, with gradients accumulated in between.
    :param minibatches: ``"stratified"`` draws ``batch_size / A`` samples of every agent, rounded, and at least one;
        ``"stock"`` draws as SB3 does, where an agent's part is left to chance.
    :param return_window: Episodes, >= 1. An agent's return is the mean raw one of so many of its latest.
    :param fused_optimizer: Let torch's Adam run as one kernel where a network's optimiser is Adam and ``optimizer_kwargs``
        does not say otherwise. ``None``: with stratified minibatches, so that stock ones and ``mean`` are SB3's to the bit.
    :param kwargs: Every other argument of the algorithm.
    :raises ValueError: if the rule, a setting or a choice is unknown, or agents would have parameters of their own.

    Source: Holen et al. (2023), algorithms 1 to 3, for losses of a replay buffer's samples.
    """

    algorithm: ClassVar[Algorithm]
    """What the hooks know of the algorithm, see :data:`~sb3_agg.off_policy.algorithms.ALGORITHMS`."""
    replay_buffer: ReplayBuffer | None
    exchanges: dict[str, Exchange]
    """Carry out what the settings ask for, by the name of the optimiser that steps with what they merge."""
    _n_updates: int
    batch_size: int

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = algorithm_of(cls)
        if known is None:
            bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not OffPolicyAggregationMixin)
            reason = f"{bases} has no replay buffer"
            if issubclass(cls, OffPolicyAlgorithm):
                reason = (
                    f"the loss of {bases} is not known to be a mean over samples, each of which reaches the parameters "
                    "through outputs of its own (CrossQ's is not: its critic normalises a sample by the others)"
                )
            choices = ", ".join(kind.__name__ for kind in ALGORITHMS)
            raise TypeError(f"{cls.__name__}: {reason}; choose from {choices} and what derives from them")
        cls.algorithm = known
        check_overrides(cls, OffPolicyAggregationMixin)

    def __init__(
        self,
        policy: Any,
        env: Any,
        *args: Any,
        return_window: int = 10,
        fused_optimizer: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.return_window = return_window
        self.fused_optimizer = fused_optimizer
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        self._open_settings()
        self._check_choices(minibatches=MINIBATCHES)
        check_count("return_window", self.return_window, least=1)
        if self.fused_optimizer is not None:
            check_flag("fused_optimizer", self.fused_optimizer)
        scheme = self._make_scheme()
        self._check_scheme(scheme)
        self._built["fused_optimizer"] = self.fused_optimizer
        first, *others = dict.fromkeys(part.optimizer for part in self.algorithm.parts)
        self._update: Update | None = None
        exchange = self._make_exchange(scheme)
        self.exchanges = {first: exchange, **{name: self._make_exchange(scheme, exchange.ledger) for name in others}}
        vars(self).pop("ledger", None)  # a loaded model's counts
        super()._setup_model()  # type: ignore[misc]
        if self.minibatches == "stratified" if self.fused_optimizer is None else self.fused_optimizer:
            for name in self.exchanges:
                fuse(recursive_getattr(self, name))
        self._set_up_logging()
        self._fit_to_agents(agent_weights=isinstance(scheme.rule, Weighting))
        self._fit_returns()
        self._minibatches: ReplayMinibatches | None = None
        self._num_updates_seen = self._n_updates

    def _fit_returns(self) -> None:
        """Fit the agents' returns, of a loaded model maybe, to their number."""
        known = RecentReturns(self.n_envs, self.return_window)
        if hasattr(self, "recent_returns"):
            known.values = self.recent_returns
        self._keep(known.resized(self.n_envs, self.return_window))

    def _fit_window(self) -> None:
        """Follow a ``return_window`` that has been set since."""
        if self.recent_returns.shape[1] != self.return_window:
            check_count("return_window", self.return_window, least=1)
            self._fit_returns()

    def _forget_returns(self) -> None:
        self._keep(RecentReturns(self.n_envs, self.return_window))

    def _keep(self, returns: RecentReturns) -> None:
        self._returns = returns
        self.recent_returns: NDArray[np.float64] = returns.values
        """Raw returns of each agent's latest episodes ``[A, W]``, the latest first; NaN where it has none yet."""

    @property
    def agent_returns(self) -> NDArray[np.float64]:  # type: ignore[override]
        """Mean raw return of each agent's latest episodes ``[A]``, NaN where it has none yet."""
        means = self._returns.means()
        return np.where(np.isinf(means), np.nan, means)

    def _check_scheme(self, scheme: Scheme) -> None:
        if scheme.payload.local or scheme.payload.content != "gradients":
            raise ValueError(
                f"{self._scheme_as_given}: agents of {type(self).__name__} have no parameters of their own, which would need "
                "networks, targets, optimisers and, of SAC and TQC, an entropy coefficient for each; exchange gradients, or "
                "choose an on-policy algorithm"
            )

        if isinstance(scheme.rule, Weighting) and scheme.rule.remembered:
            raise ValueError(
                f"{self._scheme_as_given}: the rule follows {', '.join(sorted(scheme.rule.remembered))} from rollout to "
                f"rollout, which {type(self).__name__} does not have; choose another rule, or an on-policy algorithm"
            )

    def _exchanges(self) -> dict[str, Exchange]:
        return self.exchanges

    @property
    def ledger(self) -> Ledger:  # type: ignore[override]
        """Messages and bytes that the agents have sent so far."""
        if self._update is not None:
            self._update.settle()
        return next(iter(self.exchanges.values())).ledger

    @property
    def _scheme(self) -> Scheme:
        return next(iter(self.exchanges.values())).scheme

    @property
    def _needs(self) -> frozenset[str]:
        return self._scheme.needs

    def _drop_update(self) -> None:
        if self._update is not None:
            self._update.settle()
        self._update = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the hooks of ``train()``, which are made again where a model is copied or unpickled."""
        if vars(self).get("_update") is not None:
            self._update.settle()  # type: ignore[union-attr]
        return {**vars(self), "_update": None, "_minibatches": None}

    # Learning -------------------------------------------------------------------------------------------------------------

    def _check_learning(self) -> None:
        for exchange in self.exchanges.values():
            exchange.check()
        super()._check_learning()
        self._check_choices(minibatches=MINIBATCHES)
        self._fit_window()
        normalizer = self.get_vec_normalize_env()  # type: ignore[attr-defined]
        if isinstance(normalizer, AgentVecNormalize) and normalizer.norm_reward and self.n_envs > 1:
            raise ValueError(
                "AgentVecNormalize normalises rewards by agent, and a replay buffer's samples do not say whose they are; use "
                "VecNormalize, or norm_reward=False"
            )
        buffer = self.replay_buffer
        assert buffer is not None
        if buffer.n_envs != self.n_envs:
            raise ValueError(
                f"the replay buffer holds transitions of {buffer.n_envs} environments, and the model has {self.n_envs}: whose "
                "they are is unknown; load a buffer of as many"
            )
        frequency, unit = self.train_freq  # type: ignore[attr-defined]
        if unit is TrainFrequencyUnit.EPISODE and self.n_envs > 1:
            raise ValueError(
                f"train_freq=({frequency}, 'episode') needs one environment, and there are {self.n_envs}, whose episodes end "
                "at different steps; count steps of the vectorised environment instead: train_freq=1"
            )
        check_count("batch_size", self.batch_size, least=1)
        self._serve(buffer)
        if self.minibatches == "stratified" and self.batch_size % self.n_envs:
            self._warn_once(
                f"batch_size={self.batch_size} does not split evenly among {self.n_envs} agents: minibatches hold "
                f"{self._num_drawn(self.batch_size)} samples, equally many of each; choose a multiple, or minibatches='stock'"
            )

    def _num_drawn(self, batch_size: int) -> int:
        if self.minibatches == "stock":
            return batch_size
        return max(1, round(batch_size / self.n_envs)) * self.n_envs

    def _serve(self, buffer: ReplayBuffer) -> ReplayMinibatches:
        """Minibatches of a replay buffer, which may have been loaded since."""
        served, stratified = self._minibatches, self.minibatches == "stratified"
        if served is None or served.buffer is not buffer or served.stratified != stratified:
            served = self._minibatches = ReplayMinibatches(buffer, stratified=stratified)
        return served

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        """As SB3's, but a ``train()`` that went round the aggregation raises."""
        learned: Self = super().learn(*args, **kwargs)  # type: ignore[misc]
        self._check_trained()
        self.record_agents()
        weighed = self._update is not None and self.n_envs > 1 and "returns" in self._needs
        if weighed and bool(np.isnan(self.agent_returns).all()) and self._has_monitor():
            self._warn_once(f"no agent has finished an episode, so {self.aggregation} weighed them equally")
        return learned

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        self._check_learning()
        self._drop_update()  # networks may have been replaced
        self._num_updates_seen = self._n_updates
        if reset_num_timesteps:  # a new run, for which SB3 forgets its episodes too
            self._forget_returns()
        set_up: tuple[int, BaseCallback] = super()._setup_learn(  # type: ignore[misc]
            total_timesteps, callback, reset_num_timesteps, *args, **kwargs
        )
        return set_up

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """As SB3's, but an update that went round the aggregation raises."""
        self._check_trained()
        collected: RolloutReturn = super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]
        return collected

    def _check_trained(self) -> None:
        if self._n_updates != self._num_updates_seen:
            raise RuntimeError(
                f"{type(self).__name__}.train() did not call OffPolicyAggregationMixin.train(), so nothing was aggregated; "
                "call super().train(), and name the mixin before the algorithm in the bases"
            )

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: NDArray[np.bool_] | None = None) -> None:
        super()._update_info_buffer(infos, dones)  # type: ignore[misc]
        if dones is None or not np.any(dones):
            return
        if not self._returns.add(infos, np.asarray(dones)):
            self._warn_of_missing_returns()

    # Updating -------------------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update the networks by the algorithm's own ``train()``, each agent's gradients weighed by the rule."""
        assert self.replay_buffer is not None
        self._check_built()
        self._fit_window()
        if self._update is None:
            weighs = self.exchanges[self.algorithm.parts[0].optimizer].weights_only
            self._update = (WeightedUpdate if weighs else PerAgentUpdate)(self, self.algorithm, self.exchanges)
        update = self._update
        update.begin(self._serve(self.replay_buffer), self._returns.means())
        with update.hooked():
            super().train(gradient_steps=gradient_steps, batch_size=self._num_drawn(batch_size))  # type: ignore[misc]
        if gradient_steps and not update.num_steps:
            raise RuntimeError(f"{type(self).__name__}.train() stepped no optimiser, so nothing was aggregated")
        self._num_updates_seen = self._n_updates
        if update.weights:
            weights = [weights for weights, _ in update.weights]
            mean = weights[0] if all(item is weights[0] for item in weights) else torch.stack(weights).mean(0)
            self.agent_weights = mean.cpu().numpy().astype(np.float64)
        if update.num_masked:
            self._warn_once(
                f"{update.num_masked} agents had a NaN or infinite observation, reward, return or loss; agents are masked in "
                "minibatches that hold one, see agg/masked_agents",
                kind="masked",
            )

    # Logs -----------------------------------------------------------------------------------------------------------------

    def record_agents(self) -> None:
        """Log the weights of the last update, and what happened in all since this was called before.

        SB3's ``dump_logs()`` calls it if it writes anything, and ``learn()`` at its end: after each update it would take as
        long as a small one.
        """
        update = self._update
        if update is None:
            return
        if update.weights:
            weights, present = (torch.stack(items) for items in zip(*update.weights, strict=True))
            for name, value in weight_summary(weights, present).items():
                self.logger.record(f"agg/{name}", value)
        self._record_counts(update.num_masked, mixed_sign_updates=update.num_mixed_sign, skipped_updates=update.skipped_steps)
        update.forget()

    if hasattr(OffPolicyAlgorithm, "dump_logs"):

        def dump_logs(self) -> None:
            """As SB3's, with what is known of the agents."""
            if self.logger.output_formats:
                self.record_agents()
            super().dump_logs()  # type: ignore[misc]

    else:  # before SB3 2.6

        def _dump_logs(self) -> None:
            if self.logger.output_formats:
                self.record_agents()
            super()._dump_logs()  # type: ignore[misc]
