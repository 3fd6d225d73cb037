"""Algorithms whose agents run an episode each with what a centre broadcast, and may then speak.

The agents are spread over the env runners, but belong to none of them: what an agent does follows from the run, the update and
its number, so that results depend neither on how many runners there are nor on which of them fail.
"""

from rllib_agg.server_loop.config import CentralConfig, EpisodicConfig
from rllib_agg.server_loop.env_runner import EpisodicEnvRunner
from rllib_agg.server_loop.learner import CentralLearner
from rllib_agg.server_loop.loop import CentralAlgorithm
from rllib_agg.server_loop.population import EpisodicAlgorithm

__all__ = ["CentralAlgorithm", "CentralConfig", "CentralLearner", "EpisodicAlgorithm", "EpisodicConfig", "EpisodicEnvRunner"]
