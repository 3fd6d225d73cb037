"""Teams that play a whole episode each, in batches.

Axes: E episodes at once, T time, n agents, a actions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl_agg.seeding import LARGEST_EPISODE_SEED, stream
from rllib_agg.envs.team.interface import Bools, CompilableTeamEnv, Floats, TeamEnv, TeamView
from rllib_agg.qmix.episodes import LARGEST_HALF, Outcome, TeamEpisodes, check_masks, pack, too_long
from rllib_agg.qmix.networks import AgentNetworks


@dataclass(frozen=True, slots=True)
class TeamBroadcast:
    """What the server sends for a round.

    :param run: What all random numbers come from.
    :param round: Counted from 0.
    :param epsilon: The share of random actions.
    :param weights: The agents' networks' parameters by name.
    """

    run: int
    round: int
    epsilon: float
    weights: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Played:
    """A group's episodes, with statistics.

    :param episodes: Those that are finite and complete.
    :param credits: What each agent earned in them, by the credit of the environment, ``[k, n]``.
    :param returns: Undiscounted ``[k]``.
    :param won: ``[k]``; ``None`` where the environment has no wins.
    :param num_steps: Of all episodes.
    :param num_lost: Episodes that broke down, or had rewards, observations or states that are not finite.
    """

    episodes: TeamEpisodes
    credits: NDArray[np.float64]
    returns: NDArray[np.float64]
    won: Bools | None
    num_steps: int
    num_lost: int


@dataclass(frozen=True, slots=True)
class TeamReport:
    """The episodes of some groups in a round; ``agents`` are the groups' numbers, ascending."""

    agents: NDArray[np.int64]
    played: tuple[Played, ...]


def join_team_reports(reports: Sequence[TeamReport]) -> TeamReport:
    """Put reports together in the order of the groups. Of groups that come twice, the first counts."""
    found: dict[int, Played] = {}
    for report in reports:
        for group, played in zip(report.agents.tolist(), report.played, strict=True):
            found.setdefault(group, played)
    return TeamReport(np.array(sorted(found), dtype=np.int64), tuple(found[group] for group in sorted(found)))


