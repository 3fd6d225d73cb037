"""Policies by name, to record episodes with. Axes: E environments, n agents."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_agg.envs.team.interface import TeamSpec, TeamView
from rllib_agg.envs.team.recording import PolicyMaker, random_policy
from rllib_agg.qmix.module import HIDDEN, LAST_ACTIONS, MASKS, OBSERVATIONS, QMIXModule, spaces_of

MODULE_PATH = Path("learner_group", "learner", "rl_module", DEFAULT_MODULE_ID)
"""Within an algorithm's checkpoint."""


class GreedyTeam:
    """Acts greedily by a module for one episode, with the agents' hidden states and last actions."""

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
    """Makes greedy policies from the folder of a checkpoint; ``ValueError`` if it is not one of QMIX."""

    def __init__(self, folder: Path) -> None:
        path = folder.resolve() / MODULE_PATH
        module = RLModule.from_checkpoint(path) if path.is_dir() else None
        if not isinstance(module, QMIXModule):
            raise ValueError(f"{folder} is not a checkpoint of QMIX")
        self._module = module

    def __call__(self, spec: TeamSpec, seed: int) -> GreedyTeam:
        """For one episode, whatever the seed; ``ValueError`` if it was trained on a team of other sizes."""
        learned, here = self._module.observation_space, spaces_of(spec)[0]
        for name in (OBSERVATIONS, MASKS):
            shapes = learned[name].shape, here[name].shape
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"the checkpoint is of another team: its {name} are {shapes[0]}, those of this environment {shapes[1]}"
                )
        return GreedyTeam(self._module)


def find_policy(name: str) -> PolicyMaker:
    """Find a policy by the name a user writes.

    :param name: ``random``, a folder that QMIX was saved to, or ``MODULE:FUNCTION``.
    :raises ValueError: if it is none of these.
    """
    if name == "random":
        return random_policy
    if Path(name).is_dir():
        return CheckpointPolicy(Path(name))
    if ":" not in name:
        raise ValueError(f"a policy is 'random', a folder that QMIX was saved to or MODULE:FUNCTION, got {name!r}")
    found: PolicyMaker = pkgutil.resolve_name(name)
    return found
