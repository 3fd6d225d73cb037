"""A run that is stopped between two rollouts, and continued from its file in the worlds of that moment."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback


class SaveOnce(BaseCallback):
    """Keep file, worlds and random numbers of the moment between two rollouts."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__()
        self.path, self.after = path, after

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == self.after:
            self.model.save(self.path)
            self.env = copy.deepcopy(self.model.get_env())
            self.random = np.random.get_state(), torch.get_rng_state()


def resumed_from(saved: SaveOnce, cls: Any) -> Any:
    """The model in the file, as if the run had stopped there."""
    model = cls.load(saved.path, env=saved.env, device="cpu", force_reset=False)
    np.random.set_state(saved.random[0])
    torch.set_rng_state(saved.random[1])
    return model
