"""SMAX's maps: those of the installed version, and our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl_agg.validation import unknown_choice

TIME_LIMITS: Mapping[str, int] = {
    "10m_vs_11m": 150,
    "25m": 150,
    "27m_vs_30m": 180,
    "2s3z": 120,
    "3m": 60,
    "3s5z": 150,
    "3s5z_vs_3s6z": 170,
    "3s_vs_5z": 250,
    "5m_vs_6m": 70,
    "6h_vs_8z": 150,
    "6z_vs_24zl": 400,
    "8m": 120,
    "smacv2_10_units": 200,
    "smacv2_20_units": 200,
    "smacv2_5_units": 200,
}
"""Steps of an episode by map, those of SMAC's and SMACv2's map of that name (6z_vs_24zl: of corridor); SMAX itself stops all
after 100."""

OTHER_LIMIT = 100
"""SMAX's own, for maps that a user registered with it."""

ARMIES = {"6z_vs_24zl": (["zealot"] * 6, ["zergling"] * 24)}
"""Our own maps, by the units of allies and enemies. 6z_vs_24zl is corridor's armies on open ground: SMAX has no terrain, and
the choke that makes corridor winnable is not there."""


def find_scenario(smax: Any, task: str) -> tuple[Any, int]:
    """Look a map up.

    :param smax: ``jaxmarl.environments.smax.smax_env``.
    :param task: The map's name.
    :return: Its scenario, and after how many steps its episodes are cut off.
    :raises ValueError: naming the maps, if there is no such one.
    """
    known = smax.MAP_NAME_TO_SCENARIO
    for name, armies in ARMIES.items():
        if name not in known:
            smax.register_scenario(name, _scenario(smax, *armies))
    if task not in known:
        raise unknown_choice("SMAX map", task, known)
    return known[task], TIME_LIMITS.get(task, OTHER_LIMIT)


def _scenario(smax: Any, allies: list[str], enemies: list[str]) -> Any:
    import jax.numpy as jnp

    names = smax.SMAX(num_allies=1, num_enemies=1).unit_type_names
    types = jnp.array([names.index(unit) for unit in allies + enemies], dtype=jnp.uint8)
    return smax.Scenario(types, len(allies), len(enemies), False, False)
