"""The settings of aggregation for algorithms that learn from a replay."""

from __future__ import annotations

from typing import Any, ClassVar

from rl_agg.validation import check_choice
from rllib_agg.aggregation.config import AggConfigMixin
from rllib_agg.replay.buffers import REPLAYS


class ReplayConfigMixin(AggConfigMixin):
    """Goes in front of DQN's config, or another that has its replay."""

    replays = True
    exchanged: ClassVar[tuple[str, ...]] = ("gradients",)
    replay_buffer_config: dict[str, Any]

    def validate(self) -> None:
        """Check that the replay can say whose each sample is; ``ValueError`` names the setting that is wrong."""
        super().validate()
        name = type(self).__name__
        if self.is_multi_agent:
            raise ValueError(
                f"{name} takes single-agent environments: RLlib's replay of several policies mixes the steps of copies of an "
                "environment. Leave .multi_agent() out, or use AggPPOConfig, or QMIXConfig for a team"
            )
        check_choice("replay_buffer_config['type']", self.replay_buffer_config.get("type"), REPLAYS)
        if self.num_aggregator_actors_per_learner:
            raise ValueError(
                f"{name}'s learners make their batches themselves; set num_aggregator_actors_per_learner=0, not "
                f"{self.num_aggregator_actors_per_learner}"
            )

    def check_module_settings(self) -> None:
        """Check that the rule acts as it says in a batch that a replay has drawn."""
        super().check_module_settings()
        if self.make_scheme().described["rule"] == "samples":
            raise ValueError(
                "aggregation='samples' weighs agents by their samples, which a mean over the samples of a replay does "
                "already; choose 'mean', which is RLlib's loss"
            )
        for name, nothing in (("broadcast_compression", "identity"), ("budget_bytes_per_update", None)):
            if getattr(self, name) != nothing:
                raise ValueError(
                    f"{type(self).__name__} does not encode broadcasts or keep a budget: its target networks follow "
                    f"parameters that agents would not hold; leave {name} out"
                )
