"""MPE2's particle worlds."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rl_agg.validation import check_choice, check_settings
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.custom import as_team
from rllib_agg.envs.team.extras import import_extra
from rllib_agg.envs.team.named_agents import CustomSettings, NamedTeam
from rllib_agg.envs.team.sequential import SequentialTeams


def make_mpe(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> SequentialTeams:
    """Make E copies of a world, as ``simple_spread_v3``.

    :param settings: Arguments of its ``parallel_env`` and those of :class:`~rllib_agg.envs.team.named_agents.CustomSettings`.
    """
    mpe2 = import_extra("mpe2", "mpe")
    tasks = [module.name for module in pkgutil.iter_modules(mpe2.__path__) if "_v" in module.name]
    check_choice("MPE task", task, tasks)
    check_credit(f"mpe/{task}", credit, {"env"})
    world = import_extra(f"mpe2.{task}", "mpe")
    own, rest = CustomSettings.split(settings)
    arguments = {"render_mode": "rgb_array", **rest}
    check_settings(
        f"mpe/{task}", world.raw_env.__init__, arguments, given=1, also=[item.name for item in fields(CustomSettings)]
    )

    def make(index: int) -> NamedTeam:
        return as_team(world.parallel_env(**arguments), f"mpe/{task}", own)

    return SequentialTeams(make, num_envs, credit=credit)
