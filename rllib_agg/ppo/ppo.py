"""AggPPO: RLlib's PPO with its config, plus aggregation."""

from __future__ import annotations

from typing import Any, Self

from ray.rllib.algorithms.ppo import PPO, PPOConfig

from rl_agg.validation import check_flag
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.aggregation.advantages import NORM_CHOICES
from rllib_agg.aggregation.restoring import RestoringAlgorithm
from rllib_agg.ppo.learner import AggPPOTorchLearner
from rllib_agg.ppo.sharing_settings import SharingConfigMixin


class AggPPOConfig(SharingConfigMixin, PPOConfig):
    """``PPOConfig`` with aggregation: replace the one by the other in an existing script.

    >>> config = AggPPOConfig().environment("CartPole-v1").training(aggregation="r_weighted")
    >>> config.num_agents  # PPO's two env runners, with one sub-environment each
    2
    """

    whole_algorithm = SharingConfigMixin.whole_algorithm | {"shard_by_agent"}
    merges_learners = True
    default_learner = AggPPOTorchLearner

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or AggPPO)
        self.advantage_norm = "stock"
        self.shard_by_agent = False
        self.closed_form = True

    @property
    def reports(self) -> frozenset[str]:
        """What needs a critic."""
        return frozenset({"explained_variance"}) if self.use_critic else frozenset()

    def training(self, *, advantage_norm: str = UNSET, closed_form: bool = UNSET, **kwargs: Any) -> Self:
        """Set up the training.

        :param advantage_norm: Over whom advantages are standardised. ``"stock"``: each learner's shard, as RLlib does;
            ``"agent"``: each agent's own, over all learners; ``"none"``: not at all.
        :param closed_form: Differentiate by derivatives that are written out instead of torch's graph, where the module is
            RLlib's default one of linear layers and nothing of the learner's loss was replaced: the same numbers up to
            rounding, in less time. Elsewhere the log says once why not.
        :param kwargs: Those of :meth:`SharingConfigMixin.training` and of PPO.
        """
        super().training(**kwargs)
        return self.take(advantage_norm=advantage_norm, closed_form=closed_form)

    def learners(self, *, shard_by_agent: bool = UNSET, **kwargs: Any) -> Self:
        """Set up the learners.

        :param shard_by_agent: Give each learner whole agents. RLlib cuts episodes so that all learners have the same number
            of samples; the gradient is the same either way with one minibatch, and exact for each minibatch. Where parameters
            are exchanged, a learner keeps its agents from update to update.
        :param kwargs: RLlib's own.
        """
        super().learners(**kwargs)
        return self.take(shard_by_agent=shard_by_agent)

    def validate(self) -> None:
        """Check that there are enough agents to give each learner whole ones."""
        super().validate()
        # RLlib checks the settings of evaluation too, in which num_env_runners is that of evaluation.
        check_flag("shard_by_agent", self.shard_by_agent)
        if self.num_aggregator_actors_per_learner:
            raise ValueError(
                f"AggPPOConfig's learners make their batches themselves; set num_aggregator_actors_per_learner=0, not "
                f"{self.num_aggregator_actors_per_learner}, or use AggIMPALAConfig or AggAPPOConfig"
            )
        if self.shard_by_agent and self.num_agents < self.num_learners and not self.in_evaluation:
            raise ValueError(
                f"shard_by_agent gives each learner whole agents, but there are {self.num_agents} agents for "
                f"{self.num_learners} learners; raise num_env_runners or num_envs_per_env_runner, or lower num_learners"
            )

    def check_module_settings(self) -> None:
        """Check ``advantage_norm`` too."""
        super().check_module_settings()
        self.check_choice("advantage_norm", NORM_CHOICES)
        check_flag("closed_form", self.closed_form)


class AggPPO(RestoringAlgorithm, PPO):
    """RLlib's PPO; what differs is in its learner."""

    config_class = AggPPOConfig
