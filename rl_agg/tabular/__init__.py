"""Distributed learners of tables and linear functions; a gate selects the samples or gradients that agents send."""

from rl_agg.tabular.davia import DaviaAgents, DaviaLearner, DaviaSettings, model_of
from rl_agg.tabular.episodes import TRANSITION, TabularEpisodes
from rl_agg.tabular.q_learning import QAgents, QLearner, QSettings
from rl_agg.tabular.tdef import TdefAgents, TdefLearner, TdefSettings

__all__ = [
    "TRANSITION",
    "DaviaAgents",
    "DaviaLearner",
    "DaviaSettings",
    "QAgents",
    "QLearner",
    "QSettings",
    "TabularEpisodes",
    "TdefAgents",
    "TdefLearner",
    "TdefSettings",
    "model_of",
]
