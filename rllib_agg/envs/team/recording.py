"""Pictures of one episode of a team. Axes: E environments, n agents, a actions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.interface import TeamEnv, TeamSpec, TeamView

Policy = Callable[[TeamView], NDArray[np.int64]]
"""From the view, legal actions ``[E, n]``. It may have a state, as a recurrent network, and plays one episode only."""

PolicyMaker = Callable[[TeamSpec, int], Policy]
"""From a team's spec and a seed, the policy of one episode."""


@dataclass(frozen=True)
class Recording:
    """One episode of the first copy.

    :param pictures: ``[height, width, 3]`` each.
    :param pictures_per_step: Their mean number per step of the environment.
    :param num_steps: Length of the episode.
    :param team_return: The sum of the team's rewards.
    :param won: Whether it was won; ``None`` where the environment has no wins.
    """

    pictures: list[NDArray[np.uint8]]
    pictures_per_step: float
    num_steps: int
    team_return: float
    won: bool | None


def random_policy(spec: TeamSpec, seed: int) -> Policy:
    """Make a policy that draws uniformly from the legal actions."""
    generator = np.random.default_rng(seed)

    def act(view: TeamView) -> NDArray[np.int64]:
        chances = generator.random(view.masks.shape)
        actions: NDArray[np.int64] = np.where(view.masks, chances, -1.0).argmax(axis=2)
        return actions

    return act


def record_episode(env: TeamEnv, policy: Policy, *, seed: int = 0) -> Recording:
    """Play one episode in the first copy and draw it.

    :param env: One with a method ``render``, drawn once a step, or with ``film`` and ``frames``, drawn afterwards.
    :raises ValueError: if it has neither.
    """
    drawer: Any = env
    films = hasattr(drawer, "film")
    if not films and not hasattr(drawer, "render"):
        raise ValueError("this environment cannot be drawn: it has neither render nor film")
    if films:
        drawer.film()
    view = env.reset(np.ones(env.num_envs, dtype=np.bool_), seed + np.arange(env.num_envs))
    pictures = [] if films else [drawer.render()]
    total, num_steps, over, won = 0.0, 0, False, None
    while not over:
        step = env.step(policy(view))
        view, total, num_steps = step.view, total + float(step.rewards[0]), num_steps + 1
        over = bool(step.terminated[0] | step.truncated[0])
        won = None if step.won is None else bool(step.won[0])
        if not films:
            pictures.append(drawer.render())
    if films:
        pictures = list(drawer.frames())
    return Recording(pictures, len(pictures) / num_steps, num_steps, total, won)


def save_gif(pictures: Iterable[NDArray[np.uint8]], path: Path, *, pictures_per_second: float) -> None:
    """Write pictures as a GIF that repeats."""
    from PIL import Image

    first, *rest = (Image.fromarray(picture) for picture in pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / pictures_per_second), loop=0)
