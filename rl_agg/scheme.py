"""What ``aggregation=`` takes: a rule, a combiner or a scheme of local models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from rl_agg.combiners import COMBINERS, TORCHJD, Combiner, make_combiner
from rl_agg.payloads import LOCAL_SCHEMES, LocalScheme, make_scheme
from rl_agg.validation import check_flag, unknown_choice
from rl_agg.weighting import RULES, Rule, Weighting

Aggregation = Weighting | Combiner | LocalScheme


def make_aggregation(
    aggregation: str | Rule | Combiner | LocalScheme, settings: Mapping[str, Any] | None = None
) -> Aggregation:
    """Build what a user asked for.

    :param aggregation: A name from :data:`~rl_agg.RULES`, :data:`~rl_agg.combiners.COMBINERS` (or ``torchjd:NAME``) or
        :data:`~rl_agg.payloads.LOCAL_SCHEMES`; a callable ``signals -> weights [A]``; a combiner; or a scheme.
    :param settings: Settings of what is named; for a rule or a callable also ``normalize``.
    :raises ValueError: if a name, a setting or a value is unknown.
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise ValueError(f"aggregation_kwargs must be a dict, got {settings!r}")
    own = dict(settings or {})
    if isinstance(aggregation, Combiner | LocalScheme):
        if own:
            raise ValueError(f"{aggregation!r} has its settings already, got {own} besides")
        return copy.deepcopy(aggregation)  # some remember what they have seen, and this run is not the last one
    _refuse_class(aggregation)
    if not isinstance(aggregation, str) or aggregation in RULES:
        normalize = own.pop("normalize", False)
        check_flag("normalize", normalize)
        return Weighting(aggregation, own, normalize)
    if aggregation in COMBINERS or aggregation.startswith(TORCHJD):
        return make_combiner(aggregation, own)
    if aggregation in LOCAL_SCHEMES:
        return make_scheme(aggregation, own)
    raise unknown_choice("aggregation", aggregation, [*RULES, *COMBINERS, "torchjd:NAME", *LOCAL_SCHEMES])


def _refuse_class(aggregation: object) -> None:
    """A class is a callable, but what it returns is no weights."""
    if isinstance(aggregation, type) and issubclass(aggregation, Combiner | LocalScheme):
        name = next((name for name, kind in {**COMBINERS, **LOCAL_SCHEMES}.items() if kind is aggregation), None)
        hint = f" or its name {name!r}" if name else ""
        raise ValueError(f"{aggregation.__name__} is a class; give {aggregation.__name__}(){hint}")
