"""Teams that play a whole episode each, side by side.

Axes: E episodes at once, T time, n agents, a actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl_agg.seeding import LARGEST_EPISODE_SEED, stream
from rllib_agg.envs.team.team import Bools, Floats, TeamEnv
from rllib_agg.qmix.episodes import LARGEST_HALF, TeamEpisodes, pack
from rllib_agg.qmix.networks import AgentNetworks


@dataclass(frozen=True, slots=True)
class TeamOrder:
    """What the centre tells those who play.

    :param run: Whose streams of random numbers they draw from.
    :param round: Which round this is.
    :param epsilon: The share of random actions.
    :param weights: The agents' networks' parameters by name.
    """

    run: int
    round: int
    epsilon: float
    weights: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Played:
    """A group's episodes, and beside them what was seen of them.

    :param episodes: Those that are sound.
    :param credits: What each agent earned in them, by the credit that was asked for, ``[k, n]``.
    :param returns: Undiscounted ``[k]``.
    :param won: ``[k]``; ``None`` where nobody can tell.
    :param num_steps: Of all episodes.
    :param num_lost: Episodes that broke down, or had rewards, observations or states that are no finite numbers.
    """

    episodes: TeamEpisodes
    credits: NDArray[np.float64]
    returns: NDArray[np.float64]
    won: Bools | None
    num_steps: int
    num_lost: int


@dataclass(frozen=True, slots=True)
class TeamReport:
    """What comes back of a round.

    :param agents: Which groups played, ascending.
    :param played: What each did.
    """

    agents: NDArray[np.int64]
    played: tuple[Played, ...]


def merge(reports: Sequence[TeamReport]) -> TeamReport:
    """Put reports together, in the groups' order, whoever played them. Groups that come twice count once."""
    found: dict[int, Played] = {}
    for report in reports:
        for group, played in zip(report.agents.tolist(), report.played, strict=True):
            found.setdefault(group, played)
    return TeamReport(np.array(sorted(found), dtype=np.int64), tuple(found[group] for group in sorted(found)))


