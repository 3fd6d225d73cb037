"""The report's grid worlds: 5x5, from the upper left to the lower right, with the actions left, right, up, down and stay.

Source: Gunn (2023), sections 3.3.2 and 4.6. Not given there, and chosen here: the map of the Frozen Lake and whether it is
slippery, and the time limits.
"""

from collections.abc import Iterator

from rl_agg.envs.grid_world import MOVES, GridWorld

OPEN_GRID = ("SFFFF", "FFFFF", "FFFFF", "FFFFF", "FFFFG")
LAKE = ("SFFFF", "FHFHF", "FFFHF", "HFFFF", "FFHFG")

MAX_EPISODE_STEPS = 100
"""That of Gymnasium's 4x4 Frozen Lake. At a discount of 0.9 later steps have no effect."""

ENTRY_POINTS = {f"rl_agg/{name}-v0": f"{__name__}:{name}" for name in ("SimpleGrid", "WindyGrid", "FrozenLake5x5")}
"""By Gymnasium's ids."""


class SimpleGrid(GridWorld):
    """Reward -1 for every step except the one into the goal, with 0; the best policy takes 8 steps."""

    def __init__(self, *, render_mode: str | None = None) -> None:
        super().__init__(OPEN_GRID, render_mode=render_mode)

    def reward(self, cell: int) -> float:
        """0 for the goal, -1 for the rest."""
        return 0.0 if self.kind(cell) == "G" else -1.0


class WindyGrid(SimpleGrid):
    """As :class:`SimpleGrid`, with wind: each step pushes one cell up, and independently one cell left, with one probability.

    :param wind: That probability, in [0, 1].
    :raises ValueError: if it is not in [0, 1].
    """

    def __init__(self, *, wind: float = 0.3, render_mode: str | None = None) -> None:
        if not 0 <= wind <= 1:
            raise ValueError(f"wind must be in [0, 1], got {wind}")
        self._wind = wind
        super().__init__(render_mode=render_mode)

    def displacements(self, action: int) -> Iterator[tuple[float, tuple[int, int]]]:
        """The move and the wind together."""
        down, right = list(MOVES.values())[action]
        for up, vertical in ((0, 1 - self._wind), (1, self._wind)):
            for left, horizontal in ((0, 1 - self._wind), (1, self._wind)):
                yield vertical * horizontal, (down - up, right - left)


class FrozenLake5x5(GridWorld):
    """Reward 1 for reaching the goal, else 0; holes end the episode.

    :param is_slippery: As in Gymnasium's Frozen Lake: a move slips to either side with probability 1/3 each, staying does not.
    """

    def __init__(self, *, is_slippery: bool = True, render_mode: str | None = None) -> None:
        self._is_slippery = is_slippery
        super().__init__(LAKE, render_mode=render_mode)

    def displacements(self, action: int) -> Iterator[tuple[float, tuple[int, int]]]:
        """The move, or one of the two at right angles to it."""
        down, right = list(MOVES.values())[action]
        if not self._is_slippery or (down, right) == (0, 0):
            yield 1.0, (down, right)
            return
        for change in ((down, right), (right, down), (-right, -down)):
            yield 1 / 3, change

    def reward(self, cell: int) -> float:
        """1 for the goal."""
        return float(self.kind(cell) == "G")
