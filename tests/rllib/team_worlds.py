"""A small team environment whose episodes end, are cut off, break down and are won, as its seeds say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.credits import check_credit
from rllib_agg.envs.team.interface import Bools, TeamSpec, TeamStep, TeamView


class Corridor:
    """Agents walk: action 1 is a step, 2 a rest; 0 is all that is left to one who has arrived. An agent is paid for each step.

    An episode ends when all have arrived, which is a win, and is cut off after ``limit`` steps. The way is longer where the
    seed is odd. ``faults`` names what goes wrong: episodes with a seed divisible by 3 are ``lost`` or pay ``nan``,
    all of them pay it (``always nan``), the last agent is ``stuck``, or a reset ``raises``.
    """

    def __init__(
        self, num_envs: int, credit: str, *, agents: int = 3, limit: int = 6, faults: str = "", seen: float = 1.0
    ) -> None:
        types = tuple("leader" if agent == 0 else "follower" for agent in range(agents))
        self.spec = TeamSpec(agents, 3, 4, 2, limit, types, frozenset({"contribution", "env"}), has_wins=True)
        self.num_envs, self.credit, self.faults, self.seen = num_envs, credit, faults, seen
        self.places = np.zeros((num_envs, agents), np.int64)
        self.ways, self.time = np.full(num_envs, 2), np.zeros(num_envs, np.int64)
        self.seeds = np.zeros(num_envs, np.int64)
        self.actions: list[NDArray[np.int64]] = []
        self.closed = False

    def reset(self, which: Bools, seeds: NDArray[np.int64]) -> TeamView:
        if self.faults == "raises":
            raise OSError("no power")
        self.seeds[which] = seeds[which]
        self.places[which], self.time[which], self.ways[which] = 0, 0, 2 + seeds[which] % 2
        return self.view()

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        self.actions.append(actions.copy())
        moved = (actions == 1) & (self.places < self.ways[:, None])
        self.places += moved
        self.time += 1
        rewards = moved * np.arange(1, self.spec.num_agents + 1, dtype=np.float32)
        team = rewards.sum(1)
        done = (self.places >= self.ways[:, None]).all(1)
        faulty = self.seeds % 3 == 0
        if "nan" in self.faults:
            team[faulty | (self.faults == "always nan")] = np.nan
        return TeamStep(
            self.view(),
            team,
            None if self.credit == "team" else rewards,
            done,
            (self.time >= self.spec.max_episode_steps) & ~done,
            done.copy(),
            (faulty & (self.time == 2)) if self.faults == "lost" else None,
        )

    def close(self) -> None:
        self.closed = True

    def view(self) -> TeamView:
        arrived = self.places >= self.ways[:, None]
        masks = np.stack([arrived, ~arrived, ~arrived], axis=-1)
        if self.faults == "stuck":
            masks[:, -1] = False
        who = np.arange(self.spec.num_agents)
        seen = [
            self.places,
            self.ways[:, None] - self.places,
            np.broadcast_to(who, self.places.shape),
            self.places * 0 + self.seen,
        ]
        observations = np.stack(seen, axis=-1).astype(np.float32)
        states = np.stack([self.places.sum(1), self.time], axis=-1).astype(np.float32)
        return TeamView(observations, states, masks)


def make_corridor(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> Corridor:
    made = Corridor(num_envs, credit, **settings)
    check_credit("corridor", credit, made.spec.credits)
    return made
