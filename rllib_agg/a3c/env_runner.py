"""An env runner that sends gradients instead of episodes."""

from __future__ import annotations

from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rllib_agg.a3c.learner import GradientMessage


class A3CEnvRunner(SingleAgentEnvRunner):
    """One of A3C's actor-learners. Where it only evaluates, it is RLlib's runner."""

    def make_module(self) -> None:
        """Build a learner, and sample with the very module that it learns with."""
        trains = not self.config.in_evaluation and (self.worker_index or self.config.num_env_runners == 0)
        if not trains:
            super().make_module()  # type: ignore[no-untyped-call]
            return
        config = self.config.copy(copy_frozen=False).learners(num_gpus_per_learner=0)
        spaces = self.get_spaces()  # type: ignore[no-untyped-call]
        self._learner: Any = config.build_learner(spaces={DEFAULT_MODULE_ID: spaces[DEFAULT_MODULE_ID]})
        self.module = self._learner.module[DEFAULT_MODULE_ID]

    def sample_gradient(
        self, state: dict[str, Any], timesteps: dict[str, Any]
    ) -> tuple[GradientMessage, dict[str, Any], dict[str, Any]]:
        """Set the weights and their number, sample a fragment with them and differentiate its loss.

        :return: The gradient, the metrics of sampling and those of the loss.
        """
        self.set_state({**state, WEIGHTS_SEQ_NO: 0})  # forces them: encoded ones change without an update too
        self.set_state(state)  # counts them
        episodes = self.sample()
        # The connectors add a step to each episode, in place; metrics are of the episodes as sampled.
        sampled = self.get_metrics()
        copies = [episode[:] for episode in episodes]
        message = self._learner.take_gradient(copies, seq_no=state[WEIGHTS_SEQ_NO], timesteps=timesteps)
        return message, sampled, self._learner.metrics.reduce()
