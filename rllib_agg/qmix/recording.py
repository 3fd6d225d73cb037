"""Letting what was learned play where somebody watches. Axes: E environments, n agents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_agg.envs.team.team import TeamSpec, TeamView
from rllib_agg.qmix.module import HIDDEN, LAST_ACTIONS, MASKS, OBSERVATIONS, QMIXModule, spaces_of

WHERE_RLLIB_SAVES_IT = Path("learner_group", "learner", "rl_module", DEFAULT_MODULE_ID)
"""Within an algorithm's checkpoint."""


class GreedyTeam:
    """Acts by a module for one episode, remembering what its agents saw and did.

    :param module: With the agents' networks.
    """

    def __init__(self, module: QMIXModule) -> None:
        self._module = module
        self._hidden = module.get_initial_state()[HIDDEN]  # [n, H]
        self._last: NDArray[np.int64] | None = None

    @torch.no_grad()
    def __call__(self, view: TeamView) -> NDArray[np.int64]:
        copies, agents = view.masks.shape[:2]
        if self._last is None:
            self._last, self._hidden = np.full((copies, agents), -1), self._hidden.expand(copies, -1, -1)
        seen = {OBSERVATIONS: view.observations, MASKS: view.masks, LAST_ACTIONS: self._last}
        batch = {
            Columns.OBS: {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in seen.items()},
            Columns.STATE_IN: {HIDDEN: self._hidden},
        }
        out = self._module.forward_inference(batch)
        self._hidden, self._last = out[Columns.STATE_OUT][HIDDEN], out[Columns.ACTIONS].numpy()
        return self._last


class CheckpointPolicy:
    """Makes what plays by a checkpoint.

    :param folder: That an algorithm was saved to.
    :raises ValueError: if it holds no team's module.
    """

    def __init__(self, folder: Path) -> None:
        path = folder.resolve() / WHERE_RLLIB_SAVES_IT
        module = RLModule.from_checkpoint(path) if path.is_dir() else None
        if not isinstance(module, QMIXModule):
            raise ValueError(f"{folder} is no checkpoint of QMIX")
        self._module = module

    def __call__(self, spec: TeamSpec, seed: int) -> GreedyTeam:
        """For one episode.

        :param seed: Not looked at: the best action is always taken.
        :raises ValueError: if it learned on another team.
        """
        learned, here = self._module.observation_space, spaces_of(spec)[0]
        for name in (OBSERVATIONS, MASKS):
            shapes = learned[name].shape, here[name].shape
            if shapes[0] != shapes[1]:
                raise ValueError(f"it learned on another team: its {name} were {shapes[0]}, here they are {shapes[1]}")
        return GreedyTeam(self._module)
