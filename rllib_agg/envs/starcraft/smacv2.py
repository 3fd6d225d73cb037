"""SMACv2: StarCraft II with random teams and positions in each episode, installed by the user."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Mapping
from typing import Any

from rl_agg.validation import check_choice
from rllib_agg.envs.starcraft.install import SMACV2, check_game, import_smac
from rllib_agg.envs.starcraft.smac import SmacTeam, check_shaped, credits_of
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.sequential import SequentialTeams

RACES: Mapping[str, tuple[list[str], list[float], list[str]]] = {
    "protoss": (["stalker", "zealot", "colossus"], [0.45, 0.45, 0.1], ["colossus"]),
    "terran": (["marine", "marauder", "medivac"], [0.45, 0.45, 0.1], ["medivac"]),
    "zerg": (["zergling", "baneling", "hydralisk"], [0.45, 0.1, 0.45], ["baneling"]),
}
"""Unit types, their probabilities, and those that must not form a whole team. Source: SMACv2's paper."""

SIZES = ("5_vs_5", "10_vs_10", "10_vs_11", "20_vs_20", "20_vs_23")

DEFAULTS = {
    "conic_fov": False,
    "use_unit_ranges": True,
    "min_attack_range": 2,
    "obs_own_pos": True,
    "fully_observable": False,
    "num_fov_actions": 12,
}
"""Arguments of SMACv2's own examples."""


def make_smacv2(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> SequentialTeams:
    """Make E games, as ``terran_5_vs_5``.

    :param settings: Arguments of SMACv2's ``StarCraft2Env``, which checks them.
    :raises ImportError: if SMACv2 is not installed, or not correctly.
    :raises StarCraftError: if the game or the map is missing.
    """
    tasks = [f"{race}_{size}" for race in RACES for size in SIZES]
    check_choice("SMACv2 task", task, tasks)
    check_credit(f"smacv2/{task}", credit, {"contribution"})
    check_shaped(settings, credit)
    import_smac("smacv2.env", SMACV2)
    wrapper = importlib.import_module("smacv2.env.starcraft2.wrapper").StarCraftCapabilityEnvWrapper
    check_game("smacv2", "32x32_flat")
    race, allies, enemies = re.fullmatch(r"(\w+?)_(\d+)_vs_(\d+)", task).groups()  # type: ignore[union-attr]
    config = _capabilities(race, int(allies), int(enemies))

    def make(seed: int) -> Any:
        # SMACv2 changes its configuration in place
        arguments = {**DEFAULTS, "seed": seed, **settings, "capability_config": copy.deepcopy(config)}
        return wrapper(map_name=f"10gen_{race}", **arguments)

    credits = credits_of(settings)
    return SequentialTeams(lambda _: SmacTeam(make, credit=credit, credits=credits), num_envs, credit=credit, can_break=True)


def _capabilities(race: str, allies: int, enemies: int) -> dict[str, Any]:
    types, weights, exceptions = RACES[race]
    return {
        "n_units": allies,
        "n_enemies": enemies,
        "team_gen": {
            "dist_type": "weighted_teams",
            "unit_types": types,
            "weights": weights,
            "exception_unit_types": exceptions,
            "observe": True,
        },
        "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
    }
