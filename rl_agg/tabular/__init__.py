"""Learners of tables and linear functions, whose agents send samples or gradients when they are worth it."""

from rl_agg.tabular.davia import DaviaAgents, DaviaLearner, DaviaSettings, model_of
from rl_agg.tabular.episodes import TRANSITION, TabularEpisodes
from rl_agg.tabular.q_learning import QAgents, QLearner, QSettings

__all__ = [
    "TRANSITION",
    "DaviaAgents",
    "DaviaLearner",
    "DaviaSettings",
    "QAgents",
    "QLearner",
    "QSettings",
    "TabularEpisodes",
    "model_of",
]
