"""MPE2's particle worlds."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rl_agg.validation import check_settings, unknown_choice
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.custom import CustomSettings, as_team
from rllib_agg.envs.team.listed import ListedTeams, OneTeam
from rllib_agg.envs.team.packages import import_extra


def make_mpe(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> ListedTeams:
    """Make E copies of a world, as ``simple_spread_v3``.

    :param settings: Arguments of its ``parallel_env`` and those of :class:`~rllib_agg.envs.team.custom.CustomSettings`.
    """
    mpe2 = import_extra("mpe2", "mpe")
    tasks = [module.name for module in pkgutil.iter_modules(mpe2.__path__) if "_v" in module.name]
    if task not in tasks:
        raise unknown_choice("MPE task", task, tasks)
    check_credit(f"mpe/{task}", credit, {"env"})
    world = import_extra(f"mpe2.{task}", "mpe")
    chosen, rest = CustomSettings.taken_from(settings)
    arguments = {"render_mode": "rgb_array", **rest}
    ours = [item.name for item in fields(CustomSettings)]
    check_settings(f"mpe/{task}", world.raw_env.__init__, arguments, given=1, also=ours)

    def make(index: int) -> OneTeam:
        return as_team(world.parallel_env(**arguments), f"mpe/{task}", chosen)

    return ListedTeams(make, num_envs, credit=credit)
