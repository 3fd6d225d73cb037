"""SMAX's maps: those of the installed version, and one of this package."""

from __future__ import annotations

from typing import Any

from rl_agg.validation import check_choice
from rllib_agg.envs.starcraft.time_limits import TIME_LIMITS

OTHER_LIMIT = 100
"""Time limit of maps that SMAC has not; SMAX's own, for all maps."""

ARMIES = {"6z_vs_24zl": (["zealot"] * 6, ["zergling"] * 24)}
"""Maps of this package, by the units of allies and enemies. 6z_vs_24zl has the armies of SMAC's corridor on open ground: SMAX
has no terrain, and so not the choke that makes corridor winnable."""


def find_scenario(smax: Any, task: str) -> tuple[Any, int]:
    """Scenario and time limit of a map; ``ValueError`` names the maps, if it is unknown."""
    known = smax.MAP_NAME_TO_SCENARIO
    for name, armies in ARMIES.items():
        if name not in known:
            smax.register_scenario(name, _scenario(smax, *armies))
    check_choice("SMAX map", task, known)
    return known[task], TIME_LIMITS.get(task, OTHER_LIMIT)


def _scenario(smax: Any, allies: list[str], enemies: list[str]) -> Any:
    import jax.numpy as jnp

    names = smax.SMAX(num_allies=1, num_enemies=1).unit_type_names
    types = jnp.array([names.index(unit) for unit in allies + enemies], dtype=jnp.uint8)
    return smax.Scenario(types, len(allies), len(enemies), False, False)
