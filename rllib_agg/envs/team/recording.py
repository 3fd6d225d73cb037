"""Looking at a team: the pictures of one episode. Axes: E environments, n agents, a actions."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.team import TeamEnv, TeamSpec, TeamView

Policy = Callable[[TeamView], NDArray[np.int64]]
"""From what is seen, legal actions ``[E, n]``. What remembers, as a recurrent network, is made anew for each episode."""


class MakesPolicy(Protocol):
    """Makes what plays one episode."""

    def __call__(self, spec: TeamSpec, seed: int) -> Policy:
        """Make it.

        :param spec: The team's.
        :param seed: For what it draws.
        """


@dataclass(frozen=True)
class Watched:
    """One episode of the first copy.

    :param pictures: ``[height, width, 3]`` each.
    :param pictures_per_step: How many of them there are to a step of the environment, about.
    :param num_steps: Its length.
    :param team_return: The sum of the team's rewards.
    :param won: Whether it was won; ``None`` if nobody can tell.
    """

    pictures: list[NDArray[np.uint8]]
    pictures_per_step: float
    num_steps: int
    team_return: float
    won: bool | None


def random_policy(spec: TeamSpec, seed: int) -> Policy:
    """Make what takes any legal action, all with the same chance."""
    draws = np.random.default_rng(seed)

    def act(view: TeamView) -> NDArray[np.int64]:
        chances = draws.random(view.masks.shape)
        actions: NDArray[np.int64] = np.where(view.masks, chances, -1.0).argmax(axis=2)
        return actions

    return act


def find_policy(name: str) -> MakesPolicy:
    """Look up what a user wrote.

    :param name: ``random``, a folder that QMIX was saved to, or ``MODULE:FUNCTION``.
    :raises ValueError: if it is none of these.
    """
    if name == "random":
        return random_policy
    if Path(name).is_dir():
        from rllib_agg.qmix.recording import CheckpointPolicy

        return CheckpointPolicy(Path(name))
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"a policy is 'random', a folder that QMIX was saved to or MODULE:FUNCTION, got {name!r}")
    found: MakesPolicy = getattr(importlib.import_module(module), function)
    return found


def watch_episode(env: TeamEnv, policy: Policy, *, seed: int = 0) -> Watched:
    """Play one episode in the first copy and draw it.

    :param env: One with a method ``render``, drawn once a step, or with ``film`` and ``frames``, drawn afterwards.
    :raises ValueError: if it has neither.
    """
    drawer: Any = env
    films = hasattr(drawer, "film")
    if not films and not hasattr(drawer, "render"):
        raise ValueError("this environment cannot be drawn")
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
    return Watched(pictures, len(pictures) / num_steps, num_steps, total, won)


def save_gif(pictures: Iterable[NDArray[np.uint8]], path: Path, *, pictures_per_second: float) -> None:
    """Write pictures as a GIF that repeats."""
    from PIL import Image

    first, *rest = (Image.fromarray(picture) for picture in pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / pictures_per_second), loop=0)
