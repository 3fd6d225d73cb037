"""What algorithms that learn from a replay have in common: whose each sample is, and how agents are weighed in a batch."""

from rllib_agg.replay.algorithm import ReplayAlgorithm
from rllib_agg.replay.buffers import REPLAYS
from rllib_agg.replay.config import ReplayConfigMixin
from rllib_agg.replay.learner import ReplayLearnerMixin

__all__ = ["REPLAYS", "ReplayAlgorithm", "ReplayConfigMixin", "ReplayLearnerMixin"]
