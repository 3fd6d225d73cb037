"""Aggregation across agents for any of RLlib's torch learners."""

from rllib_agg.aggregation.agents import AgentTagging
from rllib_agg.aggregation.config import AggConfigMixin
from rllib_agg.aggregation.learner import AggLearnerMixin
from rllib_agg.aggregation.learner_group import AggLearnerGroup, LearnerLostError

__all__ = ["AgentTagging", "AggConfigMixin", "AggLearnerGroup", "AggLearnerMixin", "LearnerLostError"]
