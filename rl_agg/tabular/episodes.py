"""Episodes of agents that act on a table of action values. Axes: B episodes, k of them active, C cells, U actions, T steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rl_agg.population.environments import Environments, most_steps
from rl_agg.population.spaces import check_first_action
from rl_agg.validation import check_number

LAST = 128
"""Added to the action of a transition that terminated the episode."""

TRANSITION = np.dtype([("cell", "<u2"), ("action", "u1"), ("reward", "<f4"), ("next_cell", "<u2")])
"""A sample in a message: 9 bytes."""

STEPS_AT_ONCE = 32
"""Number of steps for which random numbers are drawn at once."""

Floats = NDArray[np.float64]

Choose = Callable[[Floats, Floats, Floats], NDArray[np.int64]]
"""Chooses actions ``[k]`` from the table's rows ``[k, U]``, numbers drawn for them ``[k, 2]`` and shares of random ones
``[k]``."""


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Finished episodes.

    :param transitions: One array of :data:`TRANSITION` for each, ``[T]``.
    :param returns: Undiscounted ``[B]``.
    :param discounted: Discounted returns ``[B]``.
    """

    transitions: list[NDArray[np.void]]
    returns: Floats
    discounted: Floats

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Steps ``[B]``."""
        return np.array([len(rows) for rows in self.transitions], dtype=np.int64)


def choose_actions(values: Floats, draws: Floats, epsilons: Floats) -> NDArray[np.int64]:
    """Draw a random action with probability epsilon, otherwise one of the best.

    :param values: ``[k, U]``.
    :param draws: Uniform on [0, 1) ``[k, 2]``: whether to draw any action, and which of the candidates.
    :param epsilons: ``[k]``.
    :return: ``[k]``.
    """
    candidates = values == values.max(axis=1, keepdims=True)  # [k, U]
    candidates[draws[:, 0] < epsilons] = True
    chosen = np.floor(draws[:, 1] * candidates.sum(axis=1))
    actions: NDArray[np.int64] = (candidates.cumsum(axis=1) > chosen[:, None]).argmax(axis=1)
    return actions


def sample_actions(probabilities: Floats, draws: Floats, epsilons: Floats) -> NDArray[np.int64]:
    """Draw each action with its probability.

    :param probabilities: ``[k, U]``.
    :param draws: Uniform on [0, 1) ``[k, 2]``, of which the second is used.
    :param epsilons: Not used.
    :return: ``[k]``.
    """
    cumulative = probabilities.cumsum(axis=1)
    actions: NDArray[np.int64] = (cumulative > draws[:, 1:] * cumulative[:, -1:]).argmax(axis=1)
    return actions


class TabularEpisodes:
    """Runs episodes in batches, greedily except for a share of random actions; equally good actions are equally likely.

    :param environments: Copies of one environment; its spaces must be Discrete.
    :param gamma: Discount in [0, 1].
    :param max_episode_steps: Ends episodes after so many steps; ``None``: only the environment's own limit does.
    :raises ValueError: if a space is not Discrete or too large, actions do not begin at 0, or nothing limits an episode.
    """

    def __init__(self, environments: Environments, *, gamma: float, max_episode_steps: int | None = None) -> None:
        observations, actions = environments.observation_space, environments.action_space
        if not isinstance(observations, gym.spaces.Discrete):
            raise ValueError(f"a table needs Discrete observations, got {observations}")
        if not isinstance(actions, gym.spaces.Discrete):
            raise ValueError(f"a table needs Discrete actions, got {actions}")
        check_first_action(actions)
        self.shape = (int(observations.n), int(actions.n))
        """C and U."""
        if self.shape[0] > 2**16 or self.shape[1] > LAST:
            raise ValueError(f"at most {2**16} observations and {LAST} actions fit, got {observations.n} and {actions.n}")
        check_number("gamma", gamma, least=0, most=1)
        self.environments = environments
        self.gamma = gamma
        self.max_steps = most_steps(environments, max_episode_steps)
        self._start = int(observations.start)

    def __call__(
        self,
        table: Floats,
        seeds: NDArray[np.int64],
        samplers: Sequence[np.random.Generator],
        epsilons: Floats,
        choose: Choose = choose_actions,
    ) -> Trajectories:
        """Run an episode with each sampler.

        :param table: Action values ``[C, U]``, or what else actions are chosen by.
        :param seeds: Of the environments ``[B]``.
        :param samplers: What actions are drawn with ``[B]``.
        :param epsilons: Share of random actions ``[B]``.
        :param choose: How.
        """
        size = len(seeds)
        returns, discounted = np.zeros(size), np.zeros(size)
        active, discount = np.arange(size), 1.0
        cells = np.asarray(self.environments.reset(seeds)) - self._start
        owners, steps = [], []
        draws = np.empty((size, 0, 2))
        for step in range(self.max_steps):
            if step % STEPS_AT_ONCE == 0:
                draws = np.stack([sampler.random((STEPS_AT_ONCE, 2)) for sampler in samplers])
            actions = choose(table[cells], draws[active, step % STEPS_AT_ONCE], epsilons[active])
            observed, rewards, terminated, truncated = self.environments.step(active, actions)
            rows = np.empty(len(active), dtype=TRANSITION)
            rows["cell"], rows["action"], rows["reward"] = cells, actions + LAST * terminated, rewards
            cells = np.asarray(observed) - self._start
            rows["next_cell"] = cells
            owners.append(active)
            steps.append(rows)
            returns[active] += rewards
            discounted[active] += discount * rewards
            discount *= self.gamma
            stay = ~(terminated | truncated)
            active, cells = active[stay], cells[stay]
            if not active.size:
                break
        owner = np.concatenate(owners)
        order = np.argsort(owner, kind="stable")
        ends = np.searchsorted(owner[order], np.arange(1, size))
        return Trajectories(np.split(np.concatenate(steps)[order], ends), returns, discounted)


def unpacked(rows: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, NDArray[np.int64], Floats]:
    """Cells, actions, rewards, next cells, and 1 where the episode continues, 0 where it terminated; each ``[T]``."""
    actions = rows["action"].astype(np.int64)
    continues = (actions < LAST).astype(np.float64)
    cells, next_cells = rows["cell"].astype(np.int64), rows["next_cell"].astype(np.int64)
    return cells, actions % LAST, rows["reward"].astype(np.float64), next_cells, continues
