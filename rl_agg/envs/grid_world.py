"""A grid world with its model. Axes: H rows, W columns; cells are numbered row by row."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "stay": (0, 0)}
"""Actions in their order, as changes of row and column."""

PIXELS = 32
"""Side of a cell in an image."""

COLOURS = {"S": (214, 214, 214), "F": (240, 240, 240), "H": (40, 70, 110), "G": (90, 160, 90)}
AGENT_COLOUR = (200, 60, 50)

Outcome = tuple[float, int, float, bool]
"""Probability, next cell, reward, and whether the episode ends."""


class GridWorld(gym.Env[int, int]):
    """Walk from the start to the goal; walls at the edges.

    :param grid: One string per row: ``S`` start, ``F`` floor, ``H`` hole, ``G`` goal. Holes and goals end the episode.
    :param render_mode: ``None``, ``"ansi"`` or ``"rgb_array"``.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # type: ignore[misc]

    def __init__(self, grid: Sequence[str], *, render_mode: str | None = None) -> None:
        self.grid = tuple(grid)
        self.render_mode = render_mode
        height, width = len(grid), len(grid[0])
        self.observation_space = gym.spaces.Discrete(height * width)
        self.action_space = gym.spaces.Discrete(len(MOVES))
        self._shape = (height, width)
        self._start = "".join(grid).index("S")
        self._cell = self._start
        self.P: dict[int, dict[int, list[Outcome]]] = {
            cell: {action: self._outcomes(cell, action) for action in range(len(MOVES))} for cell in range(height * width)
        }
        """The model ``[cell][action]``, as in Gymnasium's Frozen Lake."""

    def displacements(self, action: int) -> Iterator[tuple[float, tuple[int, int]]]:
        """Possible moves of an action: probabilities with changes of row and column."""
        yield 1.0, list(MOVES.values())[action]

    def reward(self, cell: int) -> float:
        """The reward of entering a cell."""
        raise NotImplementedError

    def kind(self, cell: int) -> str:
        """A cell's letter."""
        row, column = divmod(cell, self._shape[1])
        return self.grid[row][column]

    def _outcomes(self, cell: int, action: int) -> list[Outcome]:
        if self.kind(cell) in "HG":
            return [(1.0, cell, 0.0, True)]
        row, column = divmod(cell, self._shape[1])
        chances: dict[int, float] = {}
        for probability, (down, right) in self.displacements(action):
            landed = min(max(row + down, 0), self._shape[0] - 1) * self._shape[1] + min(
                max(column + right, 0), self._shape[1] - 1
            )
            chances[landed] = chances.get(landed, 0.0) + probability
        return [(chance, landed, self.reward(landed), self.kind(landed) in "HG") for landed, chance in chances.items()]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Go back to the start."""
        super().reset(seed=seed)
        self._cell = self._start
        return self._cell, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Move."""
        outcomes = self.P[self._cell][int(action)]
        chosen = 0
        if len(outcomes) > 1:
            chances = np.cumsum([outcome[0] for outcome in outcomes])
            chosen = int(np.searchsorted(chances, self.np_random.random() * chances[-1], side="right"))
        _, self._cell, reward, terminated = outcomes[chosen]
        return self._cell, reward, terminated, False, {}

    def render(self) -> Any:
        """A picture ``[H * 32, W * 32, 3]``, or text with the agent in brackets."""
        if self.render_mode == "ansi":
            letters = ["".join(self.grid)[cell] for cell in range(self._shape[0] * self._shape[1])]
            letters = [f"[{letter}]" if cell == self._cell else f" {letter} " for cell, letter in enumerate(letters)]
            rows = ["".join(letters[row * self._shape[1] : (row + 1) * self._shape[1]]) for row in range(self._shape[0])]
            return "\n".join(rows) + "\n"
        if self.render_mode == "rgb_array":
            return self._picture()
        return None

    def _picture(self) -> NDArray[np.uint8]:
        cells = np.array([[COLOURS[letter] for letter in row] for row in self.grid], dtype=np.uint8)  # [H, W, 3]
        picture = cells.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)
        picture[::PIXELS] = picture[:, ::PIXELS] = 180
        row, column = (PIXELS * index + PIXELS // 4 for index in divmod(self._cell, self._shape[1]))
        picture[row : row + PIXELS // 2, column : column + PIXELS // 2] = AGENT_COLOUR
        return picture
