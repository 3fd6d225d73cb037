"""A maze that misleads: the way to the goal begins by going away from it. Places are rows and columns, as real numbers."""

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

MAZE = ("FFFFFFF", "FFFGFFF", "FWWWWWF", "FWFFFWF", "FWFFFWF", "FWFSFWF", "FFFFFFF")
"""``S`` start, ``F`` floor, ``W`` wall, ``G`` goal. The start is in a pocket that opens away from the goal."""

SPEED = 0.5
"""Side lengths of a cell in a step. Less than 1, so that no step leads through a wall."""

MAX_EPISODE_STEPS = 60
"""The way takes about 26."""

ENTRY_POINTS = {"rl_agg/DeceptiveMaze-v0": f"{__name__}:DeceptiveMaze"}
"""By Gymnasium's ids."""


class DeceptiveMaze(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Walk around a wall to the goal, which ends the episode; who would walk into a wall stays in that direction.

    Observations are the place ``[2]``, row and column scaled to [-1, 1]; actions are the change of both ``[2]``, in half
    cells. The reward of a step is minus the distance to the goal after it, as if there were no walls: who follows it stays at
    the end of the pocket for good, 1.5 away from the goal.

    :param render_mode: None but ``None``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(self, *, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self._size = len(MAZE)
        (self._start, self._goal) = (self._middle_of(letter) for letter in "SG")
        self._row, self._column = self._start

    def _middle_of(self, letter: str) -> tuple[float, float]:
        row, column = divmod("".join(MAZE).index(letter), self._size)
        return row + 0.5, column + 0.5

    def _kind(self, row: float, column: float) -> str:
        """The letter of the cell of a place, a wall's outside of the maze."""
        inside = 0 <= row < self._size and 0 <= column < self._size
        return MAZE[int(row)][int(column)] if inside else "W"

    def _observation(self) -> NDArray[np.float32]:
        half = self._size / 2
        return np.array([self._row / half - 1, self._column / half - 1], dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Go back to the start."""
        super().reset(seed=seed)
        self._row, self._column = self._start
        return self._observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move along the column, then along the row."""
        down, right = (SPEED * min(max(float(change), -1.0), 1.0) for change in action)
        if self._kind(self._row + down, self._column) != "W":
            self._row += down
        if self._kind(self._row, self._column + right) != "W":
            self._column += right
        distance = math.hypot(self._row - self._goal[0], self._column - self._goal[1])
        return self._observation(), -distance, self._kind(self._row, self._column) == "G", False, {}
