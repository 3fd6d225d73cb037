"""Evolution strategies, which RLlib removed in 2.8, on the new API stack, with gates that save messages."""

from rllib_agg.es.es import ES, ESConfig
from rllib_agg.es.module import ESModule

__all__ = ["ES", "ESConfig", "ESModule"]
