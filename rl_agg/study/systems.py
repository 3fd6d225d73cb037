"""The systems that exist, as choices on four axes: who speaks, how much each counts, what is merged, and when."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownSystem:
    """A system of the papers, and how to ask for it in a study.

    :param path: Import path.
    :param settings: Constructor arguments that make it this system.
    """

    name: str
    gate: str
    rule: str
    payload: str
    schedule: str
    paper: str
    path: str
    settings: dict[str, object]


def _weighting(name: str, rule: str, paper: str = "Holen et al. (2023)", **settings: object) -> KnownSystem:
    aggregation = {"aggregation": rule, **settings}
    return KnownSystem(name, "everyone", rule, "gradients", "every step", paper, "sb3_agg:AggPPO", aggregation)


SYSTEMS = (
    _weighting("Baseline-Sum", "sum"),
    _weighting("Baseline-Avg", "mean"),
    _weighting("R-Weighted", "r_weighted"),
    _weighting("R-Weighted, softmax", "r_weighted", aggregation_kwargs={"normalize": True}),
    _weighting("L-Weighted", "l_weighted"),
    _weighting("L-Weighted, softmax", "l_weighted", aggregation_kwargs={"normalize": True}),
    _weighting("Sample-weighted", "samples", "McMahan et al. (2017)"),
)
RELATIVES = ("sb3_agg:AggA2C", "sb3_agg:AggMaskablePPO", "sb3_agg:AggRecurrentPPO")
"""They take the same settings as ``sb3_agg:AggPPO``."""
