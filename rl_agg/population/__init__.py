"""Whole episodes of many agents at once, each seeded by itself, so that who runs beside whom changes nothing."""

from rl_agg.population.environments import Environments, ListedEnvironments, VectorEnvironments, open_environments, time_limit
from rl_agg.population.reports import Report, buffer_bytes, measures, merge
from rl_agg.population.spaces import ActionDecoder, ObservationEncoder

__all__ = [
    "ActionDecoder",
    "Environments",
    "ListedEnvironments",
    "ObservationEncoder",
    "Report",
    "VectorEnvironments",
    "buffer_bytes",
    "measures",
    "merge",
    "open_environments",
    "time_limit",
]