class TeamPlayers:
    """Plays by the agents' networks.

    Episodes of a group are always played side by side, by random numbers of the group's own: who plays which group, and where,
    changes nothing.

    :param env: E copies of the environment.
    :param networks: The agents'; their parameters are overwritten by every order.
    :param dtype: What observations and states are reported in.
    :param threads: How many threads torch may use.
    """

    def __init__(self, env: TeamEnv, networks: AgentNetworks, *, dtype: np.dtype[Any], threads: int = 1) -> None:
        self.env, self.networks, self.dtype, self.threads = env, networks, dtype, threads

    def run(self, order: TeamOrder, agents: NDArray[np.int64]) -> TeamReport:
        """Play some groups.

        :param agents: Which.
        """
        self.networks.load_state_dict({name: torch.from_numpy(value) for name, value in order.weights.items()})
        streams = [stream("actions", order.run, order.round, group) for group in agents.tolist()]
        return TeamReport(agents, tuple(self.play(self.networks, order.epsilon, generator) for generator in streams))

    def play(self, networks: AgentNetworks, epsilon: float, generator: np.random.Generator) -> Played:
        """Play an episode in each copy.

        :param networks: To act by.
        :param epsilon: The share of random actions, drawn for each agent by itself.
        :param generator: For the environments' seeds and the random actions.
        :raises RuntimeError: if an episode goes on beyond the environment's limit.
        :raises ValueError: if an agent has no legal action.
        """
        spec, count = self.env.spec, self.env.num_envs
        record = TeamEpisodes.zeros(count, spec.max_episode_steps, spec, np.dtype(np.float32))
        credits = np.zeros((count, spec.num_agents))
        alive, won, lost = np.ones(count, np.bool_), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        with one_pool(self.threads), torch.no_grad():
            view = self.env.reset(alive.copy(), generator.integers(LARGEST_EPISODE_SEED, size=count))
            hidden, last = networks.start(count), np.full((count, spec.num_agents), -1)
            for step in range(spec.max_episode_steps):
                record.observations[:, step], record.states[:, step] = view.observations, view.states
                record.masks[:, step] = pack(view.masks)
                check_masks(view.masks[alive])
                # Advanced on random steps too: what an agent remembers is what it saw and did, however it chose.
                inputs = networks.arrange(
                    torch.from_numpy(record.observations[:, step, None]), torch.from_numpy(last[:, None])
                )
                values, hidden = networks(inputs, hidden)
                last = choose(values[:, 0].numpy(), view.masks, epsilon, generator)
                outcome = self.env.step(last)
                view = outcome.view
                record.actions[:, step] = last
                record.rewards[alive, step] = outcome.rewards[alive]
                shares = outcome.rewards[:, None] if outcome.agent_rewards is None else outcome.agent_rewards
                credits[alive] += shares[alive]
                broken = alive & outcome.lost if outcome.lost is not None else np.zeros_like(alive)
                over = alive & (outcome.terminated | outcome.truncated | broken)
                record.lengths[over] = step + 1
                record.terminated[over] = outcome.terminated[over]
                won[over] = outcome.won[over] if outcome.won is not None else False
                lost |= broken
                alive = alive & ~over
                if not alive.any():
                    break
        if alive.any():
            raise RuntimeError(f"an episode went on for more than max_episode_steps={spec.max_episode_steps} steps")
        steps = int(record.lengths.max())
        record.observations[:, steps], record.states[:, steps] = view.observations, view.states
        record.masks[:, steps] = pack(view.masks)
        return self._sound(record.take(np.arange(count), steps), credits, won, lost)

    def _sound(self, record: TeamEpisodes, credits: NDArray[np.float64], won: Bools, lost: Bools) -> Played:
        steps = record.actions.shape[1]
        after = np.arange(steps + 1) > record.lengths[:, None]
        for array in (record.observations, record.states, record.masks):
            array[after] = 0
        record.actions[after[:, 1:]] = 0
        finite = [np.isfinite(array).reshape(len(record), -1).all(1) for array in (*record.arrays().values(), credits)]
        sound = np.flatnonzero(~lost & np.logical_and.reduce(finite))
        kept = record.take(sound, steps)
        if self.dtype == np.float16:
            for name, array in (("observation", kept.observations), ("state", kept.states)):
                if np.abs(array).max(initial=0) > LARGEST_HALF:
                    raise ValueError(f"an {name} of {np.abs(array).max():g} does not fit into float16; set dtype='float32'")
        halved = {
            "observations": kept.observations.astype(self.dtype, copy=False),
            "states": kept.states.astype(self.dtype, copy=False),
        }
        return Played(
            episodes=TeamEpisodes(**{**kept.arrays(), **halved}),
            credits=credits[sound],
            returns=kept.rewards.sum(1, dtype=np.float64),
            won=won[sound] if self.env.spec.has_wins else None,
            num_steps=int(record.lengths.sum()),
            num_lost=len(record) - len(sound),
        )

    def close(self) -> None:
        """Close the environments."""
        self.env.close()


def check_masks(masks: Bools) -> None:
    """Refuse masks ``[E, n, a]`` that leave an agent nothing to do."""
    idle = np.argwhere(~masks.any(-1))
    if len(idle):
        raise ValueError(f"agent {idle[0, 1]} has no legal action; an environment must leave each agent at least one")


def choose(values: Floats, masks: Bools, epsilon: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """Take the best legal action, or, each agent for itself, any.

    :param values: ``[E, n, a]``.
    :param masks: Legal ones ``[E, n, a]``.
    :param epsilon: How often any.
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
def one_pool(threads: int) -> Iterator[None]:
    """Let torch use so many threads: products this small lose more by waiting for each other than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
