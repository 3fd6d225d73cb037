"""AggSAC: RLlib's SAC with its config, plus aggregation."""

from __future__ import annotations

from ray.rllib.algorithms.sac import SAC, SACConfig

from rllib_agg.aggregation._compat import uses_grad_scaler
from rllib_agg.replay import ReplayAlgorithm, ReplayConfigMixin
from rllib_agg.sac.learner import AggSACTorchLearner


class AggSACConfig(ReplayConfigMixin, SACConfig):
    """``SACConfig`` with aggregation: replace the one by the other in an existing script.

    >>> config = AggSACConfig().environment("Pendulum-v1").env_runners(num_env_runners=0, num_envs_per_env_runner=4)
    >>> config.training(aggregation="r_weighted").num_agents
    4
    """

    default_learner = AggSACTorchLearner

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or AggSAC)

    def check_lr(self) -> None:
        """Of actor, critics and entropy coefficient."""
        for name in ("actor_lr", "critic_lr", "alpha_lr"):
            self.check_rate(name)

    def check_module_settings(self) -> None:
        """Check also that gradients of the entropy coefficient are what they are."""
        super().check_module_settings()
        if uses_grad_scaler(self):
            raise ValueError("AggSACConfig does not scale gradients; switch the gradient scaler of mixed precision off")


class AggSAC(ReplayAlgorithm, SAC):
    """RLlib's SAC; what differs is in its learner and replay."""

    config_class = AggSACConfig
