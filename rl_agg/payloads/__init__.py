"""What agents exchange: gradients, parameters, scores or transitions."""

from rl_agg.payloads.averaging import merge
from rl_agg.payloads.base import Payload
from rl_agg.payloads.episodes import Scores, Transitions
from rl_agg.payloads.gradients import Gradients, GradientsWithOwn
from rl_agg.payloads.parameters import MOMENTS, ParameterDifferences, Parameters
from rl_agg.payloads.registry import PAYLOADS, make_payload, register_payload

__all__ = [
    "MOMENTS",
    "PAYLOADS",
    "Gradients",
    "GradientsWithOwn",
    "ParameterDifferences",
    "Parameters",
    "Payload",
    "Scores",
    "Transitions",
    "make_payload",
    "merge",
    "register_payload",
]
