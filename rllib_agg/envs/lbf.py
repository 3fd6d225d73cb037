"""Level-based foraging: agents with levels lift food together and are rewarded by level.

Axes: n agents, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_settings, unknown_choice
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.extras import import_extra
from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.envs.team.sequential import SequentialTeams, SingleStep, SingleView

NAMES = (
    "the names are Foraging[-2s]-SxS-Pp-Ff[-coop]-v3: a field of S from 5 to 19, P from 2 to 9 agents, F from 1 to 4 pieces "
    "of food, 2s for a sight of 2 cells, coop if all agents must lift"
)


class LbfTeam:
    """One copy of ``lbforaging``'s. The team's reward is the sum of its agents'; it wins when no food is left."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self._size = int(np.prod(env.observation_space[0].shape))
        num_agents = env.n_agents
        self.spec = TeamSpec(
            num_agents=num_agents,
            num_actions=int(env.action_space[0].n),
            observation_size=self._size,
            state_size=num_agents * self._size,
            max_episode_steps=env._max_episode_steps,
            agent_types=("forager",) * num_agents,
            credits=frozenset({"env"}),
            has_wins=True,
            limit_is_end=True,
        )

    def reset(self, seed: int) -> SingleView:
        """Begin an episode."""
        for player in self.env.players:
            player.position = None  # else old positions count as occupied, and the episode depends on more than its seed
        observations, _ = self.env.reset(seed=seed)
        return self._view(observations)

    def step(self, actions: Sequence[int]) -> SingleStep:
        """Step. The environment reports its time limit as an end too; the episode has ended only if all food is eaten."""
        observations, rewards, over, _, _ = self.env.step(list(actions))
        eaten = not self.env.field.any()
        earned = np.asarray(rewards, dtype=np.float32)
        return SingleStep(
            self._view(observations), float(earned.sum()), earned, over and eaten, over and not eaten, won=over and eaten
        )

    def render(self) -> NDArray[np.uint8]:
        """Draw it ``[height, width, 3]``, also without a display."""
        if sys.platform == "linux" and not os.environ.get("DISPLAY"):
            import_extra("pyglet", "lbf").options["headless"] = True  # EGL; before the first window
        picture: NDArray[np.uint8] = self.env.render(mode="rgb_array")
        return picture.copy()  # the array is the window's memory

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _view(self, observations: Sequence[Any]) -> SingleView:
        rows = np.stack([np.asarray(each, dtype=np.float32).reshape(-1) for each in observations])
        masks = np.zeros((self.spec.num_agents, self.spec.num_actions), dtype=np.bool_)
        # The public get_valid_actions lists all combinations, 6 to the power of n
        for row, player in zip(masks, self.env.players, strict=True):
            row[[action.value for action in self.env._valid_actions[player]]] = True
        return SingleView(rows, rows.reshape(-1), masks)


def make_lbf(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> SequentialTeams:
    """Make E copies of a task, as ``Foraging-8x8-2p-2f-coop-v3``.

    :param settings: Arguments of the environment, as ``sight`` or ``max_episode_steps``.
    :raises ValueError: naming the nearest task, if it is unknown.
    """
    foraging = import_extra("lbforaging.foraging", "lbf").ForagingEnv
    tasks = [name for name in gym.registry if name.startswith("Foraging")]
    if task not in tasks:
        raise unknown_choice("LBF task", task, tasks, summary=NAMES)
    check_credit(f"lbf/{task}", credit, {"env"})
    check_settings(f"lbf/{task}", foraging.__init__, settings, given=1)
    return SequentialTeams(lambda _: LbfTeam(foraging(**{**gym.spec(task).kwargs, **settings})), num_envs, credit=credit)
