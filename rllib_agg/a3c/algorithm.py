"""The centre of A3C: apply each gradient as it arrives, and answer with fresh weights.

Source: Mnih et al. (2016), algorithm S3, with a parameter server in place of shared memory.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import ray
import tree  # type: ignore[import-untyped]
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from rl_agg import Ledger
from rllib_agg.a3c.config import A3CConfig
from rllib_agg.a3c.learner import GradientMessage
from rllib_agg.a3c.running_signals import RunningSignals
from rllib_agg.aggregation.learner import STATE
from rllib_agg.aggregation.restoring import RestoringAlgorithm
from rllib_agg.aggregation.timeouts import deadline_of

logger = logging.getLogger(__name__)

TAG = "gradient"
AGG = (LEARNER_RESULTS, DEFAULT_MODULE_ID, "agg")
POLL_SECONDS = 0.005
"""Ray waits this long for *all* outstanding gradients, so that it bounds how long the first one lies around."""


class A3C(RestoringAlgorithm, Algorithm):
    """Asynchronous advantage actor-critic."""

    runners_need_whole_module = True

    @classmethod
    def get_default_config(cls) -> A3CConfig:
        """The config it is built from."""
        return A3CConfig()

    def setup(self, config: Any) -> None:
        """RLlib's, with nothing known of the agents, and nothing counted."""
        super().setup(config)
        self.learner = self.learner_group.foreach_learner(lambda learner: learner).result_or_errors[0].get()
        self.signals = RunningSignals(self.config.num_agents)
        self.weighting = self.config.weighting()
        self.ledger = Ledger(self.config.num_agents)

    def training_step(self) -> None:
        """Apply ``gradients_per_iteration`` gradients; less if none that is fit for it arrives for ``sample_timeout_s``."""
        self._collect_gradients()
        self.metrics.log_dict(self.ledger.summary(), key=AGG, window=1)
        self.metrics.log_value((*AGG, "masked_gradients"), 0, reduce="lifetime_sum")  # there from the first iteration on
        self.metrics.aggregate([self.learner.metrics.reduce()], key=LEARNER_RESULTS)

    def _collect_gradients(self) -> None:
        if self.env_runner_group.num_remote_env_runners() == 0:
            for _ in range(self.config.gradients_per_iteration):
                state = self.module_state(inference_only=False)
                self._count_weights(state, [0], moved=False)
                self._receive(0, *self.env_runner.sample_gradient(state, self._timesteps()))
            return
        group = self.env_runner_group
        self._send_weights(group.healthy_env_runner_ids())  # those still at work have their request and get no second
        applied, deadline = 0, deadline_of(self.config.sample_timeout_s)
        while applied < self.config.gradients_per_iteration and time.monotonic() < deadline:
            arrived = group.fetch_ready_async_reqs(tags=TAG, timeout_seconds=POLL_SECONDS)
            for runner, (message, sampled, learned) in arrived:
                if self._receive(runner - 1, message, sampled, learned):
                    applied += 1
                    deadline = deadline_of(self.config.sample_timeout_s)
            if arrived:
                self._send_weights([runner for runner, _ in arrived])
            elif group.num_healthy_remote_env_runners() == 0:
                break
        if not applied:
            seconds = self.config.sample_timeout_s
            logger.warning("No gradient that could be applied arrived within sample_timeout_s=%s seconds.", seconds)

    def _receive(self, agent: int, message: GradientMessage, sampled: Any, learned: Any) -> bool:
        """Take a gradient in.

        :return: Whether it was applied.
        """
        self.metrics.aggregate([sampled], key=ENV_RUNNER_RESULTS)
        self.metrics.aggregate([learned], key=LEARNER_RESULTS)
        factor = 0.0
        # A gradient from the future was under way when an older checkpoint was restored.
        if message.num_samples and message.seq_no <= self.learner.weights_seq_no:
            self.signals.observe(agent, returns=message.episode_return, losses=message.loss, num_samples=message.num_samples)
            factor = self.signals.factor(agent, self.weighting)
        moved = message.num_bytes if self.env_runner_group.num_remote_env_runners() else 0
        numbers = {"gradients": message.num_parameters, "scalars": len(self.weighting.needs)}
        self.ledger.upload(self._only([agent]), physical_bytes=moved, **numbers)
        self.metrics.log_value((*AGG, "masked_gradients"), int(factor == 0.0), reduce="lifetime_sum")
        if factor == 0.0:
            return False
        self.metrics.log_value((*AGG, "staleness"), self.learner.weights_seq_no - message.seq_no, window=100)
        self.metrics.log_value((*AGG, "weight"), factor, window=100)
        self.learner.apply_message(message, factor=factor, timesteps=self._timesteps())
        return True

    def _send_weights(self, runners: list[int]) -> None:
        state = self.module_state(inference_only=False)
        kwargs = {"state": ray.put(state), "timesteps": self._timesteps()}
        ask = self.env_runner_group.foreach_env_runner_async
        asked = [runner for runner in runners if ask("sample_gradient", tag=TAG, kwargs=kwargs, remote_worker_ids=[runner])]
        self._count_weights(state, [runner - 1 for runner in asked], moved=True)

    def _count_weights(self, state: dict[str, Any], agents: list[int], *, moved: bool) -> None:
        num_bytes = sum(np.asarray(leaf).nbytes for leaf in tree.flatten(state[COMPONENT_RL_MODULE]))
        size = sum(parameter.numel() for parameter in self.learner.parameters_by_ref.values())
        self.ledger.download(self._only(agents), physical_bytes=len(agents) * num_bytes if moved else 0, parameters=size)

    def _only(self, agents: list[int]) -> NDArray[np.int64]:
        """1 for each of some agents ``[A]``."""
        return np.bincount(agents, minlength=self.config.num_agents)

    def _timesteps(self) -> dict[str, Any]:
        key = (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
        return {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(key, default=0)}

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's, with what is known and counted of the agents in a full state."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state[STATE] = {"signals": self.signals.get_state(), "ledger": self.ledger.state_dict()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's, with what is known and counted of the agents."""
        super().set_state(state)
        if STATE in state:
            self.signals.set_state(state[STATE]["signals"])
            self.ledger.load_state_dict(state[STATE]["ledger"])
