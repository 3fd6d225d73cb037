"""Algorithms in which agents run whole episodes with what a server broadcast, and a server learns from their reports.

The agents are spread over the env runners, but belong to none of them: what an agent does follows from the run, the update and
its number, so that results depend neither on how many runners there are nor on which of them fail.
"""

from rllib_agg.server_loop.config import ServerConfig
from rllib_agg.server_loop.env_runner import EpisodicEnvRunner
from rllib_agg.server_loop.learner import ServerLearner
from rllib_agg.server_loop.loop import Server, ServerAlgorithm
from rllib_agg.server_loop.population import PopulationAlgorithm, PopulationConfig

__all__ = [
    "EpisodicEnvRunner",
    "PopulationAlgorithm",
    "PopulationConfig",
    "Server",
    "ServerAlgorithm",
    "ServerConfig",
    "ServerLearner",
]
