"""The shared core of rl-agg: five axes of a system that learns with many agents, and the exchange that carries it out."""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_agg.codecs import CODECS, Codec, register_codec
    from rl_agg.combiners import COMBINERS, Combiner, combine, register_combiner
    from rl_agg.exchange import Exchange
    from rl_agg.gates import GATES, Gate, register_gate
    from rl_agg.ledger import Ledger
    from rl_agg.local_schemes import LOCAL_SCHEMES
    from rl_agg.payloads import PAYLOADS, Payload, register_payload
    from rl_agg.registry import register_all, registered
    from rl_agg.rules import RULES, register_rule
    from rl_agg.schedules import SCHEDULES, Schedule, register_schedule
    from rl_agg.scheme import Scheme
    from rl_agg.signals import Signals
    from rl_agg.weighting import Weighting, weights

__version__ = version("rl-agg")
__all__ = [
    "CODECS",
    "COMBINERS",
    "GATES",
    "LOCAL_SCHEMES",
    "PAYLOADS",
    "RULES",
    "SCHEDULES",
    "Codec",
    "Combiner",
    "Exchange",
    "Gate",
    "Ledger",
    "Payload",
    "Schedule",
    "Scheme",
    "Signals",
    "Weighting",
    "combine",
    "register_all",
    "register_codec",
    "register_combiner",
    "register_gate",
    "register_payload",
    "register_rule",
    "register_schedule",
    "registered",
    "weights",
]

_HOMES = (
    "codecs",
    "combiners",
    "exchange",
    "gates",
    "ledger",
    "local_schemes",
    "payloads",
    "registry",
    "rules",
    "schedules",
    "scheme",
    "signals",
    "weighting",
)


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds, which ``rl-agg --help`` has no need of.

    All homes at once, as a registry must know the names of the others.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = [importlib.import_module(f"{__name__}.{home}") for home in _HOMES]
    return next(getattr(home, name) for home in homes if hasattr(home, name))


def __dir__() -> list[str]:
    """What :func:`__getattr__` knows too, for completion and documentation."""
    return sorted({*globals(), *__all__})
