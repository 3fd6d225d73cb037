"""PettingZoo's parallel environments as a team."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rllib_agg.envs.team.by_agent import AgentSpaces, ByAgent, NamedTeam
from rllib_agg.envs.team.listed import Outcome, Seen


class ParallelTeam(NamedTeam):
    """One copy of a PettingZoo ``ParallelEnv``.

    :param env: The environment.
    :param max_episode_steps: T.
    :param state: As of :class:`~rllib_agg.envs.team.by_agent.NamedTeam`; ``None``: the environment's ``state()``, if it has
        one.
    :param settings: Further ones of it.
    """

    def __init__(
        self,
        env: Any,
        max_episode_steps: int,
        *,
        state: Callable[[Any, Mapping[Any, Any]], Any] | None = None,
        **settings: Any,
    ) -> None:
        spaces = AgentSpaces(
            {agent: env.observation_space(agent) for agent in env.possible_agents},
            {agent: env.action_space(agent) for agent in env.possible_agents},
        )
        observations, infos = env.reset(seed=0)
        if state is None and _has_state(env):
            state = _own_state
        super().__init__(env, spaces, max_episode_steps, ByAgent(observations, {}, infos), state=state, **settings)

    def reset(self, seed: int) -> Seen:
        """Begin an episode."""
        observations, infos = self.env.reset(seed=seed)
        return self.look(ByAgent(observations, {}, infos))

    def step(self, actions: Sequence[int]) -> Outcome:
        """Step on. It is over when all agents are gone, and was cut off if one of the last ones was."""
        observations, rewards, terminations, truncations, infos = self.env.step(self.chosen(actions))
        ended = {agent for agent in observations if terminations.get(agent) or truncations.get(agent)}
        over = not self.env.agents or ended >= observations.keys()
        cut = over and any(truncations.values())
        going = observations if over else {agent: seen for agent, seen in observations.items() if agent not in ended}
        return self.outcome(ByAgent(going, rewards, infos), terminated=over and not cut, truncated=cut)


def _own_state(env: Any, observations: Mapping[Any, Any]) -> Any:
    return env.state()


def _has_state(env: Any) -> bool:
    try:
        env.state()
    except (NotImplementedError, AttributeError):
        return False
    return True