class TeamPlayers:
    """Plays by the agents' networks.

    Episodes of a group are always one batch, with the group's own random numbers, so that they do not depend on the process
    that plays them.

    :param env: E copies of the environment.
    :param networks: The agents'; their parameters are overwritten by every broadcast.
    :param dtype: What observations and states are reported in.
    :param threads: How many threads torch may use.
    """

    def __init__(self, env: TeamEnv, networks: AgentNetworks, *, dtype: np.dtype[Any], threads: int = 1) -> None:
        self.env, self.networks, self.dtype, self.threads = env, networks, dtype, threads

    def run(self, broadcast: TeamBroadcast, agents: NDArray[np.int64]) -> TeamReport:
        """Play the groups of these numbers."""
        self.networks.load_state_dict({name: torch.from_numpy(value) for name, value in broadcast.weights.items()})
        streams = [stream("actions", broadcast.run, broadcast.round, group) for group in agents.tolist()]
        return TeamReport(agents, tuple(self.play_groups(self.networks, broadcast.epsilon, streams)))

    def play(self, networks: AgentNetworks, epsilon: float, generator: np.random.Generator) -> Played:
        """Play one group."""
        return self.play_groups(networks, epsilon, [generator])[0]

    def play_groups(self, networks: AgentNetworks, epsilon: float, generators: Sequence[np.random.Generator]) -> list[Played]:
        """Play groups of E episodes.

        :param networks: To act by.
        :param epsilon: The share of random actions, drawn for each agent independently.
        :param generators: Of each group, for the environments' seeds and the random actions.
        :raises RuntimeError: if an episode exceeds the environment's limit.
        :raises ValueError: if an agent has no legal action.
        """
        seeds = [generator.integers(LARGEST_EPISODE_SEED, size=self.env.num_envs) for generator in generators]
        env = self.env
        if isinstance(env, CompilableTeamEnv) and networks.is_plain and (world := env.pure_world()) is not None:
            from rllib_agg.qmix.compiled_play import GROUPS, play_compiled

            several = [slice(first, first + GROUPS) for first in range(0, len(seeds), GROUPS)]
            batches = (play_compiled(env, world, networks, epsilon, generators[some], seeds[some]) for some in several)
            return [self._keep_finite(*outcome) for batch in batches for outcome in batch]
        with torch_threads(self.threads), torch.no_grad():
            groups = zip(generators, seeds, strict=True)
            return [self._keep_finite(*self._step_through(networks, epsilon, *group)) for group in groups]

    def _step_through(
        self, networks: AgentNetworks, epsilon: float, generator: np.random.Generator, seeds: NDArray[np.int64]
    ) -> Outcome:
        """Play an episode in each copy, step by step."""
        spec, count = self.env.spec, self.env.num_envs
        record = TeamEpisodes.zeros(count, spec.max_episode_steps, spec, np.dtype(np.float32))
        credits = np.zeros((count, spec.num_agents))
        active = np.ones(count, np.bool_)
        won, lost = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        view = self.env.reset(active.copy(), seeds)
        hidden, last = networks.start(count), np.full((count, spec.num_agents), -1)
        for step in range(spec.max_episode_steps):
            store(record, step, view)
            check_masks(view.masks[active])
            # Also on random steps: hidden states depend on all observations and actions, however chosen.
            inputs = networks.arrange(torch.from_numpy(record.observations[:, step, None]), torch.from_numpy(last[:, None]))
            values, hidden = networks(inputs, hidden)
            last = choose_actions(values[:, 0].numpy(), view.masks, epsilon, generator)
            outcome = self.env.step(last)
            view = outcome.view
            record.actions[:, step] = last
            record.rewards[active, step] = outcome.rewards[active]
            shares = outcome.rewards[:, None] if outcome.agent_rewards is None else outcome.agent_rewards
            credits[active] += shares[active]
            broken = active & (False if outcome.lost is None else outcome.lost)
            over = active & (outcome.terminated | outcome.truncated | broken)
            record.lengths[over] = step + 1
            record.terminated[over] = outcome.terminated[over]
            won[over] = False if outcome.won is None else outcome.won[over]
            lost |= broken
            active &= ~over
            if not active.any():
                break
        if active.any():
            raise too_long(spec)
        steps = int(record.lengths.max())
        store(record, steps, view)
        return record.take(np.arange(count), steps), credits, won, lost

    def _keep_finite(self, record: TeamEpisodes, credits: NDArray[np.float64], won: Bools, lost: Bools) -> Played:
        steps = record.actions.shape[1]
        after = np.arange(steps + 1) > record.lengths[:, None]
        for array in (record.observations, record.states, record.masks):
            array[after] = 0
        record.actions[after[:, 1:]] = 0
        finite = [np.isfinite(array).reshape(len(record), -1).all(1) for array in (*record.arrays().values(), credits)]
        valid = np.flatnonzero(~lost & np.logical_and.reduce(finite))
        kept = record.take(valid, steps)
        if self.dtype == np.float16:
            for name, array in (("observation", kept.observations), ("state", kept.states)):
                if np.abs(array).max(initial=0) > LARGEST_HALF:
                    raise ValueError(f"an {name} of {np.abs(array).max():g} does not fit into float16; set dtype='float32'")
        return Played(
            episodes=dataclasses.replace(
                kept,
                observations=kept.observations.astype(self.dtype, copy=False),
                states=kept.states.astype(self.dtype, copy=False),
            ),
            credits=credits[valid],
            returns=kept.rewards.sum(1, dtype=np.float64),
            won=won[valid] if self.env.spec.has_wins else None,
            num_steps=int(record.lengths.sum()),
            num_lost=len(record) - len(valid),
        )

    def close(self) -> None:
        """Close the environments."""
        self.env.close()


def store(record: TeamEpisodes, step: int, view: TeamView) -> None:
    """Write what a team observes before a step."""
    record.observations[:, step], record.states[:, step] = view.observations, view.states
    record.masks[:, step] = pack(view.masks)


def choose_actions(values: Floats, masks: Bools, epsilon: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """Take the best legal action or, with probability epsilon, independently for each agent, a random one.

    :param values: ``[E, n, a]``.
    :param masks: Legal actions ``[E, n, a]``.
    :param epsilon: In [0, 1].
    :return: ``[E, n]``.
    """
    best: NDArray[np.int64] = np.where(masks, values, -np.inf).argmax(-1)
    if epsilon == 0:
        return best
    chances = generator.random((2, *best.shape))
    ranks = np.floor(chances[1] * masks.sum(-1)).astype(np.int64)
    drawn = (masks.cumsum(-1) > ranks[..., None]).argmax(-1)
    return np.where(chances[0] < epsilon, drawn, best)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Temporarily set the number of torch's threads: small products lose more by synchronising than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
