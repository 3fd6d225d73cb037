"""What agents exchange: gradients, parameters, scores or transitions."""

from rl_agg.payloads.averaging import merge
from rl_agg.payloads.base import CONTENTS, Payload
from rl_agg.payloads.episodes import Scores, Transitions
from rl_agg.payloads.gradients import Gradients, GradientsWithOwn
from rl_agg.payloads.parameters import MOMENTS, ParameterDifferences, Parameters
from rl_agg.registry import Registry, check_member
from rl_agg.validation import check_choice

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

PAYLOADS: Registry[type[Payload]] = Registry(
    "payload",
    "payload",
    {
        "gradients": Gradients,
        "gradients_with_own": GradientsWithOwn,
        "parameters": Parameters,
        "parameter_differences": ParameterDifferences,
        "scores": Scores,
        "transitions": Transitions,
    },
)
"""Payloads by name."""


def register_payload(name: str, payload: type[Payload]) -> None:
    """Let ``payload=name`` stand for a payload.

    :param name: What users write.
    :param payload: Built as ``payload()``.
    :raises ValueError: if the name is taken or not an identifier, ``payload`` is not a concrete subclass of
        :class:`Payload`, or its content is unknown.
    """
    check_member("payload", Payload, payload)
    check_choice("content of a payload", getattr(payload, "content", None), CONTENTS)
    PAYLOADS.register(name, payload)


def make_payload(payload: str | Payload) -> Payload:
    """Build what ``payload=`` asks for.

    :param payload: A name of :data:`PAYLOADS`, or a payload.
    :raises ValueError: if it is neither.
    """
    return payload if isinstance(payload, Payload) else PAYLOADS.find(payload)()
