"""Whole episodes of many agents at once, each with its own seed, so that no agent's episode depends on the others."""

from rl_agg.population.environments import Environments, ListedEnvironments, VectorEnvironments, open_environments
from rl_agg.population.reports import Report, buffer_bytes, measures, merge_reports
from rl_agg.population.spaces import ActionDecoder, ObservationEncoder
from rl_agg.population.time_limits import time_limit

__all__ = [
    "ActionDecoder",
    "Environments",
    "ListedEnvironments",
    "ObservationEncoder",
    "Report",
    "VectorEnvironments",
    "buffer_bytes",
    "measures",
    "merge_reports",
    "open_environments",
    "time_limit",
]
