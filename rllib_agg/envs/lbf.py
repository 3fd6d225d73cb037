"""Level-based foraging: agents with levels lift food together, and each is rewarded for its part.

Axes: n agents, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_settings
from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.listed import ListedTeams, Outcome, Seen
from rllib_agg.envs.team.packages import import_extra
from rllib_agg.envs.team.team import TeamSpec


class LbfTeam:
    """One copy. The team's reward is the sum of its agents'; it has won when no food is left.

    :param env: Of ``lbforaging``.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
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
        )

    def reset(self, seed: int) -> Seen:
        """Begin an episode."""
        for player in self._env.players:
            player.position = None  # else nobody begins where another one stood last, and the seed is not all that counts
        observations, _ = self._env.reset(seed=seed)
        return self._look(observations)

    def step(self, actions: Sequence[int]) -> Outcome:
        """Step on. The environment calls its time limit an end too: it is one only if all food is eaten."""
        observations, rewards, over, _, _ = self._env.step(list(actions))
        eaten = not self._env.field.any()
        earned = np.asarray(rewards, dtype=np.float32)
        return Outcome(
            self._look(observations), float(earned.sum()), earned, over and eaten, over and not eaten, won=over and eaten
        )

    def render(self) -> NDArray[np.uint8]:
        """Draw it ``[height, width, 3]``, also where there is no display."""
        if sys.platform == "linux" and not os.environ.get("DISPLAY"):
            import_extra("pyglet", "lbf").options["headless"] = True  # before the first window: by EGL
        picture: NDArray[np.uint8] = self._env.render(mode="rgb_array")
        return picture.copy()  # it is the window's memory

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _look(self, observations: Sequence[Any]) -> Seen:
        rows = np.stack([np.asarray(seen, dtype=np.float32).reshape(-1) for seen in observations])
        masks = np.zeros((self.spec.num_agents, self.spec.num_actions), dtype=np.bool_)
        # Its public get_valid_actions lists all combinations, 6 to the n.
        for row, player in zip(masks, self._env.players, strict=True):
            row[[action.value for action in self._env._valid_actions[player]]] = True
        return Seen(rows, rows.reshape(-1), masks)


def make_lbf(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> ListedTeams:
    """Make E copies of a task, as ``Foraging-8x8-2p-2f-coop-v3``.

    :param settings: Arguments of the environment, as ``sight`` or ``max_episode_steps``.
    :raises ValueError: naming the nearest task, for there are almost two thousand.
    """
    foraging = import_extra("lbforaging.foraging", "lbf").ForagingEnv
    tasks = [name for name in gym.registry if name.startswith("Foraging")]
    if task not in tasks:
        near = difflib.get_close_matches(task, tasks, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"unknown LBF task {task!r}{hint} They are called Foraging[-2s]-SxS-Pp-Ff[-coop]-v3: a field of S from 5 to 19, "
            "P from 2 to 9 agents, F from 1 to 4 pieces of food, 2s if agents see only 2 cells far, coop if all must lift"
        )
    check_credit(f"lbf/{task}", credit, {"env"})
    check_settings(f"lbf/{task}", foraging.__init__, settings, given=1)
    return ListedTeams(lambda _: LbfTeam(foraging(**{**gym.spec(task).kwargs, **settings})), num_envs, credit=credit)
