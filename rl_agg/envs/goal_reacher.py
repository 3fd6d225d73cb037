"""A point that has to reach one of many goals: a task for each agent, and one policy for all."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_count

ENTRY_POINTS = {"rl_agg/GoalReacher-v0": "rl_agg.envs.goal_reacher:GoalReacher"}
MAX_EPISODE_STEPS = 50
STEP, DAMPING, FORCE = 0.1, 0.9, 2.0


class GoalReacher(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    r"""A point begins near the middle of a plane, and is pushed to a goal on the unit circle.

    :math:`v \leftarrow 0.9 v + 0.1 \cdot 2 a, \quad p \leftarrow p + 0.1 v`, reward :math:`-\lVert p - \text{goal} \rVert`

    Observations hold position, velocity and goal ``[6]``, actions the force :math:`a \in [-1, 1]^2`. An episode has 50 steps.

    :param goal: Which of ``num_goals``, evenly spread over the circle, 0 at the right and then anticlockwise.
    :param num_goals: How many there are.
    :raises ValueError: if there is no such goal.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's

    def __init__(self, *, goal: int = 0, num_goals: int = 8, render_mode: str | None = None) -> None:
        check_count("num_goals", num_goals, least=1)
        check_count("goal", goal, least=0, most=num_goals - 1)
        angle = 2 * math.pi * goal / num_goals
        self.goal = np.array([math.cos(angle), math.sin(angle)])
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.render_mode = render_mode

    def _observed(self) -> NDArray[np.float32]:
        return np.concatenate([self._position, self._velocity, self.goal]).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin within 0.1 of the middle, at rest."""
        super().reset(seed=seed, options=options)
        self._position, self._velocity = self.np_random.uniform(-0.1, 0.1, 2), np.zeros(2)
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Push the point."""
        self._velocity = DAMPING * self._velocity + STEP * FORCE * np.clip(action, -1, 1)
        self._position = self._position + STEP * self._velocity
        return self._observed(), -float(np.linalg.norm(self._position - self.goal)), False, False, {}
